"""The token bucket and the bound on what is in flight: pure, with time as an argument."""

from __future__ import annotations

from busbar.manager.rate_limit import IN_FLIGHT_RETRY_MS, Limits
from hypothesis import given
from hypothesis import strategies as st


def test_a_burst_is_let_through_and_then_the_rate_holds() -> None:
    limits = Limits(rate=10, burst=3, in_flight=5)
    assert [limits.admit("a", 0.0) for _ in range(4)] == [None, None, None, 100]
    assert limits.admit("a", 0.05) == 50
    assert limits.admit("a", 0.1) is None
    assert limits.admit("a", 0.1) == 100


def test_callers_do_not_touch_each_other() -> None:
    limits = Limits(rate=1, burst=1, in_flight=5)
    assert limits.admit("noisy", 0.0) is None
    assert limits.admit("noisy", 0.0) == 1000
    assert limits.admit("quiet", 0.0) is None


def test_what_is_in_flight_is_bounded_and_costs_no_token() -> None:
    limits = Limits(rate=1, burst=3, in_flight=2)
    for _ in range(2):
        assert limits.admit("a", 0.0) is None
        limits.began("a")
    assert [limits.admit("a", 0.0) for _ in range(5)] == [IN_FLIGHT_RETRY_MS] * 5
    limits.ended("a")
    assert limits.admit("a", 0.0) is None


def test_a_clock_that_stands_still_or_steps_back_gives_no_tokens() -> None:
    limits = Limits(rate=10, burst=1, in_flight=5)
    assert limits.admit("a", 5.0) is None
    assert limits.admit("a", 5.0) == 100
    assert limits.admit("a", 1.0) == 100


def test_remembered_callers_are_bounded_and_the_busy_ones_are_kept() -> None:
    limits = Limits(rate=1, burst=1, in_flight=1, max_callers=3)
    assert limits.admit("busy", 0.0) is None
    limits.began("busy")
    for number in range(100):
        assert limits.admit(f"c{number}", 0.0) is None
    assert len(limits) == 3
    assert limits.admit("busy", 0.0) == IN_FLIGHT_RETRY_MS


def test_when_every_remembered_caller_is_busy_a_new_one_waits() -> None:
    limits = Limits(rate=1, burst=5, in_flight=5, max_callers=2)
    for name in ("a", "b"):
        assert limits.admit(name, 0.0) is None
        limits.began(name)
    assert limits.admit("c", 0.0) == IN_FLIGHT_RETRY_MS
    limits.ended("a")
    assert limits.admit("c", 0.0) is None


@given(
    rate=st.floats(0.5, 1000),
    burst=st.integers(1, 50),
    waits=st.lists(st.floats(0, 2), max_size=100),
)
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, waits: list[float]) -> None:
    limits, now, admitted = Limits(rate, burst, in_flight=10_000), 0.0, 0
    for wait in waits:
        now += wait
        retry_ms = limits.admit("a", now)
        admitted += retry_ms is None
        assert retry_ms is None or retry_ms >= 1
        assert admitted <= burst + now * rate + 1e-6


def test_what_an_answer_cost_is_charged_afterwards() -> None:
    """Down to a full bucket's debt, which a caller then waits for."""
    limits = Limits(rate=10, burst=4, in_flight=5)
    assert limits.admit("a", 0.0) is None
    limits.charge("a", 2.0)
    assert limits.admit("a", 0.0) is None and limits.admit("a", 0.0) == 100
    limits.charge("a", 1000.0)
    assert limits.admit("a", 0.0) == 500
    assert limits.admit("a", 0.5) is None
    limits.charge("nobody", 1.0)
    assert len(limits) == 1


def test_a_request_costs_at_most_a_full_bucket() -> None:
    limits = Limits(rate=10, burst=4, in_flight=5)
    assert limits.admit("a", 0.0, 3.0) is None
    assert limits.admit("a", 0.0, 2.0) == 100
    assert limits.admit("a", 0.3, 100.0) is None
    assert limits.admit("a", 0.3) == 100


def test_those_in_flight_are_counted_one_by_one() -> None:
    limits = Limits(rate=1, burst=9, in_flight=2)
    assert limits.admit("a", 0.0) is None
    for _ in range(3):
        limits.began("a")
    assert limits.admit("a", 0.0) == IN_FLIGHT_RETRY_MS == 50
    limits.ended("a")
    assert limits.admit("a", 0.0) == IN_FLIGHT_RETRY_MS
    for _ in range(5):
        limits.ended("a")
    limits.began("a")
    assert limits.admit("a", 0.0) is None
    for name in ("unknown", "stranger"):
        limits.began(name)
        limits.ended(name)
    assert len(limits) == 1


def test_the_caller_that_has_been_idle_longest_is_forgotten_first() -> None:
    limits = Limits(rate=1, burst=1, in_flight=1, max_callers=2)
    for name in ("a", "b"):
        assert limits.admit(name, 0.0) is None
    assert limits.admit("a", 0.0) == 1000, "which counts as use"
    assert limits.admit("c", 0.0) is None
    assert limits.admit("a", 0.0) == 1000
    assert limits.admit("b", 0.0) is None
