"""Thousands of schedules (`tests.simulation.slices`), in one file: one process of the suite runs them."""

from __future__ import annotations

import pytest

from tests.simulation.slices import PARTS, Runs, hold


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_schedules_break_no_invariant(runs: Runs, part: int) -> None:
    hold(runs, part)
