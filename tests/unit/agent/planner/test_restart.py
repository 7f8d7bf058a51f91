"""Backoff: short at first, capped, jittered, unlimited, reset after a stable time."""

from __future__ import annotations

from busbar.agent.planner.restart import (
    BACKOFF,
    STABLE_S,
    Outcome,
    classify_failure,
    failures_after,
)
from hypothesis import given
from hypothesis import strategies as st


def test_delays_double_to_the_cap() -> None:
    delays = [BACKOFF.delay(failures, 0.5) for failures in range(10)]
    assert delays == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_the_first_restart_comes_well_within_two_seconds() -> None:
    assert BACKOFF.delay(1, 1.0) == 0.3


def test_jitter_is_twenty_percent_either_way() -> None:
    assert (BACKOFF.delay(3, 0.0), BACKOFF.delay(3, 1.0)) == (0.8, 1.2)


def test_a_stable_time_resets_failures() -> None:
    assert classify_failure(None) is Outcome.FAILED
    assert classify_failure(STABLE_S - 0.001) is Outcome.FAILED
    assert classify_failure(STABLE_S) is Outcome.FAILED_AFTER_STABLE
    assert failures_after(7, Outcome.FAILED) == 8
    assert failures_after(7, Outcome.FAILED_AFTER_STABLE) == 1
    assert failures_after(7, Outcome.STABLE) == 0
    assert failures_after(7, Outcome.REPLACED) == 0


@given(st.lists(st.sampled_from(list(Outcome))))
def test_failures_are_counted_since_the_last_reset(history: list[Outcome]) -> None:
    failures = 0
    for outcome in history:
        failures = failures_after(failures, outcome)
    resets = [i for i, each in enumerate(history) if each is not Outcome.FAILED]
    since = len(history) - (resets[-1] + 1) if resets else len(history)
    last = bool(resets) and history[resets[-1]] is Outcome.FAILED_AFTER_STABLE
    assert failures == since + last
