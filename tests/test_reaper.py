"""Nothing that a run of the tests has started outlives it, whatever ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import left_behind, reaper
from tests.pace import bound
from tests.stack import ROOT

BOUND_S = 30.0


class Run:
    """A run of pytest that stands in the middle of a test."""

    def __init__(self, folder: Path, *options: str) -> None:
        told = folder / "told"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        command += [f"--basetemp={folder / 'base'}", f"{left_behind.__file__}::test_that_never_ends"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, left_behind.TOLD: str(told)},
            stdout=(folder / "output").open("wb"),
            stderr=subprocess.STDOUT,
        )
        _until(lambda: told.exists() or self.process.poll() is not None, "the stack runs")
        assert told.exists(), (folder / "output").read_text()
        runner, self.token = told.read_text().split()
        self.runner = int(runner)
        """Who carries the test out: a worker of xdist, or the process itself."""

    def commands(self) -> list[str]:
        """The command lines of what it has started and still lives."""
        found = []
        for pid in reaper.marked(self.token):
            try:
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


def _until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + bound(BOUND_S)
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {bound(BOUND_S):g} s"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def make(*options: str) -> Run:
        runs.append(Run(tmp_path, *options))
        return runs[-1]

    yield make
    for run in runs:
        run.process.kill()
        run.process.wait()


WAYS = {
    "interrupted": (("-p", "no:xdist"), signal.SIGINT, False),
    "killed": (("-p", "no:xdist"), signal.SIGKILL, False),
    "terminated, with a worker of xdist": (("-n", "1"), signal.SIGTERM, False),
    "killed, the worker of xdist alone": (("-n", "1", "--max-worker-restart", "0"), signal.SIGKILL, True),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_outlives_a_run(start: Callable[..., Run], way: str) -> None:
    options, number, worker = WAYS[way]
    run = start(*options)
    commands = run.commands()
    # Who forks, a broker, a manager and an agent; and a worker, which the agent has started.
    assert sum("tests.forked" in each for each in commands) >= 4, commands
    assert any("amqtt" in each for each in commands), commands
    os.kill(run.runner if worker else run.process.pid, number)
    _until(lambda: not run.commands(), f"nothing is left after {number!r}")
    _until(lambda: run.process.poll() is not None, "the run ends")


def test_a_process_with_another_mark_is_let_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        reaper.sweep("0123456789abcdef")
        assert stranger.poll() is None
        assert stranger.pid in reaper.marked(reaper.token_of_this_run())
        stranger.communicate(b"\n")
