"""`busbar join` on a machine: what is shown, what systemd is told, and that it may be run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from busbar.bus.system.files import write_atomically
from busbar.cli.context import Settings
from busbar.cli.errors import ExitCode
from busbar.cli.services import agent_join, join_check, systemd
from busbar.cli.services.join_file import SECRET, JoinFile
from busbar.cli.services.join_token import to_word

from ..realm import Line
from ..realm import line as line
from .test_install import calls as calls

FILE = JoinFile(
    busbar_join=1, node="n4", broker="mqtt://127.0.0.1:1", realm="lab", root="busbar", token="t0k", until=1e12
)
WORD = to_word(FILE)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A broker that takes every token; returns those that came."""
    came: list[str] = []

    def redeem(settings: Settings, token: Callable[[], str], until: float | None) -> None:
        came.append(token())
        write_atomically(Path(str(settings.password_file)), "secret\n")

    monkeypatch.setattr(agent_join, "redeem", redeem)
    monkeypatch.setattr(agent_join, "can_connect", lambda settings: True)
    monkeypatch.setattr(join_check, "is_expected", lambda file, folder: True)
    return came


def test_a_dry_run_says_all_and_does_nothing(
    line: Line, calls: Path, broker: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "agent"
    words = ("--scope", "system", "--user", "nobody-yet", "--state", str(folder), "--dry-run")
    assert line.run("join", WORD, *words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    for part in ("n4", "lab", "mqtt://127.0.0.1:1", str(folder), "new user", "busbar-agent.service"):
        assert part in shown
    assert "  User=nobody-yet\n" in shown and "  KillMode=process\n" in shown
    assert not broker and not calls.exists() and not folder.exists() and "t0k" not in shown


def test_it_makes_user_folder_and_unit_once(
    line: Line,
    calls: Path,
    broker: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, given = {"root"}, []
    useradd = tmp_path / "bin" / "useradd"
    useradd.write_text(f'#!/bin/sh\necho useradd "$@" >> {calls}\n')
    useradd.chmod(0o755)
    monkeypatch.setattr(systemd, "has_user", lambda user: user in users or calls.exists())
    monkeypatch.setattr(systemd, "need_root", lambda: None)
    monkeypatch.setattr(systemd, "give_to", lambda user, paths: given.extend(paths))
    monkeypatch.setattr(systemd, "folder_of", lambda scope, env: tmp_path / scope)
    folder = tmp_path / "agent"
    words = ("join", WORD, "--scope", "system", "--state", str(folder), "--host", "n4.example")
    assert line.run(*words) == 0, capsys.readouterr().err
    assert calls.read_text().splitlines() == [
        "useradd --system --create-home --home-dir /var/lib/busbar busbar",
        "daemon-reload",
        "enable busbar-agent",
        "restart busbar-agent",
    ]
    unit = (tmp_path / "system" / "busbar-agent.service").read_text()
    assert f" agent --state {folder}\n" in unit and "\nUser=busbar\n" in unit
    assert broker == ["t0k"] and folder / SECRET in given and "has joined" in capsys.readouterr().out
    calls.write_text("")
    assert line.run(*words, "-o", "json") == 0
    assert msgspec.json.decode(capsys.readouterr().out)["changed"] is False
    assert calls.read_text() == "is-active --quiet busbar-agent\n" and broker == ["t0k"]
    assert line.run(*words[:-1], "other.example") == 0, "another host: the agent is started again"
    assert "restart busbar-agent" in calls.read_text() and broker == ["t0k"]


def test_ones_own_unit_and_none(
    line: Line, calls: Path, broker: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line.run("join", WORD, "--scope", "user", "--state", str(tmp_path / "a")) == 0
    shown = capsys.readouterr()
    assert "service busbar-agent runs" in shown.out and "enable-linger" in shown.err
    assert calls.read_text().splitlines()[-1] == "--user restart busbar-agent"
    calls.write_text("")
    assert line.run("join", WORD, "--no-unit", "--state", str(tmp_path / "b")) == 0
    assert f"busbar agent --state {tmp_path / 'b'}" in capsys.readouterr().out and calls.read_text() == ""


def test_what_this_machine_or_user_can_t_have_is_told_before_the_token_is_spent(
    line: Line,
    calls: Path,
    broker: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = ("--state", str(tmp_path / "new"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert line.run("join", WORD, "--scope", "system", *state) == ExitCode.USAGE
        assert "use sudo" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert line.run("join", WORD, "--unit", *state) == ExitCode.USAGE
    assert "no systemctl" in capsys.readouterr().err
    assert not broker and not (tmp_path / "new").exists() and not calls.exists()


def test_a_broker_that_can_t_be_reached_is_told_and_the_line_serves_again(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("join", WORD, "--no-unit", "--state", str(tmp_path / "new"))
    for _ in range(2):
        assert line.run(*words) == ExitCode.UNREACHABLE
        assert "mqtt://127.0.0.1:1 can't be reached" in capsys.readouterr().err
    assert not (tmp_path / "new" / "joined.json").exists()
