"""A manager that hears nothing listens for its own echo, and connects again without it."""

from __future__ import annotations

from busbar.manager.leader.link_watchdog import ECHO_TIMEOUT_S, IDLE_HEARTBEATS, LinkWatchdog, Step
from hypothesis import given
from hypothesis import strategies as st

BEAT = 5.0
QUIET = IDLE_HEARTBEATS * BEAT


def _looks(
    watchdog: LinkWatchdog, start: float, end: float, connected: bool = True
) -> list[tuple[float, Step]]:
    """What each second's check says, where it says anything."""
    found = [(at, watchdog.check(at, connected)) for at in map(float, range(int(start), int(end)))]
    return [each for each in found if each[1] is not Step.NOTHING]


def test_silence_is_asked_about_and_a_missing_echo_ends_the_connection() -> None:
    asked, ended = QUIET, QUIET + ECHO_TIMEOUT_S
    assert _looks(LinkWatchdog(BEAT, 0.0), 0, int(ended) + 1) == [
        (asked, Step.PROBE),
        (ended, Step.RECONNECT),
    ]


def test_the_echo_ends_the_doubt() -> None:
    watchdog = LinkWatchdog(BEAT, 0.0)
    assert _looks(watchdog, 0, int(QUIET) + 1) == [(QUIET, Step.PROBE)]
    watchdog.heard(QUIET + 0.1)
    after = _looks(watchdog, int(QUIET) + 1, int(2 * QUIET) + 2)
    assert after == [(2 * QUIET + 1, Step.PROBE)]


def test_a_fleet_that_is_heard_costs_nothing() -> None:
    watchdog = LinkWatchdog(BEAT, 0.0)
    for at in range(100):
        watchdog.heard(float(at))
        assert watchdog.check(float(at), True) is Step.NOTHING


def test_no_connection_and_a_pause_of_the_process_are_no_silence() -> None:
    assert _looks(LinkWatchdog(BEAT, 0.0), 0, 100, connected=False) == []
    watchdog = LinkWatchdog(BEAT, 0.0)
    assert _looks(watchdog, 0, int(QUIET) + 1) == [(QUIET, Step.PROBE)]
    assert watchdog.check(QUIET + 3_600, True) is Step.NOTHING
    assert watchdog.check(QUIET + 3_601, True) is Step.NOTHING


@given(st.lists(st.tuples(st.floats(0.1, 4.0), st.booleans(), st.booleans()), max_size=80))
def test_a_reconnect_is_always_preceded_by_a_question_that_nothing_answered(
    happenings: list[tuple[float, bool, bool]],
) -> None:
    watchdog, now, asked = LinkWatchdog(1.0, 0.0), 0.0, None
    for pause, connected, heard in happenings:
        now += pause
        if heard:
            watchdog.heard(now)
            asked = None
        step = watchdog.check(now, connected)
        asked = asked if connected else None
        if step is Step.PROBE:
            asked = now
        if step is Step.RECONNECT:
            assert asked is not None and now - asked >= ECHO_TIMEOUT_S
            asked = None
