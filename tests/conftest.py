"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import pace, reaper

# A shell starts background jobs with SIGINT ignored, and children inherit that: then no Ctrl-C would reach a
# process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes of ours import the same modules: without their bytecode most of a start is compiling.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Not everybody has it: a program whose output a test reads must get it from the product or the test.
os.environ.pop("PYTHONUNBUFFERED", None)

# A broker keeps there what is to end with the machine; each test's would stay.
_in_memory = (
    tempfile.TemporaryDirectory(prefix="busbar-tests-", dir="/dev/shm") if os.path.isdir("/dev/shm") else None
)
if _in_memory is not None:
    os.environ["XDG_RUNTIME_DIR"] = _in_memory.name

_end_all = reaper.guard()


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """Ignored under nohup or in a shell's background job, and so in every process that a test would start."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


TOGETHER = ("contract", "faults")
"""Packages whose tests share a running system, which costs as long as it runs: one is enough."""

FIRST = (
    "tests/simulation/test_schedules.py",  # they compute while others wait
    "tests/security/test_missing_rights.py",
    "tests/test_docs.py",
    "tests/integration/cli/test_cli.py",
)
"""Files that take longest, in this order: were one begun last, all other processes would wait for it."""

# What an example may take says nothing on a machine that is busy. The suite tries the same examples each
# time, so that it judges the change and nothing else; `make explore` draws new ones, as `make soak` does.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("explore", settings.get_profile("suite"), derandomize=False, max_examples=1_000)
settings.load_profile(os.environ.get("BUSBAR_EXAMPLES", "suite"))


def pytest_configure() -> None:
    """Before the processes of pytest-xdist start: they use the same figure."""
    pace.slowness()
    pace.busy()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process takes all tests of a package that shares a system, as it takes all those of a file."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            folder = Path(file).parent
            return str(folder) if folder.name in TOGETHER else file

    return Scheduling(config, log)


def _rank(nodeid: str) -> int:
    return next((rank for rank, file in enumerate(FIRST) if nodeid.startswith(file)), len(FIRST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first; within a file nothing changes."""
    items.sort(key=lambda item: _rank(item.nodeid))
    for item in items:
        pace.stretch(item, float(config.getini("timeout")))


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: the collector of cycles need not walk them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Nothing that a test has left behind outlives the run."""
    _end_all()
    if _in_memory is not None:  # the processes of pytest-xdist end without the interpreter's own cleaning up
        _in_memory.cleanup()
