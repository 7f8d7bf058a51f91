"""Clients of a nats-server cluster: while a leader is elected, they have to ask again."""

from __future__ import annotations

import time

from tests.integration.agent.runtimes.test_amqtt_router import Client
from tests.pace import bound


def _end() -> float:
    return time.monotonic() + bound(30)


class Patient(Client):
    """Connects, subscribes and finds what it looks for in the end."""

    def __init__(self, port: int, name: str, *, clean: bool = True) -> None:
        end = _end()
        while self._tried(port, name, clean) != 0:
            assert time.monotonic() < end, "no connection"
            time.sleep(0.1)

    def _tried(self, port: int, name: str, clean: bool) -> int:
        try:
            super().__init__(port, name, clean=clean)
        except OSError:
            return -1
        return self.code

    def until(self, what: str) -> None:
        """It happened, or the connection ended, as it does when no leader has answered."""
        self.wait(lambda: what in self.told or "gone" in self.told, what)
        if what in self.told:
            self.told.remove(what)
        else:
            self.told.clear()
            self.code = -1

    def hears(self, wanted: str, qos: int = 1) -> None:
        """Subscribe until that is granted."""
        end = _end()
        while self.subscribe(wanted, qos=qos) != [qos]:
            assert time.monotonic() < end, f"no subscription to {wanted}"
            time.sleep(0.1)

    def gets(self, topic: str, payload: bytes) -> None:
        """Wait for a message."""
        self.wait(lambda: self._got(topic, payload), f"nothing on {topic}")

    def finds(self, topic: str, payload: bytes) -> None:
        """A retained message. While none leads their stream, a subscription is granted without them."""
        end = _end()
        while not self._got(topic, payload):
            assert time.monotonic() < end, f"{topic} is not retained"
            self.hears(topic)
            for _ in range(50):
                self.step()

    def _got(self, topic: str, payload: bytes) -> bool:
        return any(each[:2] == (topic, payload) for each in self.got)


def send(port: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Until it is acknowledged. The connection is closed where no leader did."""
    end = _end()
    while True:
        sender = Patient(port, "sender")
        sender.publish(topic, payload, retain=retain)
        if sender.code == 0:
            sender.leave()
            return
        assert time.monotonic() < end, f"{topic} is not acknowledged"
