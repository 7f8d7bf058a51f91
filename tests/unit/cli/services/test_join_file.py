"""Join files: what they hold, what is refused, mosquitto's hashes, and the unit of a joined agent."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from busbar.agent import state
from busbar.cli.context import Settings
from busbar.cli.errors import CliError
from busbar.cli.services import join_file, systemd
from busbar.cli.services.join import read_token
from busbar.cli.services.join_file import (
    new_join_file,
    put_mosquitto_password,
    read_join_file,
    write_join_file,
)

from tests.pace import bound

SETTINGS = Settings(broker="mqtts://b.example:8883", realm="lab", root="busbar")


def test_a_join_file_is_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "n2.join"
    made = new_join_file(SETTINGS, "n2", token=None)
    write_join_file(path, made)
    password = made.password
    found = read_join_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (found.node, found.broker, found.password, found.ca) == ("n2", SETTINGS.broker, password, None)
    assert password is not None and len(password) >= 32
    write_join_file(path, new_join_file(SETTINGS, "n2", token="t0k"))
    assert (read_join_file(path).token, read_join_file(path).password) == ("t0k", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"busbar_join": 2, "node": "n", "broker": "b", "realm": "r", "root": "x", "token": "t"}',
        '{"busbar_join": 1, "node": "n", "broker": "b", "realm": "r", "root": "x"}',
        '{"busbar_join": 1, "node": "n", "broker": "b", "realm": "r", "root": "x", "token": "t", "more": 1}',
        '{"busbar_join":1,"node":"n","broker":"b","realm":"r","root":"x","token":"t","password":"p"}',
        "\x00" * 2_000_000,
    ],
)  # fmt: skip
def test_what_is_no_join_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "n2.join"
    path.write_text(text)
    with pytest.raises(CliError, match=r"n2\.join is no join file"):
        read_join_file(path)


def test_a_join_file_given_as_a_token_says_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "n2.join"
    write_join_file(path, new_join_file(SETTINGS, "n2", token="t0k"))
    path.write_text(path.read_text().replace("\n", " "))
    with pytest.raises(CliError, match="busbar agent join"):
        read_token(str(path))


def test_an_unreadable_authority_is_named(tmp_path: Path) -> None:
    settings = Settings(broker="mqtts://b", realm="lab", root="busbar", tls_ca=str(tmp_path / "no.crt"))
    with pytest.raises(CliError, match=r"CA file .*no\.crt: No such file"):
        new_join_file(settings, "n2", token=None)


def test_a_password_replaces_the_user_s_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text("alice:$7$old\nn2:$7$old\nn22:$7$other\n")
    path.chmod(0o640)
    put_mosquitto_password(path, "n2", "secret")
    lines = path.read_text().splitlines()
    assert lines[:2] == ["alice:$7$old", "n22:$7$other"] and len(lines) == 3
    assert lines[2].startswith("n2:$7$101$") and "secret" not in lines[2]
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(CliError, match="nowhere"):
        put_mosquitto_password(tmp_path / "nowhere", "n2", "secret")


def test_the_files_of_a_join_are_those_that_a_reset_removes() -> None:
    assert set(state.JOINED) == {join_file.JOINED, join_file.SECRET, join_file.CA}


def test_words_of_a_unit_are_literal() -> None:
    assert systemd.quoted(["/opt/b", "a b", "50%", "$HOME", 'say "x"']) == (
        '/opt/b "a b" 50%% $$HOME "say \\"x\\""'
    )
    with pytest.raises(CliError):
        systemd.quoted(["a\nUser=root"])


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "busbar-agent.service"
    unit.write_text(systemd.render(systemd.agent_unit("n2", "root", Path("/var/lib/a b"))))
    text = unit.read_text()
    assert "[Install]\nWantedBy=multi-user.target" in text and "KillMode=process\n" in text
    assert "\nDelegate=yes\n" in text
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed")
    assert unit.name not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo no such unit >&2; exit 5", "no such unit"), ("exec sleep 60", "no answer within")],
)
def test_a_systemctl_that_fails_or_hangs_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n[ $1 = is-active ] && exit 0\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(systemd, "SYSTEMCTL_S", bound(0.3) if "sleep" in script else 60.0)
    for ask in (lambda: systemd.systemctl("daemon-reload"), join_file.reload_mosquitto):
        with pytest.raises(CliError, match=said):
            ask()
