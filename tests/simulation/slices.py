"""The schedules that run with the suite, in parts, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COUNT = int(os.environ.get("BUSBAR_SCHEDULES", "5000"))
"""Schedules in all."""
PARTS = 5
"""Tests that share them: so a failure is told soon."""
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else max(1, min(4, len(os.sched_getaffinity(0))))
"""Processes for one part: as many as there are cores, unless other tests run beside it."""
Run = subprocess.Popen[str]


class Runs:
    """Processes of `python -m tests.simulation`."""

    def __init__(self) -> None:
        self._processes: list[Run] = []

    def start(self, *arguments: object, hash_seed: int = 0) -> Run:
        command = [sys.executable, "-m", "tests.simulation", *map(str, arguments)]
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


def hold(runs: Runs, part: int) -> None:
    """Run one part; known failures of the past come first, in the first."""
    share = -(-COUNT // (PARTS * JOBS))
    first = 1 + part * JOBS * share
    running = [runs.start("--count", share, "--seed", first + job * share) for job in range(JOBS)]
    for process in running:
        code, text = outcome(process)
        assert code == 0, text
