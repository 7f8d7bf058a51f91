"""Clients that go on: a publisher at a steady rate, and subscribers with a session."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

Where = int | tuple[str, int]
"""A port of this host, or of another one."""
Ports = Callable[[], Sequence[Where]]
PATIENCE_S = 3.0
"""Without any answer for so long a client goes to the next worker, as one with a short keepalive does."""


class Roaming:
    """A client that connects to the next of the workers whenever it has lost one."""

    def __init__(self, name: str, ports: Ports, first: int = 0, *, clean: bool = True) -> None:
        self.name, self.ports, self.turn, self.clean = name, ports, first, clean
        self.ready = False
        self.answered = time.monotonic()
        self.connections = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        end = time.monotonic() + 60
        while not self.ready:
            assert time.monotonic() < end, f"{self.name}: no connection"
            time.sleep(0.02)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._ended.is_set():
            ports = self.ports()
            if not ports:
                time.sleep(0.1)
                continue
            port = ports[self.turn % len(ports)]
            self.turn += 1
            with suppress(OSError):
                self._serve(port)
            self.ready = False
            self._ended.wait(0.1)

    def _serve(self, where: Where) -> None:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, self.name, clean_session=self.clean, reconnect_on_failure=False
        )
        client.max_inflight_messages_set(200)
        gone = threading.Event()
        client.on_connect = lambda c, _d, _f, code, _p: gone.set() if code.is_failure else self.greet(c)
        client.on_disconnect = lambda *_: gone.set()
        client.on_message = self.got
        client.on_subscribe = lambda _c, _d, _m, codes, _p: self.granted(codes, gone)
        client.on_publish = self.acknowledged
        self.answered = time.monotonic()
        client.connect(*(where if isinstance(where, tuple) else ("127.0.0.1", where)), 10)
        client.loop_start()
        try:
            while not gone.is_set() and not self._ended.is_set():
                if not self.ready and time.monotonic() - self.answered > PATIENCE_S:
                    return
                if not self.work(client):
                    return
        finally:
            self.ready = False
            with suppress(Exception):
                client.disconnect()
            client.loop_stop()
            self.left()

    # --- what a kind of client does

    def greet(self, client: mqtt.Client) -> None:
        """It is connected."""
        self.answered, self.ready = time.monotonic(), True
        self.connections += 1

    def granted(self, codes: Any, gone: threading.Event) -> None:
        """A subscription is answered."""

    def got(self, _client: Any, _data: Any, message: Any) -> None:
        """A message has come."""

    def acknowledged(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        """A message is acknowledged."""

    def work(self, client: mqtt.Client) -> bool:
        """Do something for a moment; whether to go on with this connection."""
        time.sleep(0.02)
        return True

    def left(self) -> None:
        """The connection is over."""


class Subscriber(Roaming):
    """With a session, so that nothing that was acknowledged to a publisher may miss it."""

    def __init__(self, name: str, ports: Ports, first: int = 0, wanted: str = "load/#") -> None:
        super().__init__(name, ports, first, clean=False)
        self.wanted = wanted
        self.received: Counter[bytes] = Counter()
        self.gaps: Counter[int] = Counter()
        """Of those that came again: by seconds since the first time."""
        self.unmarked = 0
        """Those that came again without DUP."""
        self._first: dict[bytes, float] = {}

    def greet(self, client: mqtt.Client) -> None:
        self.answered = time.monotonic()
        client.subscribe(self.wanted, 1)

    def granted(self, codes: Any, gone: threading.Event) -> None:
        if any(each.is_failure for each in codes):
            gone.set()
            return
        super().greet(mqtt.Client(CallbackAPIVersion.VERSION2))

    def got(self, _client: Any, _data: Any, message: Any) -> None:
        self.answered = time.monotonic()
        self.received[message.payload] += 1
        if (first := self._first.setdefault(message.payload, self.answered)) < self.answered:
            self.gaps[round(self.answered - first)] += 1
            self.unmarked += not message.dup


class Publisher(Roaming):
    """At QoS 1, so many each second; what is not acknowledged when a connection ends is given up."""

    def __init__(self, name: str, ports: Ports, rate: float, first: int = 0, topic: str = "load/x") -> None:
        super().__init__(name, ports, first)
        self.rate, self.topic = rate, topic
        self.acked: set[bytes] = set()
        self.sent = 0
        self.silence = 0.0
        self._waiting: dict[int, bytes] = {}
        self._early: set[int] = set()
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self._last = time.monotonic()

    def acknowledged(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        now = time.monotonic()
        with self._lock:
            self.silence = max(self.silence, now - self._last)
            self._last = self.answered = now
            payload = self._waiting.pop(mid, None)
            if payload is None:
                self._early.add(mid)
            else:
                self.acked.add(payload)

    def work(self, client: mqtt.Client) -> bool:
        now = time.monotonic()
        if self._waiting and now - self.answered > PATIENCE_S:
            return False
        if not self.ready or len(self._waiting) >= 200:
            time.sleep(0.005)
            self._due = max(self._due, now - 0.1)
            return True
        while self._due <= now and len(self._waiting) < 200:
            payload = f"{self.name}-{self.sent}".encode()
            self.sent += 1
            self._due += 1 / self.rate
            if not self._waiting:
                self.answered = now
            mid = client.publish(self.topic, payload, 1).mid
            with self._lock:
                if mid in self._early:
                    self._early.remove(mid)
                    self.acked.add(payload)
                else:
                    self._waiting[mid] = payload
        time.sleep(0.005)
        return True

    def left(self) -> None:
        with self._lock:
            self._waiting.clear()
            self._early.clear()
        self._due = time.monotonic()
