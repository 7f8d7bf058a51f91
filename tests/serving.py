"""Asks workers over and over whether they answer, as their users would: the fewest that ever did at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tests.pace import bound, slowness

EVERY_S = 0.02
SHARP_S = 0.015
"""A look that took longer is no moment: in its course one may have come back, and another have left."""


class Serving:
    """`with watching(ports) as serving: …`, then look at `least` and `looks`. `ports` says whom to ask."""

    def __init__(self, ports: Callable[[], Iterable[int]], ask: Callable[[int], bool]) -> None:
        self._ports, self._ask = ports, ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._forever, name="serving", daemon=True)
        self.least = 1_000_000
        self.looks = 0

    def _forever(self) -> None:
        while not self._stop.wait(EVERY_S):
            ports = list(self._ports())
            began = time.monotonic()
            count = sum(self._ask(port) for port in ports)
            if time.monotonic() - began < SHARP_S * slowness():
                self.least = min(self.least, count)
                self.looks += 1


@contextmanager
def watching(
    ports: Callable[[], Iterable[int]], ask: Callable[[int], bool] | None = None
) -> Iterator[Serving]:
    """Ask all the time, until the end of the block."""
    made = Serving(ports, ask or answers)
    made._thread.start()
    try:
        yield made
    finally:
        made._stop.set()
        made._thread.join(bound(5))


def answers(port: int) -> bool:
    """Whether a worker of the tests (`tests/faults/worker.py`) answers there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return peer.recv(64).startswith(b"HTTP/1.0 200")
    except OSError:
        return False


def answers_mqtt(port: int) -> bool:
    """Whether an MQTT router answers a CONNECT there."""
    hello = b"\x00\x04MQTT\x04\x02\x00\x0a\x00\x05probe"
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as peer:
            peer.sendall(bytes((0x10, len(hello))) + hello)
            return peer.recv(4).startswith(b"\x20\x02")
    except OSError:
        return False
