"""`busbar install`: units that systemd accepts, and mistakes that are told before a unit is written."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from busbar.cli.errors import ExitCode
from busbar.cli.services import systemd

from tests.pace import bound

from ..realm import Line
from ..realm import line as line

USAGE: Any = typer.BadParameter.__base__
AGENT = ("agent", "--node", "n1")
KINDS = (("manager", "--owner", "alice", "--metrics", "9464"), AGENT, ("broker", "--port", "1884"))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that notes how it was called."""
    folder, noted = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    (folder / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(systemd, "LINGERS", tmp_path / "linger")
    return noted


def printed(line: Line, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert line.run("install", *words, "--print") == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("scope", ["system", "user"])
@pytest.mark.parametrize("words", KINDS, ids=lambda words: words[0])
def test_systemd_accepts_the_units(
    line: Line, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], scope: str
) -> None:
    secret = tmp_path / "a secret"
    where = ("--realm", "lab", "--password-file", str(secret), "--user", "root", "--scope", scope)
    text = printed(line, capsys, *words, *where)
    unit = tmp_path / f"busbar-{words[0]}.service"
    unit.write_text(text)
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=bound(60)
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed")
    assert unit.name not in done.stderr, done.stderr


def test_what_a_unit_says(line: Line, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ("--realm", "lab", "--broker", "mqtt://b:1", "--password-file", "/etc/busbar/m")
    text = printed(line, capsys, "manager", "--owner", "alice", "--username", "boss", *where)
    (command,) = (row for row in text.splitlines() if row.startswith("ExecStart="))
    assert " --owner alice --broker mqtt://b:1 --realm lab --username boss " in command
    assert command.endswith(" --password-file %d/password")
    rows = set(text.splitlines())
    assert {
        "LoadCredential=password:/etc/busbar/m",
        "Type=notify",
        "WatchdogSec=60",
        "Restart=always",
    } <= rows
    assert {"ProtectSystem=strict", "ReadWritePaths=/var/lib/busbar/manager", "User=busbar"} <= rows
    # A broker of the same machine starts before them, and takes their goodbyes when the machine stops.
    (after,) = (row for row in rows if row.startswith("After="))
    assert {"busbar-broker.service", "mosquitto.service", "nats-server.service"} <= set(after[6:].split())
    assert after in printed(line, capsys, *AGENT, *where)
    assert "After=network-online.target\n" in printed(line, capsys, "broker")
    agent = set(printed(line, capsys, *AGENT, *where).splitlines())
    assert {"KillMode=process", "Delegate=yes", "NoNewPrivileges=yes"} <= agent
    # Workers outlive the agent, so that the next one must see their files.
    assert not any(row.startswith(("Protect", "Private", "ReadWritePaths")) for row in agent)
    own = printed(line, capsys, *AGENT, *where, "--scope", "user")
    assert "User=" not in own and "WantedBy=default.target" in own


def test_ones_own_unit_needs_no_root(
    line: Line, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line.run("install", "broker", "--scope", "user") == 0
    shown = capsys.readouterr()
    unit = tmp_path / "config" / "systemd" / "user" / "busbar-broker.service"
    assert shown.out == f"service busbar-broker runs: {unit}\n" and "enable-linger" in shown.err
    assert calls.read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable busbar-broker",
        "--user restart busbar-broker",
    ]
    assert unit.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    calls.write_text("")
    systemd.LINGERS.mkdir()
    (systemd.LINGERS / pwd.getpwuid(os.geteuid()).pw_name).touch()
    assert line.run("install", "broker", "--scope", "user") == 0
    assert capsys.readouterr().err == ""
    calls.write_text("")
    assert line.run("install", "broker", "--scope", "user", "--no-start") == 0
    assert calls.read_text() == "--user daemon-reload\n"


def test_a_node_that_has_joined_needs_nothing_more(
    line: Line, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from busbar.bus.system.files import write_atomically
    from busbar.cli.services.join_file import JOINED, Joined
    from msgspec import json

    folder = tmp_path / "agent"
    joined = Joined(node="n7", broker="mqtt://b", realm="lab", root="busbar", has_ca=False)
    folder.mkdir()
    write_atomically(folder / JOINED, json.encode(joined))
    text = printed(line, capsys, "agent", "--state", str(folder))
    assert "Description=Busbar agent of node n7\n" in text
    assert f" agent --state {folder}\n" in text and "LoadCredential" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("manager", "--heartbeet", "3"), "--heartbeet"),
        (("manager", "--heartbeat", "soon"), "soon"),
        (("manager", "show"), "show"),
        (("agent",), "--node is needed"),
        (("broker", "--scope", "user", "--port", "99999"), "99999"),
        (("manager", "--metrics"), "--metrics"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    line: Line,
    calls: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: str,
) -> None:
    try:
        code, text = line.run("install", *words, "--state", str(tmp_path / "new")), capsys.readouterr().err
    except USAGE as error:  # as the command line's own parser does
        code, text = error.exit_code, error.format_message()
    assert code == ExitCode.USAGE and told in text
    assert not calls.exists() and not (tmp_path / "new").exists() and not (tmp_path / "config").exists()


def test_a_password_file_that_is_missing_is_told_before_anything_is_written(
    line: Line, calls: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = tmp_path / "manager.secret"
    where = ("--state", str(tmp_path / "new"), "--password-file", str(secret), "--scope", "user")
    assert line.run("install", "manager", *where) == ExitCode.USAGE
    assert f"password file {secret}: No such file or directory" in capsys.readouterr().err
    assert not calls.exists() and not (tmp_path / "new").exists()
    secret.touch(0o600)
    assert line.run("install", "manager", *where) == 0


def test_a_password_is_not_written_into_a_unit(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSBAR_PASSWORD", "wonder")
    assert line.run("install", "manager", "--print") == ExitCode.USAGE
    shown = capsys.readouterr()
    assert "--password-file" in shown.err and "wonder" not in shown.out + shown.err


def test_without_systemd_it_says_so(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert line.run("install", "broker", "--scope", "user") == ExitCode.USAGE
    assert "no systemctl" in capsys.readouterr().err
    assert systemd.folder_of("system", {}) == Path("/etc/systemd/system")
