"""Thousands of seeded schedules of faults, and the proof that the net which judges them has no holes.

Each runs in a process of its own, in which the order of sets does not depend on chance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.faults import Entry, schedule
from tests.simulation.plants import PLANTS
from tests.simulation.shrink import shrink

ROOT = Path(__file__).parent.parent.parent
COUNT = int(os.environ.get("BUSBAR_SCHEDULES", "1200"))
"""Schedules in all: what fits beside the rest in ten minutes. In as many processes as there are cores, unless
other tests run beside it."""
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else max(1, min(4, len(os.sched_getaffinity(0))))
FIRST = {"A": 170, "M": 125, "H": 30, "L": 35}
"""Where the search for a planted bug begins, to save time: these take a rarer mishap to show."""
Started = subprocess.Popen[str]


@pytest.fixture
def started() -> Iterator[list[Started]]:
    """Processes that are gone at the end."""
    processes: list[Started] = []
    yield processes
    for process in processes:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def start(started: list[Started], *arguments: object) -> Started:
    command = [sys.executable, "-m", "tests.simulation", *map(str, arguments)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    started.append(process)
    return process


def outcome(process: Started) -> tuple[int, str]:
    text, _ = process.communicate()
    return process.returncode, text


@pytest.mark.timeout(900)
def test_thousands_of_schedules_break_no_invariant(started: list[Started]) -> None:
    """Known failures of the past first (by the process that begins with seed 1)."""
    share = -(-COUNT // JOBS)
    running = [start(started, "--count", share, "--seed", 1 + job * share) for job in range(JOBS)]
    for process in running:
        code, text = outcome(process)
        assert code == 0, text


@pytest.mark.timeout(120)
def test_a_seed_gives_the_same_trace_twice(started: list[Started]) -> None:
    code, text = outcome(start(started, "--twice", "--count", 25, "--seed", 700))
    assert code == 0, text


@pytest.mark.timeout(300)
@pytest.mark.parametrize("invariant", sorted(PLANTS))
def test_a_planted_bug_is_caught(started: list[Started], invariant: str) -> None:
    """Each invariant with a bug that breaks it: the net sees it within a few hundred schedules."""
    code, text = outcome(
        start(started, "--plant", invariant, "--count", 500, "--seed", FIRST.get(invariant, 2))
    )
    assert code == 0, f"not caught: {text}"
    assert f": {invariant}: " in text


def test_the_schedule_of_a_seed_is_always_the_same_and_survives_json() -> None:
    assert schedule(7) == schedule(7) != schedule(8)
    assert type(schedule(7)).from_json(schedule(7).to_json()) == schedule(7)


def test_a_failing_timeline_is_shortened_to_what_it_takes() -> None:
    one, other = Entry(1.0, "reset", ("n1", 0.5)), Entry(2.0, "deaf", ("n1", 0.5))
    rest = tuple(Entry(float(at), "clock_jump", (1,)) for at in range(20))
    long = type(schedule(1))(1, 2, (), (*rest, one, *rest, other, *rest))
    short = shrink(long, lambda tried: {one, other} <= set(tried.timeline))
    assert set(short.timeline) == {one, other}
