"""With `busbar up`, one command adds or removes a person or a node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import forked
from tests.integration.cli.harness import Stack, alive, stack, until
from tests.pace import bound
from tests.plain import Plain

pytestmark = pytest.mark.timeout(120)

REVOKED_S = 4.0
"""Seconds: two until the broker disconnects it, and the agent's next attempt, which is refused."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("enrol")) as found:
        found.up("--agents", "1", "--port", "0", "--stop-workers")
        found.ready()
        yield found
        found.signal(signal.SIGINT)
        assert found.wait() == 0


def person(up: Stack, name: str, file: str) -> dict[str, str]:
    """The environment of a person with only a name and a password file."""
    return {
        "BUSBAR_STATE": str(up.folder / f"home-{name}"),
        "BUSBAR_BROKER": up.written()["broker"],
        "BUSBAR_REALM": up.realm,
        "BUSBAR_USERNAME": name,
        "BUSBAR_PASSWORD_FILE": file,
    }


@contextmanager
def agent(
    up: Stack, node: str, *more: str, token: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """An agent as on another machine: it knows only the broker and its standard input."""
    home = up.folder / f"machine-{node}"
    home.mkdir(exist_ok=True)
    log = home / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "busbar.cli.app", "agent", "--node", node, "--realm", up.realm, "--broker",
             up.written()["broker"], *more],
            stdin=subprocess.PIPE, stdout=output, stderr=output,
            env={**up.env, "BUSBAR_STATE": str(home)},
        )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(token.encode() + b"\n")
        process.stdin.close()
    try:
        yield process, log
    finally:
        process.terminate()
        try:
            process.wait(bound(10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(bound(5))


# --- people ------------------------------------------------------------------------------------------------


def test_a_person_is_added_and_removed_with_one_command_each(up: Stack) -> None:
    made = up.ask("principal", "add", "bob", "operator")
    assert made["role"] == "operator"
    file = Path(made["password_file"])
    assert file.stat().st_mode & 0o777 == 0o600
    bob = person(up, "bob", str(file))
    up.ok("cluster", "create", "bobs", **bob)
    up.ok("principal", "role", "bob", "viewer")
    assert "needs the role" in up.fails(5, "cluster", "create", "more", **bob)
    assert "needs the role" in up.fails(5, "principal", "add", "eve", "owner", **bob)
    assert "bobs" in up.ok("cluster", "list", **bob)
    kept = up.folder / "kept"
    kept.write_bytes(file.read_bytes())
    kept.chmod(0o600)
    up.ok("principal", "remove", "bob")
    assert not file.exists()
    assert "does not let user 'bob' in" in up.fails(5, "cluster", "list", **person(up, "bob", str(kept)))
    assert [row["name"] for row in up.ask("principal", "list")] == ["admin"]


def plain(up: Stack) -> Plain:
    """The administrator's own MQTT client, independent of the command line."""
    written = up.written()
    secret = Path(written["password_file"]).read_text().strip()
    return Plain(written["port"], written["username"], secret, up.realm)


def test_a_person_removed_by_a_plain_client_is_disconnected_and_the_old_password_stays_invalid(
    up: Stack,
) -> None:
    file = Path(up.ask("principal", "add", "dave", "viewer")["password_file"])
    dave = person(up, "dave", str(file))
    up.ok("cluster", "list", **dave)
    with plain(up) as admin:
        admin.ok("remove_principal", {"principal_name": "dave"})
        until(lambda: "dave" not in _accounts(up), "dave's account is gone")
    assert "does not let user 'dave' in" in up.fails(5, "cluster", "list", **dave)
    kept = up.folder / "daves"
    kept.write_bytes(file.read_bytes())
    kept.chmod(0o600)
    assert "removed" in up.fails(4, "principal", "add", "dave", "viewer")
    up.ok("principal", "add", "dave", "viewer", "--reuse")
    up.ok("cluster", "list", **dave)
    assert "does not let user 'dave' in" in up.fails(5, "cluster", "list", **person(up, "dave", str(kept)))
    up.ok("principal", "remove", "dave")


def _accounts(up: Stack) -> str:
    return (up.state / "broker" / "accounts.json").read_text()


def test_the_last_owner_cannot_be_removed(up: Stack) -> None:
    assert "last owner" in up.fails(5, "principal", "remove", "admin")
    assert "last owner" in up.fails(5, "principal", "role", "admin", "viewer")
    assert [(row["name"], row["role"]) for row in up.ask("principal", "list")] == [("admin", "owner")]
    up.ok("principal", "add", "second", "owner")
    up.ok("principal", "role", "second", "viewer")
    up.ok("principal", "remove", "second")


def test_no_command_changes_the_kind_of_an_account(up: Stack) -> None:
    assert "account of a manager" in up.fails(4, "principal", "add", "manager", "viewer")
    assert "account of a node" in up.fails(4, "principal", "add", "n1", "viewer")
    assert "account of a person" in up.fails(4, "node", "pair", "admin")
    assert up.ask("node", "show", "n1")["status"] == "online"


# --- nodes -------------------------------------------------------------------------------------------------


def test_a_node_joins_with_its_token_and_is_removed(up: Stack) -> None:
    made = up.ask("node", "pair", "n9")
    token, home = made["token"], up.folder / "machine-n9"
    assert made["status"] == "offline"
    with agent(up, "n9", "--join", "-", token=token) as (process, log):
        until(lambda: up.ask("node", "show", "n9")["status"] == "online", "n9 is online")
        secret = home / "secrets" / "n9"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert token not in secret.read_text()
        with agent(up, "n9", "--join", "-", token=token) as (second, again):
            assert second.wait(bound(20)) == 5
            assert "did not take the token" in again.read_text()
        up.ok("cluster", "create", "gone", "--type", "mqtt", "--port", "25100-25199")
        up.ok("cluster", "add-node", "gone", "n9")
        up.ok("group", "add", "gone/web")
        up.ok("cluster", "start", "gone", "--wait")
        worker = up.pids("gone")["web-1"]
        assert alive(worker)
        up.ok("node", "unpair", "n9", "--yes")
        until(lambda: "authori" in log.read_text().lower(), "the broker refuses n9", REVOKED_S)
        until(lambda: not alive(worker), "its worker is stopped: it was told before it was put out")
        assert process.poll() is None, "the agent goes on, disconnected"
        assert "n9" not in up.ok("node", "list", "-q").split()
    assert "does not let user 'n9' in" in up.fails(5, "cluster", "list", **person(up, "n9", str(secret)))
    up.ok("cluster", "delete", "gone", "--stop")


def test_a_node_unpaired_by_a_plain_client_stops_its_workers_and_is_disconnected(up: Stack) -> None:
    token = up.ask("node", "pair", "n5")["token"]
    with agent(up, "n5", "--join", "-", token=token) as (process, log), plain(up) as admin:
        until(lambda: up.ask("node", "show", "n5")["status"] == "online", "n5 is online")
        up.ok("cluster", "create", "left", "--type", "mqtt", "--port", "25200-25299")
        up.ok("cluster", "add-node", "left", "n5")
        up.ok("group", "add", "left/web")
        up.ok("cluster", "start", "left", "--wait")
        worker = up.pids("left")["web-1"]
        admin.ok("unpair_node", {"node_oid": up.ask("node", "show", "n5")["oid"]})
        until(lambda: "authori" in log.read_text().lower(), "the broker refuses n5")
        until(lambda: not alive(worker), "its worker is stopped: it was told before it was put out")
        assert process.poll() is None and '"n5"' not in _accounts(up)
    up.ok("cluster", "delete", "left", "--stop")


def test_an_offline_node_may_connect_once_more_to_stop_its_workers(up: Stack) -> None:
    token = up.ask("node", "pair", "n7")["token"]
    with agent(up, "n7", "--join", "-", token=token):
        until(lambda: up.ask("node", "show", "n7")["status"] == "online", "n7 is online")
    until(lambda: up.ask("node", "show", "n7")["status"] == "offline", "n7 said goodbye")
    said = up.run("node", "unpair", "n7", "--keep-account")
    assert said.returncode == 0 and "has not confirmed" in said.stderr
    with agent(up, "n7"):
        row = up.ask("node", "show", "n7")
        version = row["assignment_version"]
        until(lambda: up.ask("node", "show", "n7")["applied"]["version"] == version, "n7 has learned of it")
    up.ok("node", "unpair", "n7")
    assert '"n7"' not in _accounts(up)


def test_a_token_can_be_reissued_and_the_old_one_is_void(up: Stack) -> None:
    first = up.ask("node", "pair", "n8")["token"]
    second = up.ask("node", "token", "n8", "--valid", "600")["token"]
    home = up.folder / "machine-n8"
    env = {"BUSBAR_STATE": str(home), "BUSBAR_BROKER": up.written()["broker"], "BUSBAR_REALM": up.realm}
    file = up.folder / "token"
    file.write_text(first)
    assert "did not take the token" in up.fails(5, "node", "join", "n8", "--token", str(file), **env)
    assert list((home / "secrets").iterdir()) == []
    file.write_text(second)
    assert up.ok("node", "join", "n8", "--token", str(file), **env).strip() == str(home / "secrets" / "n8")
    assert "not a join token" in up.fails(2, "node", "join", "n8", "--token", os.devnull, **env)
    up.ok("node", "unpair", "n8")
    assert "not paired" in up.fails(3, "node", "token", "n8")


def test_the_secret_of_an_interrupted_exchange_is_used(up: Stack) -> None:
    """The broker accepted the token, but the node never got the reply: it retries with the stored secret."""
    token = up.ask("node", "pair", "n6")["token"]
    home = up.folder / "machine-n6"
    env = {"BUSBAR_STATE": str(home), "BUSBAR_BROKER": up.written()["broker"], "BUSBAR_REALM": up.realm}
    file = up.folder / "token6"
    file.write_text(token)
    up.ok("node", "join", "n6", "--token", str(file), **env)
    (home / "secrets" / "n6").rename(home / "secrets" / ".n6.joining")
    up.ok("node", "join", "n6", "--token", str(file), **env)
    assert (home / "secrets" / "n6").is_file()
    up.ok("node", "unpair", "n6")


@pytest.mark.fault(124, "U")
def test_a_join_file_is_all_that_a_node_needs(up: Stack, tmp_path: Path) -> None:
    """Nothing else is configured on its machine; the state folder keeps the access until a reset."""
    file, home = tmp_path / "n7.join", tmp_path / "home"
    up.ok("node", "pair", "n7", "--join-file", str(file))
    copy = file.read_bytes()
    env = {key: value for key, value in os.environ.items() if not key.startswith("BUSBAR_")}
    env |= {"HOME": str(home), "BUSBAR_STATE": str(home)}
    busbar = [sys.executable, "-m", "busbar.cli.app", "agent"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return forked.run("agent", *words, env=env, timeout=bound(30))

    joined = run("join", str(file), "--label", "site=sea")
    assert joined.returncode == 0 and not file.exists(), joined.stderr
    file.write_bytes(copy)
    assert run("join", str(file)).returncode == 0, "after an interruption it may be run again"
    process = subprocess.Popen([*busbar, "--node", "n7"], env=env, stderr=subprocess.DEVNULL)
    try:
        until(lambda: up.ask("node", "show", "n7")["status"] == "online", "n7 is online")
        assert up.ask("node", "show", "n7")["labels"] == {"site": "sea"}
    finally:
        process.terminate()
        process.wait(bound(20))
    file.write_bytes(copy.replace(b"n7", b"n8"))
    other = run("join", str(file), "--state", str(home / "agents" / "n7"))
    assert other.returncode == 4 and "has joined as node 'n7'" in other.stderr
    assert run("reset", "--node", "n7").returncode == 0
    assert "no broker configured" in run("--node", "n7").stderr, "a copy does not keep the access"
    file.write_bytes(copy)
    spent = run("join", str(file))
    assert spent.returncode == 5 and "token" in spent.stderr and file.exists()
    up.ok("node", "unpair", "n7")


def test_one_line_makes_a_node_and_may_be_run_again(up: Stack, tmp_path: Path) -> None:
    """On a machine where nothing of Busbar is configured; what was printed is what is typed."""
    (typed,) = [row for row in up.ok("node", "pair", "n4").splitlines() if row.startswith("busbar join ")]
    home = tmp_path / "home"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    env |= {"HOME": str(home)}
    busbar = [sys.executable, "-m", "busbar.cli.app"]
    folder = home / ".local" / "state" / "busbar" / "agents" / "n4"

    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return forked.run(*words, env=env, timeout=bound(30), given=text)

    words = [*typed.split()[1:], "--no-unit"]
    joined = run(*words, "--label", "site=sea")
    assert joined.returncode == 0 and joined.stderr == "", joined.stderr
    assert f"node 'n4' has joined realm '{up.realm}'" in joined.stdout
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    process = subprocess.Popen([*busbar, "agent", "--state", str(folder)], env=env, stderr=subprocess.DEVNULL)
    try:
        until(lambda: up.ask("node", "show", "n4")["status"] == "online", "n4 is online")
        assert up.ask("node", "show", "n4")["labels"] == {"site": "sea"}
        again = run("join", "-", "--no-unit", "-o", "json", text=words[1])
        assert again.returncode == 0 and '"changed": false' in again.stdout, "beside its agent"
    finally:
        process.terminate()
        process.wait(bound(20))
    used = run(*words, "--state", str(tmp_path / "a" / "b"))
    assert used.returncode == 5 and "used before" in used.stderr and not (tmp_path / "a").exists()
