"""Repeated log lines come at a falling rate."""

from __future__ import annotations

from itertools import pairwise

import pytest
from busbar.bus.testing import FakeClock
from busbar.manager.log_throttle import FIRST_S, MOST_S, LogThrottle


async def allowed(throttle: LogThrottle, clock: FakeClock, seconds: int, every: float = 1.0) -> list[float]:
    found, start = [], clock.monotonic()
    for _ in range(int(seconds / every)):
        if throttle.allows("it failed"):
            found.append(clock.monotonic() - start)
        await clock.advance(every)
    return found


@pytest.mark.fault(121, "U")
async def test_pauses_double_up_to_a_limit() -> None:
    clock = FakeClock()
    throttle = LogThrottle(clock)
    assert await allowed(throttle, clock, 80) == [0, 5, 15, 35, 75]
    later = await allowed(throttle, clock, int(8 * MOST_S), every=5.0)
    assert max(b - a for a, b in pairwise(later)) == pytest.approx(MOST_S)


async def test_another_text_and_one_that_was_over_are_logged_at_once() -> None:
    clock = FakeClock()
    throttle = LogThrottle(clock)
    assert throttle.allows("it failed") and throttle.allows("another")
    assert not throttle.allows("it failed")
    await clock.advance(2 * FIRST_S + 1)
    assert throttle.allows("it failed")
    await clock.advance(FIRST_S)
    assert throttle.allows("it failed"), "the pause began anew"
