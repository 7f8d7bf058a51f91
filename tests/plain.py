"""A plain MQTT client on a thread of its own, as any user would write one: it knows topics and JSON alone."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.pace import bound

PREFIX = "busbar/v1"


class Plain:
    """Requests, replies, and everything that was received, in order."""

    def __init__(
        self,
        port: int,
        user: str | None = None,
        password: str | None = None,
        realm: str = "lab",
        *,
        session: str = "",
    ) -> None:
        """`session`: the id of a session that the broker keeps while the connection is lost."""
        self.user = user or "anonymous"
        self.realm = realm
        self.messages: list[tuple[str, bytes, bool]] = []
        self.retained: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._ids = (f"r{number}-{time.monotonic_ns()}" for number in itertools.count())
        self._ready = threading.Event()
        self.refused: str | None = None
        self.client = paho.Client(CallbackAPIVersion.VERSION2, session, clean_session=not session)
        if user:
            self.client.username_pw_set(user, password)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self.client.on_socket_open = _no_delay
        self.client.connect("127.0.0.1", port, 30)
        self.client.loop_start()
        if not self._ready.wait(bound(10)):
            raise AssertionError("the broker did not answer")

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def topic(self, *levels: str) -> str:
        return "/".join((PREFIX, self.realm, *levels))

    def subscribe(self, *levels: str) -> None:
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe(self.topic(*levels), 1)
        assert done.wait(bound(10)), "no SUBACK"

    def publish(self, topic: str, payload: Any, *, retain: bool = False, qos: int = 1) -> None:
        body = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        self.client.publish(topic, body, qos, retain).wait_for_publish(bound(10))

    def send(
        self, op: str, payload: Any, *, inbox: str = "box", timeout: float = 10.0, retain: bool = False
    ) -> Any:
        """Publish a request's bytes as they are; return the next reply in that inbox."""
        mark = len(self.messages)
        self.publish(self.topic("request", self.user, op), payload, retain=retain)
        reply = self.topic("response", self.user, inbox)
        return json.loads(self.wait(lambda m: m[0] == reply, timeout, mark)[1])

    def call(
        self, op: str, params: dict[str, Any] | None = None, *, timeout: float = 10.0, **more: Any
    ) -> Any:
        """One request in due form; the whole reply."""
        request_id = more.pop("id", None) or next(self._ids)
        body = {"id": request_id, "reply": "box", "params": params or {}, **more}
        mark = len(self.messages)
        self.publish(self.topic("request", self.user, op), body)
        reply = self.topic("response", self.user, "box")

        def mine(message: tuple[str, bytes, bool]) -> bool:
            return message[0] == reply and json.loads(message[1])["id"] == request_id

        return json.loads(self.wait(mine, timeout, mark)[1])

    def ok(self, op: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        """The result of a request that has to succeed."""
        reply = self.call(op, params, **more)
        assert reply["ok"], reply
        return reply["result"]

    def code(self, op: str, params: dict[str, Any] | None = None, **more: Any) -> str:
        """The code of a request that has to fail."""
        reply = self.call(op, params, **more)
        assert not reply["ok"], reply
        return str(reply["error"]["code"])

    def wait(
        self, wanted: Callable[[tuple[str, bytes, bool]], bool], timeout: float = 10.0, since: int = 0
    ) -> tuple[str, bytes, bool]:
        """The first message received after the mark `since` that is wanted."""
        return self.first(wanted, bound(timeout), since)

    def first(
        self, wanted: Callable[[tuple[str, bytes, bool]], bool], seconds: float, since: int = 0
    ) -> tuple[str, bytes, bool]:
        """The same for who goes on after so many seconds, whatever the machine."""
        end = time.monotonic() + seconds
        with self._changed:
            position = since
            while True:
                for message in self.messages[position:]:
                    if wanted(message):
                        return message
                position = len(self.messages)
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    seen = [f"{topic} {payload[:200]!r}" for topic, payload, _ in self.messages[since:]][-8:]
                    raise AssertionError("not received in time; last messages:\n" + "\n".join(seen))

    def wait_retained(self, topic: str, wanted: Callable[[Any], bool], timeout: float = 20.0) -> Any:
        """Wait until the newest message on a topic is wanted (`{}` for a removed one)."""
        end = time.monotonic() + bound(timeout)
        with self._changed:
            while not (topic in self.retained and wanted(self.retained[topic])):
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(f"{topic} is {self.retained.get(topic)}")
            return self.retained[topic]

    def status(self, cluster: str, kind: str, name: str, *statuses: str, timeout: float = 20.0) -> Any:
        """Wait until an object's retained status is one of these."""
        topic = self.topic("status", cluster, kind, name)
        return self.wait_retained(topic, lambda value: value.get("status") in statuses, timeout)

    def events(self) -> list[dict[str, Any]]:
        """Every event received so far."""
        start = self.topic("event") + "/"
        return [json.loads(payload) for topic, payload, _ in list(self.messages) if topic.startswith(start)]

    def wait_event(self, kind: str, timeout: float = 20.0, since: int = 0, **data: Any) -> dict[str, Any]:
        """Wait for an event of this type whose data holds these members."""

        def wanted(message: tuple[str, bytes, bool]) -> bool:
            if "/event/" not in message[0]:
                return False
            event = json.loads(message[1])
            found = event["data"]
            return event["type"] == f"busbar.{kind}" and all(found.get(k) == v for k, v in data.items())

        event: dict[str, Any] = json.loads(self.wait(wanted, timeout, since)[1])
        return event

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        if code.is_failure:
            self.refused = str(code)
        else:
            client.subscribe(self.topic("response", self.user, "+"), 1)
        self._ready.set()

    def _on_message(self, _client: paho.Client, _data: Any, raw: paho.MQTTMessage) -> None:
        with self._changed:
            self.messages.append((raw.topic, bytes(raw.payload), raw.retain))
            try:
                self.retained[raw.topic] = json.loads(raw.payload) if raw.payload else {}
            except ValueError:
                self.retained[raw.topic] = None
            self._changed.notify_all()


def _no_delay(_client: paho.Client, _data: Any, sock: Any) -> None:
    import socket

    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
