"""Schedules run in processes of their own, which are gone at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.runner import scratch
from tests.simulation.slices import Runs, Slices


@pytest.fixture
def runs() -> Iterator[Runs]:
    """Starts `python -m tests.simulation`."""
    found = Runs()
    yield found
    found.end()


@pytest.fixture(scope="module")
def slices() -> Iterator[Slices]:
    """The schedules of the suite."""
    found = Slices()
    yield found
    found.end()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One for all schedules: agents' folders, which the runner keeps as a start, belong to their place."""
    made = scratch()
    yield made
    shutil.rmtree(made, ignore_errors=True)
