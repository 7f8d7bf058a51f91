"""A manager that hears nothing listens for its own echo, and connects again without it."""

from __future__ import annotations

from busbar.manager.leader.link_watchdog import BOUND_S, QUIET_BEATS, Echo, Step
from hypothesis import given
from hypothesis import strategies as st

BEAT = 5.0
QUIET = QUIET_BEATS * BEAT


def _looks(echo: Echo, start: float, end: float, connected: bool = True) -> list[tuple[float, Step]]:
    """What each second's look says, where it says anything."""
    found = [(at, echo.look(at, connected)) for at in map(float, range(int(start), int(end)))]
    return [each for each in found if each[1] is not Step.NOTHING]


def test_silence_is_asked_about_and_a_missing_echo_ends_the_connection() -> None:
    asked, ended = QUIET, QUIET + BOUND_S
    assert _looks(Echo(BEAT, 0.0), 0, int(ended) + 1) == [(asked, Step.ASK), (ended, Step.RECONNECT)]


def test_the_echo_ends_the_doubt() -> None:
    echo = Echo(BEAT, 0.0)
    assert _looks(echo, 0, int(QUIET) + 1) == [(QUIET, Step.ASK)]
    echo.heard(QUIET + 0.1)
    after = _looks(echo, int(QUIET) + 1, int(2 * QUIET) + 2)
    assert after == [(2 * QUIET + 1, Step.ASK)]


def test_a_fleet_that_is_heard_costs_nothing() -> None:
    echo = Echo(BEAT, 0.0)
    for at in range(100):
        echo.heard(float(at))
        assert echo.look(float(at), True) is Step.NOTHING


def test_no_connection_and_a_pause_of_the_process_are_no_silence() -> None:
    assert _looks(Echo(BEAT, 0.0), 0, 100, connected=False) == []
    echo = Echo(BEAT, 0.0)
    assert _looks(echo, 0, int(QUIET) + 1) == [(QUIET, Step.ASK)]
    assert echo.look(QUIET + 3_600, True) is Step.NOTHING
    assert echo.look(QUIET + 3_601, True) is Step.NOTHING


@given(st.lists(st.tuples(st.floats(0.1, 4.0), st.booleans(), st.booleans()), max_size=80))
def test_a_reconnect_is_always_preceded_by_a_question_that_nothing_answered(
    happenings: list[tuple[float, bool, bool]],
) -> None:
    echo, now, asked = Echo(1.0, 0.0), 0.0, None
    for pause, connected, heard in happenings:
        now += pause
        if heard:
            echo.heard(now)
            asked = None
        step = echo.look(now, connected)
        asked = asked if connected else None
        if step is Step.ASK:
            asked = now
        if step is Step.RECONNECT:
            assert asked is not None and now - asked >= BOUND_S
            asked = None
