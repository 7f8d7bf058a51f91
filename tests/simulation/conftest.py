"""Schedules run in processes of their own, which are gone at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
