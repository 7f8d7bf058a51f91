"""`busbar up` with another broker than the embedded one: nats-server and mosquitto, real ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from busbar.bus.system.programs import find_program
from busbar.cli.services.join_token import from_word

from tests.brokers import lacking
from tests.clusters.engines import nats_program
from tests.integration.cli.harness import Stack, alive, stack, until
from tests.integration.cli.test_up import make_cluster

pytestmark = pytest.mark.timeout(180)
PROGRAMS = {"nats": "nats-server", "mosquitto": "mosquitto"}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as found:
        yield found


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def program_of(up: Stack) -> int:
    """The broker itself: the child of its service."""

    def only() -> int:
        service = up.pid("broker")
        try:
            found = children(service) if service else []
        except OSError:
            return 0
        return found[0] if len(found) == 1 else 0

    found: int = until(only, "the broker's program runs")
    return found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("nats", marks=pytest.mark.nats),
        pytest.param("mosquitto", marks=pytest.mark.mosquitto),
    ],
)
def test_it_lives_and_heals_as_the_embedded_broker_does(up: Stack, kind: str) -> None:
    if kind == "nats":
        nats_program()
    elif find_program("mosquitto") is None:
        lacking("the program mosquitto is not installed")
    up.up("--broker-program", kind, "--port", "0")
    up.ready()
    assert any(f"({kind})" in line for line in up.said)
    written = up.written()
    assert (written["program"], written["embedded"]) == (kind, False)
    files = [path for path in (up.state / "broker").rglob("*") if path.is_file()]
    assert files and all(path.stat().st_mode & 0o077 == 0 for path in files if "store" not in path.parts)
    workers = make_cluster(up)
    new_accounts_hold_and_removed_ones_end(up)
    service, program = up.pid("broker"), program_of(up)
    assert PROGRAMS[kind] in Path(f"/proc/{program}/cmdline").read_text()
    for victim in (program, service):
        before = up.pid("broker"), program_of(up)
        os.kill(victim if victim != service else before[0], signal.SIGKILL)
        until(lambda b=before: up.pid("broker") not in (0, b[0]), "the broker is started again")
        until(lambda b=before: not alive(b[1]), "its program is another one")
        until(lambda: up.running("edge", 2), "RUNNING after the broker was killed")
        assert up.pids("edge") == workers, "no worker was restarted"
    assert up.written()["port"] == written["port"]
    program = program_of(up)
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    assert not alive(program)
    up.up("--stop-workers")
    up.ready()
    assert up.written()["program"] == kind, "it is remembered"
    until(lambda: up.running("edge", 2), "RUNNING again")
    assert up.pids("edge") == workers
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    assert up.left() == []


def new_accounts_hold_and_removed_ones_end(up: Stack) -> None:
    made = up.ask("principal", "add", "bob", "operator")
    bob = ("--username", "bob", "--password-file", made["password_file"], "--broker", up.written()["broker"])
    until(lambda: up.run(*bob, "cluster", "list").returncode == 0, "bob's account is known")
    up.ok("principal", "remove", "bob")
    assert not Path(made["password_file"]).exists()
    Path(made["password_file"]).touch(mode=0o600)
    Path(made["password_file"]).write_text("no longer")
    until(lambda: up.run(*bob, "cluster", "list").returncode == 5, "bob's account is gone")
    node = up.ask("node", "pair", "n4")
    assert Path(node["password_file"]).stat().st_mode & 0o777 == 0o600, "in place of a token"
    (line,) = [row for row in up.ok("node", "token", "n4").splitlines() if row.startswith("echo ")]
    word = line.removeprefix("echo ").removesuffix(" | busbar join -")
    assert from_word(word).password == Path(node["password_file"]).read_text().strip(), "a new one"
    home = {"BUSBAR_STATE": str(up.folder / "home-n4"), "HOME": str(up.folder / "home-n4")}
    until(lambda: up.run("join", word, "--no-unit", **home).returncode == 0, "its new password is known")
    again = up.folder / "n4.join"
    up.ok("node", "token", "n4", "--join-file", str(again))
    assert Path(node["password_file"]).read_text().strip() in again.read_text(), "a new one"
    joining = up.folder / "n5.join"
    up.ok("node", "pair", "n5", "--join-file", str(joining))
    password = (up.state / "secrets" / "n5").read_text().strip()
    assert password in joining.read_text(), "a password, as no token would be redeemed"


def test_it_is_not_for_a_broker_elsewhere(up: Stack) -> None:
    said = up.fails(2, "up", "--broker-program", "nats", "--broker", "mqtt://127.0.0.1:1")
    assert "--broker-program or --broker" in said
