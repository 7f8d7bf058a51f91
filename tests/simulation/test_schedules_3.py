"""One part of the thousands of schedules (`tests.simulation.slices`)."""

from __future__ import annotations

import pytest

from tests.simulation.slices import Runs, hold


@pytest.mark.timeout(900)
def test_schedules_break_no_invariant(runs: Runs) -> None:
    hold(runs, 2)
