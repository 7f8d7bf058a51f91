"""How long tests wait on this machine.

Bounds are written for a quick machine that has nothing else to do, and are stretched by how much longer a
fixed piece of work takes here and now. An event is waited for no longer than before: a failure takes longer.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

REFERENCE_S = 0.02
"""What the work takes on the machine for which the bounds were written."""
MARGIN = 3.0
"""For what the machine has to do besides, and began after it was measured: the other tests, to begin with."""
LONGEST = 20.0
CROSSBAR_S = 240.0
"""Of a test with crossbar: each start takes some 8 s of both cores, which other tests want as well."""
KNOWN, BUSY = "TESTS_SLOWNESS", "TESTS_BUSY"
"""Where the processes of pytest-xdist find what the first one has measured."""


def measure() -> float:
    """How many times longer than on a quick, idle machine a step takes now, waiting for a core included."""
    began = time.perf_counter()
    for _ in range(5):
        sum(len(str(number)) for number in range(25_000))
    return min(LONGEST, max(1.0, (time.perf_counter() - began) / REFERENCE_S))


def slowness() -> float:
    """As measured once, when the run began."""
    if KNOWN not in os.environ:
        os.environ[KNOWN] = f"{measure():.2f}"
    return float(os.environ[KNOWN])


def busy() -> bool:
    """Whether other programs kept all cores at work when the run began, as counted once.

    `measure` is too short for that: the scheduler favours a process that has just woken up.
    """
    if BUSY not in os.environ:
        running = sorted(int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) for _ in range(5))
        os.environ[BUSY] = str(int(running[2] - 1 >= len(os.sched_getaffinity(0))))
    return os.environ[BUSY] == "1"


def bound(seconds: float) -> float:
    """How long to wait at most for what takes less than `seconds`."""
    return seconds * MARGIN * slowness()


def within(seconds: float) -> float:
    """What may be asserted of something that must take less than `seconds` and has just been timed.

    With the margin: it fails where something hangs or waits for the wrong thing. How fast things are is
    measured by `make bench`.
    """
    return seconds * MARGIN * max(slowness(), measure())


def stretch(item: pytest.Item, default: float) -> None:
    """Have the bound of a whole test scale as well."""
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0]) if marker else default
    if item.get_closest_marker("crossbar"):
        seconds = max(seconds, CROSSBAR_S)
    item.add_marker(pytest.mark.timeout(bound(seconds)), append=False)
