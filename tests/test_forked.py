"""A forked command is as one that is started as a program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.pace import bound


def environment(folder: Path, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    return {**clean, "HOME": str(folder), "BUSBAR_STATE": str(folder / "state"), **more}


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("context", "add", "home", "--broker", "mqtt://127.0.0.1", "--realm", "lab"),
        ("validate", "-f", "realm.yaml"),
        ("nonesuch",),
        ("cluster", "list", "--broker", "mqtt://127.0.0.1:1", "--username", "alice", "-o", "json"),
    ],
    ids=lambda words: words[0],
)
def test_streams_exit_code_environment_and_folder_are_those_of_a_program(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    def outcome(folder: Path, run: bool) -> tuple[int, str, str, list[str]]:
        folder.mkdir()
        (folder / "realm.yaml").write_text("clusters: [{name: 7}]\n")
        env = environment(folder, BUSBAR_TIMEOUT="1", BUSBAR_PASSWORD="secret", COLUMNS="70")
        if run:
            done = forked.run(*words, env=env, timeout=bound(30), folder=folder)
        else:
            program = [sys.executable, "-m", "busbar.cli.app", *words]
            done = subprocess.run(
                program, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder
            )
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        there = str(folder)
        return done.returncode, done.stdout.replace(there, ""), done.stderr.replace(there, ""), files

    assert outcome(tmp_path / "a", True) == outcome(tmp_path / "b", False)


def test_one_that_hangs_is_ended_and_others_go_on_beside_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment(tmp_path, BUSBAR_BROKER=f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
        env |= {"BUSBAR_TIMEOUT": "600", "BUSBAR_USERNAME": "alice", "BUSBAR_PASSWORD": "secret"}
        with pytest.raises(subprocess.TimeoutExpired):
            forked.run("cluster", "list", env=env, timeout=0.5)
    assert forked.run("--version", env=env, timeout=bound(30)).returncode == 0


def test_an_end_by_a_signal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def end(read: int, call: forked.Call, timeout: float) -> int:
        (pid,) = forked.NUMBER.unpack(os.read(read, forked.NUMBER.size))
        os.kill(pid, signal.SIGKILL)
        (code,) = forked.NUMBER.unpack(os.read(read, forked.NUMBER.size))
        ended.append(pid)
        return int(code)

    monkeypatch.setattr(forked.Commands, "_wait", staticmethod(end))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment(tmp_path, BUSBAR_BROKER=f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
        env |= {"BUSBAR_TIMEOUT": "600", "BUSBAR_USERNAME": "alice", "BUSBAR_PASSWORD": "secret"}
        assert forked.run("cluster", "list", env=env, timeout=bound(30)).returncode == -signal.SIGKILL
    assert ended
