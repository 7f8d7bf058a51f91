"""What holds for every test."""

from __future__ import annotations

import gc
import signal

import pytest

# A shell starts background jobs with SIGINT ignored, and children inherit that: then no Ctrl-C would reach a
# process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The simulated schedules begin first: they compute, one process after the other, while others wait."""
    items.sort(key=lambda item: "test_schedules" not in item.nodeid)


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: the collector of cycles need not walk them again and again."""
    gc.collect()
    gc.freeze()
