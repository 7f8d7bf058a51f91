"""Sums over workers."""

from __future__ import annotations

from busbar.bus.messages import MAX_COUNT, Traffic
from busbar.manager.api.operations.stats import traffic_sum


def test_traffic_is_the_sum_of_those_that_tell_theirs() -> None:
    one, two = Traffic(1, 2, 3, 4, 5, 6), Traffic(10, 20, 30, 40, 50, 60)
    assert traffic_sum([one, None, two]) == Traffic(11, 22, 33, 44, 55, 66)
    assert traffic_sum([None, None]) is None and traffic_sum([]) is None
    most = Traffic(*[MAX_COUNT] * 6)
    assert traffic_sum([most, one]) == most, "what a client accepts"
