"""The bounds of the amqtt router's sessions."""

from __future__ import annotations

from busbar.agent.routers.amqtt_sessions import MAX_AWAY, MAX_HELD, MAX_HELD_AWAY, MAX_SESSIONS_AWAY, Exchange
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
