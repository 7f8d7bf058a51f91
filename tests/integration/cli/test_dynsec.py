"""Nodes of a mosquitto with its dynamic security plugin: accounts are made and removed over the bus."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from busbar.bus.access.dynsec import roles_of
from busbar.bus.client.connect import connect
from busbar.bus.errors import BusError
from busbar.cli.services.join_token import from_word, to_word

from tests import forked
from tests.brokers import lacking, mosquitto
from tests.certificates import certificates
from tests.integration.cli.harness import until
from tests.pace import bound
from tests.stack import Stack

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(180)]
CONTROL = shutil.which("mosquitto_ctrl") or shutil.which("mosquitto_ctrl", path="/usr/bin:/usr/local/bin")


class Lab(Stack):
    """A manager on such a broker, by TLS, and two machines: alice's, and one that is to be a node."""

    def connection(self, user: str) -> list[str]:
        broker = ["--realm", "lab", "--broker", f"mqtts://127.0.0.1:{self.port}"]
        secret = str(self.folder / "secrets" / user)
        ca = str(self.folder / "ca.crt")
        return [*broker, "--tls-ca", ca, "--username", user, "--password-file", secret]

    def run(self, *words: str, home: str = "home", script: str = "") -> subprocess.CompletedProcess[str]:
        """`busbar`, or a script of Python in its place."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        env = {**clean, "HOME": str(self.folder / home)}
        if not script:
            return forked.run(*words, env=env, timeout=bound(60))
        command = [sys.executable, "-c", script, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=bound(60), input="")

    def ok(self, *words: str, user: str = "alice") -> str:
        done = self.run(*words, *self.connection(user))
        assert done.returncode == 0, f"{done.stderr}\n{self.logs()}"
        return done.stdout

    def word(self, *words: str) -> str:
        """What stands between `echo` and the pipe of the line that is printed."""
        printed = self.ok("node", *words, "--dynsec-context", "admin")
        (line,) = [row for row in printed.splitlines() if row.startswith("echo ")]
        return line.removeprefix("echo ").removesuffix(" | busbar join -")

    def principal(self, *words: str, user: str = "alice") -> subprocess.CompletedProcess[str]:
        """With the accounts of the context `admin`."""
        return self.run("principal", *words, "--dynsec-context", "admin", *self.connection(user))

    def file_of(self, user: str) -> Path:
        """The file that `busbar principal` keeps a person's password in."""
        folder = self.folder / "home" / ".local" / "state" / "busbar" / "passwords"
        return folder / f"lab@127.0.0.1:{self.port}" / user

    def broken(self, method: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`busbar principal`, interrupted before the account is asked for."""
        script = (
            "from busbar.cli import app; from busbar.cli.services.account_backend import AccountBackend\n"
            f"def stop(*_):\n    raise KeyboardInterrupt\nAccountBackend.{method} = stop\napp.main()"
        )
        words = (*words, "--dynsec-context", "admin", *self.connection("alice"))
        return self.run("principal", *words, script=script)

    def join(self, word: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.run("join", word, "--no-unit", *more, home="n1")


def plugin() -> str:
    """The plugin's file, where the distribution has it."""
    for folder in ("/usr/lib", "/usr/local/lib"):
        for path in (*Path(folder).glob("mosquitto_dyn*.so"), *Path(folder).glob("*/mosquitto_dyn*.so")):
            return str(path)
    lacking("mosquitto's dynamic security plugin is not installed")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("dynsec")
    if CONTROL is None:
        lacking("the program mosquitto_ctrl is not installed")
    made = Lab(folder, 0.5)
    made.secrets["admin"] = "only for accounts"
    (folder / "secrets" / "admin").write_text(made.secrets["admin"])
    (folder / "secrets" / "admin").chmod(0o600)
    init = [CONTROL, "dynsec", "init", str(folder / "accounts.json"), "admin", made.secrets["admin"]]
    subprocess.run(init, check=True, capture_output=True, timeout=bound(20))
    certificates(folder, "ca", "server")
    certificates(folder, "other")
    lines = (
        "allow_anonymous false", f"certfile {folder}/server.crt", f"keyfile {folder}/server.key",
        f"plugin {plugin()}", f"plugin_opt_config_file {folder}/accounts.json",
    )  # fmt: skip
    try:
        with mosquitto(folder, *lines) as made.port:
            try:
                asyncio.run(_people(made))
                made.start_manager()
                made.ok("context", "add", "admin", user="admin")
                until(
                    lambda: made.run("node", "list", *made.connection("alice")).returncode == 0, "a manager"
                )
                yield made
            finally:
                made.close()
    finally:
        made.close()


async def _people(made: Lab) -> None:
    """The manager, an owner, and one who knows nothing of accounts; a client that is not ours."""
    url, ca = f"mqtts://127.0.0.1:{made.port}", made.folder / "ca.crt"
    secret = made.folder / "secrets" / "admin"
    async with connect(url, realm="lab", username="admin", password_file=secret, tls_ca=ca) as bus:
        plugin = bus.dynamic_security()
        for kind, user in (("manager", "manager"), ("person", "alice"), ("person", "n3")):
            assert await plugin.put(kind, user, "busbar", "lab", made.secrets[user])
        assert not await plugin.put("person", "alice", "busbar", "lab", made.secrets["alice"]), (
            "there already"
        )
        with pytest.raises(BusError, match="is no node of realm"):
            await plugin.remove("node", "n3", "lab")


def test_a_node_s_account_is_made_used_changed_and_removed_over_the_bus(lab: Lab) -> None:
    word = lab.word("pair", "n1")
    file = from_word(word)
    assert (file.node, file.realm, file.token) == ("n1", "lab", None) and file.ca is not None
    stranger = to_word(msgspec.structs.replace(file, ca=(lab.folder / "other.crt").read_text()))
    refused = lab.join(stranger)
    assert refused.returncode == 7 and "its certificate has to be" in refused.stderr, refused.stderr
    assert not (lab.folder / "n1" / ".local").exists(), "nothing is left"
    joined = lab.join(word)
    assert joined.returncode == 0 and joined.stderr == "", joined.stderr
    folder = lab.folder / "n1" / ".local" / "state" / "busbar" / "agents" / "n1"
    lab.spawn("n1", "agent", "--state", str(folder))
    until(lambda: "online" in lab.ok("node", "list", "--status", "online"), "n1 is online")
    again = lab.word("token", "n1")
    joined = lab.join(again, "-o", "json")
    assert joined.returncode == 0 and '"changed": true' in joined.stdout, "beside its agent"
    until(lambda: "online" in lab.ok("node", "list", "--status", "online"), "n1 is back")
    old = lab.join(word, "--state", str(lab.folder / "old"))
    assert old.returncode == 5 and "refused the password" in old.stderr
    lab.ok("node", "unpair", "n1", "--dynsec-context", "admin", "--yes")
    gone = lab.join(again, "--state", str(lab.folder / "gone"))
    assert gone.returncode == 5, gone.stderr


def test_who_may_not_change_accounts_is_told_before_anything_is_paired(lab: Lab) -> None:
    mine = lab.run("node", "pair", "n2", "--dynsec", *lab.connection("alice"))
    assert mine.returncode == 5 and "no right to change accounts" in mine.stderr, mine.stderr
    taken = lab.run("node", "pair", "n3", "--dynsec-context", "admin", *lab.connection("alice"))
    assert taken.returncode == 4 and "'n3' is no node of realm 'lab'" in taken.stderr, taken.stderr
    assert lab.ok("node", "list", "-q") == ""


def test_roles_are_given_to_clients_that_there_are(lab: Lab) -> None:
    """As for a realm that is new; here they have theirs, and keep them."""
    words = ("acl", "--broker", "dynsec", "--dynsec-context", "admin", "--realm", "lab", "--person")
    given = lab.run(*words, "alice")
    assert given.returncode == 0 and "manager, alice: the roles are given" in given.stdout, given.stderr
    unknown = lab.run(*words, "bob")
    assert unknown.returncode == 1 and "refuses addClientRole" in unknown.stderr, unknown.stderr
    assert lab.ok("node", "list", "-q") == "", "they have their rights"


async def _admin(lab: Lab, command: dict[str, object]) -> dict[str, object]:
    """The plugin's answer to one command that is not ours."""
    url, ca = f"mqtts://127.0.0.1:{lab.port}", lab.folder / "ca.crt"
    secret = lab.folder / "secrets" / "admin"
    async with connect(url, realm="lab", username="admin", password_file=secret, tls_ca=ca) as bus:
        (answer,) = await bus.dynamic_security()._run([command], "not found")
        return answer


def roles(lab: Lab, user: str) -> list[str] | None:
    """The roles of a client; None where the plugin knows no such client."""
    found = asyncio.run(_admin(lab, {"command": "getClient", "username": user})).get("data")
    return roles_of(found["client"]) if isinstance(found, dict) else None


def signs_in(lab: Lab, user: str, secret: Path) -> bool:
    """Whether a client that is not ours, mosquitto's own, is let in, and may send what a person may."""
    program = shutil.which("mosquitto_pub")
    if program is None:
        lacking("the program mosquitto_pub is not installed")
    at = [
        "-h",
        "127.0.0.1",
        "-p",
        str(lab.port),
        "--cafile",
        str(lab.folder / "ca.crt"),
        "-V",
        "5",
        "-q",
        "1",
    ]
    topic = ["-t", f"busbar/v1/lab/request/{user}/mine", "-m", "{}"]
    words = [program, *at, "-u", user, "-P", secret.read_text().strip(), *topic]
    done = subprocess.run(words, capture_output=True, text=True, timeout=bound(20))
    return done.returncode == 0 and done.stderr == ""


def test_a_person_s_account_is_made_used_changed_and_removed_over_the_bus(lab: Lab) -> None:
    made = lab.principal("add", "dora", "operator")
    file = lab.file_of("dora")
    assert made.returncode == 0 and str(file) in made.stdout and "context add lab" in made.stderr, made.stderr
    assert file.stat().st_mode & 0o777 == 0o600 and signs_in(lab, "dora", file)
    again = lab.principal("add", "dora", "operator")
    assert again.returncode == 4 and "busbar principal password dora --dynsec-context admin" in again.stderr
    asyncio.run(_admin(lab, {"command": "addClientRole", "username": "dora", "rolename": "admin"}))
    old = lab.folder / "old"
    old.write_bytes(file.read_bytes())
    assert lab.principal("password", "dora").returncode == 0
    assert signs_in(lab, "dora", file) and not signs_in(lab, "dora", old)
    assert roles(lab, "dora") == ["busbar-lab-person-dora", "admin"], "it keeps what it had"
    (lab.folder / "secrets" / "dora").write_bytes(file.read_bytes())
    (lab.folder / "secrets" / "dora").chmod(0o600)
    for verb in ("password", "remove"):
        own = lab.run("principal", verb, "dora", "--dynsec", *lab.connection("dora"))
        assert own.returncode == 2 and "name another by --dynsec-context" in own.stderr, own.stderr
    kept = lab.folder / "kept"
    kept.write_bytes(file.read_bytes())
    assert lab.principal("remove", "dora").returncode == 0
    assert roles(lab, "dora") is None and not file.exists() and not signs_in(lab, "dora", kept)


def test_an_account_that_is_not_the_person_s_is_not_taken_over(lab: Lab) -> None:
    asyncio.run(_admin(lab, {"command": "createClient", "username": "frank", "password": "mine"}))
    for words in (("add", "frank", "viewer"), ("remove", "frank")):
        refused = lab.principal(*words)
        assert refused.returncode == 4 and "'frank' is no person of realm 'lab'" in refused.stderr
    assert roles(lab, "frank") == [] and "frank" not in lab.ok("principal", "list")
    lab.ok("principal", "add", "frank", "viewer")
    refused = lab.principal("password", "frank")
    assert refused.returncode == 4 and "'frank' is no person of realm 'lab'" in refused.stderr
    assert roles(lab, "frank") == []
    mine = lab.run("principal", "add", "eve", "viewer", "--dynsec", *lab.connection("alice"))
    assert mine.returncode == 5 and "no right to change accounts" in mine.stderr, mine.stderr
    lab.ok("context", "add", "wrong", user="bob")
    wrong = lab.run(
        "principal", "add", "eve", "viewer", "--dynsec-context", "wrong", *lab.connection("alice")
    )
    assert wrong.returncode == 5 and "does not let user 'bob' in" in wrong.stderr, wrong.stderr
    assert "eve" not in lab.ok("principal", "list")


def test_what_was_interrupted_says_what_to_run_and_that_completes_it(lab: Lab) -> None:
    half = lab.broken("put", "add", "gil", "viewer")
    assert half.returncode == 130 and "principal 'gil' is viewer, but its account is not made" in half.stderr
    assert "run 'busbar principal add gil viewer --dynsec-context admin'" in half.stderr
    assert lab.principal("add", "gil", "operator").returncode == 4, "that would be another role"
    assert lab.principal("add", "gil", "viewer").returncode == 0
    assert signs_in(lab, "gil", lab.file_of("gil"))
    half = lab.broken("put", "password", "gil")
    assert half.returncode == 130 and "may still have the earlier one" in half.stderr, half.stderr
    assert lab.principal("password", "gil").returncode == 0 and signs_in(lab, "gil", lab.file_of("gil"))
    half = lab.broken("remove", "remove", "gil")
    assert half.returncode == 130 and "principal 'gil' is removed, but its account is not" in half.stderr
    assert roles(lab, "gil") and lab.principal("remove", "gil").returncode == 0
    assert roles(lab, "gil") is None
    assert lab.principal("remove", "gil").returncode == 3, "nothing is left"
