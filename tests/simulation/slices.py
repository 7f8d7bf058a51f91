"""The schedules that run with the suite, told of in parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.pace import busy
from tests.simulation.__main__ import TOLD
from tests.simulation.corpus import corpus_seeds

ROOT = Path(__file__).parent.parent.parent
COUNT = int(os.environ.get("BUSBAR_SCHEDULES", "0"))
"""So many of the first seeds in place of the corpus. `make soak` runs new ones."""
PARTS = 5
"""Tests that share them: so it is told how far they are."""
JOBS = max(1, min(4, len(os.sched_getaffinity(0))))
"""Processes: as many as there are cores; each sets up its part of the fleets, and runs what begins so."""
NICE = 15 if "PYTEST_XDIST_WORKER" in os.environ and not busy() else 0
"""They compute what the tests beside them leave, and have all cores when those are through. On a machine
that is busy with other things nothing would be left."""
Run = subprocess.Popen[str]


class Runs:
    """Processes of `python -m tests.simulation`."""

    def __init__(self, nice: int = 0) -> None:
        self._before = ["nice", "-n", str(nice)] if nice else []
        self._processes: list[Run] = []

    def start(self, *arguments: object, hash_seed: int = 0) -> Run:
        command = [*self._before, sys.executable, "-m", "tests.simulation", *map(str, arguments)]
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()


def outcome(process: Run) -> tuple[int, str]:
    """Exit code and output, once it has ended."""
    text, _ = process.communicate()
    return process.returncode, text


class Slices:
    """The schedules of the suite, shared among `JOBS` processes that live as long as it asks."""

    def __init__(self) -> None:
        self._runs = Runs(NICE)
        self._running: list[Run] = []

    def hold(self, part: int) -> None:
        """Wait until one of the parts is through; known failures of the past come first, in the first."""
        if not self._running:
            which = ("--count", COUNT) if COUNT else ("--corpus",)
            told = (*which, "--tell", self.step, "--jobs", JOBS)
            self._running = [self._runs.start(*told, "--job", job) for job in range(JOBS)]
        for process in self._running:
            self._await(process, (part + 1) * self.step if part < PARTS - 1 else None)

    @property
    def step(self) -> int:
        """Schedules of a part, in each process; the last part is what is left."""
        return (COUNT or len(corpus_seeds())) // JOBS // PARTS or 1

    def _await(self, process: Run, count: int | None) -> None:
        """Until it is so far (to its end for None), or has failed."""
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if count is not None and line.startswith(TOLD) and int(line.removeprefix(TOLD)) >= count:
                return
        assert process.wait(20) == 0, text or "it failed in an earlier part"

    def end(self) -> None:
        self._runs.end()
