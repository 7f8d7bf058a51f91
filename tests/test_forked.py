"""A forked command is as one that is started as a program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests import forked
from tests.brokers import free_port, wait_for_port
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
        env = waiting(tmp_path, silent.getsockname()[1])
        with pytest.raises(subprocess.TimeoutExpired):
            forked.run("cluster", "list", env=env, timeout=0.5)
    assert forked.run("--version", env=env, timeout=bound(30)).returncode == 0


def waiting(folder: Path, port: int) -> dict[str, str]:
    """The environment of a command that waits for a broker which does not answer."""
    env = environment(folder, BUSBAR_BROKER=f"mqtt://127.0.0.1:{port}", BUSBAR_TIMEOUT="600")
    return env | {"BUSBAR_USERNAME": "alice", "BUSBAR_PASSWORD": "secret"}


def test_an_end_by_a_signal_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, (tmp_path / "log").open("wb") as log:
        port = silent.getsockname()[1]
        process = forked.start("cluster", "list", env=waiting(tmp_path, port), output=log)
        silent.accept()[0].close()
        assert process.poll() is None
        process.kill()
        assert process.wait(bound(30)) == process.poll() == -signal.SIGKILL


def test_nothing_is_left_of_who_forks_when_its_caller_is_killed(tmp_path: Path) -> None:
    script = (
        "import os; from tests import forked; made = forked.source(forked.COMMANDS); print(made.path);"
        "forked.run('--version', env=dict(os.environ), timeout=60); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-uc", script],
        cwd=forked.ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    folder, end = Path(done.stdout.strip()).parent, time.monotonic() + bound(10)
    while folder.exists():
        assert time.monotonic() < end, folder
        time.sleep(0.02)


def test_a_service_writes_to_its_log_and_ends_when_told(tmp_path: Path) -> None:
    env = environment(tmp_path)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        words = ("broker", "--state", str(tmp_path / "state"), "--port", str(port))
        process = forked.start(*words, env=env, output=log, folder=tmp_path)
    wait_for_port(port, process)
    process.terminate()
    assert process.wait(bound(20)) == 0
    assert "broker" in (tmp_path / "log").read_text()


def test_the_program_has_the_streams_of_its_caller_and_hands_signals_on(tmp_path: Path) -> None:
    """A short command forks, and a service is the real program."""
    (tmp_path / "real").write_text('#!/bin/sh\necho real "$@"\n')
    (tmp_path / "real").chmod(0o755)
    forked.program(tmp_path, str(tmp_path / "real"))
    shell = partial(subprocess.run, cwd=tmp_path, shell=True, text=True, capture_output=True)
    env = {**environment(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = shell("busbar nonesuch 2>&1 | head -1; busbar --realm lab up --agents 2", env=env)
    assert done.stdout.splitlines()[1:] == ["real --realm lab up --agents 2"]
    manifest = "clusters: [{name: 7}]"
    done = shell(f"echo '{manifest}' | busbar validate -f -", env=env)
    assert (done.returncode, "/clusters: Expected" in done.stderr) == (2, True), done
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        waits = subprocess.Popen(
            ["busbar", "cluster", "list"], env=env | waiting(tmp_path, port) | {"PATH": env["PATH"]}
        )
        silent.accept()[0].close()
        waits.send_signal(signal.SIGINT)
        assert waits.wait(bound(30)) == 130
