"""Backoff: doubling, capped, jittered within its bounds, whatever number comes in."""

from __future__ import annotations

from busbar.bus.backoff import Backoff
from hypothesis import given
from hypothesis import strategies as st

CHANCES = st.floats(0, 1)
BACKOFFS = st.sampled_from([Backoff(), Backoff(0.25, 30.0, (0.8, 1.2)), Backoff(1, 8, (1, 1))])


def test_delays_double_to_the_cap() -> None:
    assert [Backoff(1, 8, (1, 1)).delay(n, 0.3) for n in range(7)] == [0, 1, 2, 4, 8, 8, 8]


def test_chance_chooses_within_the_jitter() -> None:
    backoff = Backoff(1, 8, (0.5, 1.5))
    assert [backoff.delay(2, chance) for chance in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.5, 2.0, 3.0]


@given(BACKOFFS, st.integers(1, 10**9), CHANCES)
def test_a_delay_is_bounded_and_never_endless(backoff: Backoff, failures: int, chance: float) -> None:
    low, high = backoff.jitter
    assert backoff.base * low <= backoff.delay(failures, chance) <= backoff.cap * high


@given(BACKOFFS, st.integers(0, 10**6), CHANCES, CHANCES)
def test_a_delay_grows_with_failures_and_chance(
    backoff: Backoff, failures: int, one: float, other: float
) -> None:
    assert backoff.delay(failures, min(one, other)) <= backoff.delay(failures, max(one, other))
    assert backoff.delay(failures, one) <= backoff.delay(failures + 1, one)


@given(BACKOFFS, st.integers(-5, 100), st.floats(allow_nan=False))
def test_any_number_is_held_within_the_jitter(backoff: Backoff, failures: int, chance: float) -> None:
    assert 0 <= backoff.delay(failures, chance) <= backoff.cap * backoff.jitter[1]
