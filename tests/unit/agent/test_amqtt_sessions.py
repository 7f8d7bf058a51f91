"""The bounds of the amqtt router's sessions."""

from __future__ import annotations

import pytest
from busbar.agent.routers import amqtt_sessions
from busbar.agent.routers.amqtt_sessions import (
    LIMITS,
    MAX_AWAY,
    MAX_HELD,
    MAX_HELD_AWAY,
    MAX_SESSIONS_AWAY,
    SUBACK_FAILURE,
    Exchange,
)
from busbar.bus.broker.session import Publication


class Sink:
    """A connection that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.ended = ""

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self, reason: str) -> None:
        self.ended = reason

    def supersede(self) -> None:
        self.ended = "superseded"


def test_the_sessions_that_are_away_longest_are_dropped() -> None:
    exchange = Exchange()
    for number in range(MAX_SESSIONS_AWAY + 3):
        exchange.close(exchange.open(("", str(number)), True)[0])
    kept = [exchange.open(("", str(number)), True)[1] for number in range(MAX_SESSIONS_AWAY + 3)]
    assert kept == [False] * 3 + [True] * MAX_SESSIONS_AWAY


def test_a_session_that_is_away_keeps_a_bounded_number_of_messages_and_bytes() -> None:
    exchange = Exchange()
    for payload, most in ((b"", MAX_AWAY), (bytes(1024 * 1024), MAX_HELD_AWAY // (1024 * 1024) - 1)):
        session, _ = exchange.open(("", "c"), True)
        exchange.subscribe(session, "t", 1)
        exchange.close(session)
        for _ in range(MAX_AWAY + 5):
            exchange.publish(Publication("t", payload, 1), False)
        sink = Sink()
        exchange.open(("", "c"), True)
        session.attach(sink)
        assert len(sink.sent) == most
        exchange.open(("", "c"), False)


def test_a_client_that_acknowledges_nothing_is_disconnected() -> None:
    exchange = Exchange()
    session, sink = exchange.open(("", "c"), False)[0], Sink()
    session.attach(sink)
    exchange.subscribe(session, "t", 2)
    payload = bytes(8 * 1024 * 1024)
    while not sink.ended:
        exchange.publish(Publication("t", payload, 2), False)
        assert len(sink.sent) * len(payload) <= MAX_HELD
    assert len(sink.sent) == 7


def test_what_a_client_never_releases_is_bounded_in_bytes() -> None:
    session = Exchange().open(("", "c"), True)[0]
    message = Publication("t", bytes(16 * 1024 * 1024), 2)
    kept = [session.receive(number, message, False) for number in range(1, 6)]
    assert kept == [True] * 3 + [False] * 2
    assert session.receive(1, message, False), "the same one again takes no more"
    assert session.release(1) == (message, False)
    assert session.release(1) is None
    assert session.receive(9, message, False)


def test_filters_are_bounded_in_number_length_and_depth() -> None:
    exchange = Exchange()
    session = exchange.open(("", "c"), False)[0]
    for wanted in ("a/" * LIMITS.topic_levels, "a" * (LIMITS.topic_bytes + 1)):
        assert exchange.subscribe(session, wanted, 0) == SUBACK_FAILURE
    for number in range(LIMITS.session_filters):
        assert exchange.subscribe(session, f"t/{number}", 1) == 1
    assert exchange.subscribe(session, "one/more", 1) == SUBACK_FAILURE
    assert exchange.subscribe(session, "t/0", 2) == 2, "one that it has is granted anew"


@pytest.mark.parametrize("bound", ["MAX_RETAINED", "MAX_HELD_RETAINED"])
def test_retained_messages_are_bounded_and_still_delivered(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    told: list[str] = []
    # Not caplog: the embedded broker, which other tests run in this process, silences amqtt's loggers.
    monkeypatch.setattr(amqtt_sessions.log, "warning", told.append)
    message = Publication("t/0", b"x" * 100, 0)
    monkeypatch.setattr(amqtt_sessions, bound, 3 if bound == "MAX_RETAINED" else 3 * message.cost)
    exchange = Exchange()
    session, sink = exchange.open(("", "c"), False)[0], Sink()
    session.attach(sink)
    exchange.subscribe(session, "#", 0)
    for number in range(6):
        exchange.publish(Publication(f"t/{number}", message.payload), True)
    assert len(sink.sent) == 6
    assert sorted(kept.topic for kept in exchange.retained("#", 0)) == ["t/0", "t/1", "t/2"]
    assert [text.count("not retained") for text in told] == [1]
    exchange.publish(Publication("t/1", b""), True)
    exchange.publish(Publication("t/5", message.payload), True)
    assert sorted(kept.topic for kept in exchange.retained("#", 0)) == ["t/0", "t/2", "t/5"]
