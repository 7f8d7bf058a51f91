"""Backoff: fast at first, capped, jittered, never given up, forgotten after a stable time."""

from __future__ import annotations

from busbar.agent.planner.restart import (
    BACKOFF,
    STABLE_S,
    Happened,
    failures_after,
    judge,
)
from hypothesis import given
from hypothesis import strategies as st


def test_delays_double_to_the_cap() -> None:
    delays = [BACKOFF.delay(failures, 0.5) for failures in range(10)]
    assert delays == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_first_restart_leaves_room_within_two_seconds() -> None:
    assert BACKOFF.delay(1, 1.0) == 0.3


def test_jitter_is_a_fifth_either_way() -> None:
    assert (BACKOFF.delay(3, 0.0), BACKOFF.delay(3, 1.0)) == (0.8, 1.2)


def test_stable_time_forgets_failures() -> None:
    assert judge(None) is Happened.FAILED
    assert judge(STABLE_S - 0.001) is Happened.FAILED
    assert judge(STABLE_S) is Happened.FAILED_AFTER_STABLE
    assert failures_after(7, Happened.FAILED) == 8
    assert failures_after(7, Happened.FAILED_AFTER_STABLE) == 1
    assert failures_after(7, Happened.STABLE) == 0
    assert failures_after(7, Happened.REPLACED) == 0


@given(st.lists(st.sampled_from(list(Happened))))
def test_failures_count_those_since_the_last_reset(history: list[Happened]) -> None:
    failures = 0
    for happened in history:
        failures = failures_after(failures, happened)
    resets = [i for i, each in enumerate(history) if each is not Happened.FAILED]
    since = len(history) - (resets[-1] + 1) if resets else len(history)
    last = bool(resets) and history[resets[-1]] is Happened.FAILED_AFTER_STABLE
    assert failures == since + last
