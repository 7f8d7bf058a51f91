"""Thousands of schedules (`slices.py`), in one file: one of the suite's processes waits for them."""

from __future__ import annotations

import pytest

from tests.simulation.slices import PARTS, Slices


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_schedules_break_no_invariant(slices: Slices, part: int) -> None:
    slices.hold(part)
