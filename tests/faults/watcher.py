"""A client that survives every fault: it reconnects, resubscribes and retries its requests."""

from __future__ import annotations

import json
import time
from typing import Any

from paho.mqtt import client as paho

from tests.pace import bound
from tests.plain import Plain

BOUND_S = 20.0
"""Bound of convergence, seconds; generous for a busy machine."""


class Watcher(Plain):
    """A plain client that reconnects with its subscriptions, and retries until answered."""

    def __init__(self, port: int, user: str, password: str, realm: str = "lab", *, session: str = "") -> None:
        self._filters: list[str] = []
        super().__init__(port, user, password, realm, session=session)
        self.client.reconnect_delay_set(0.1, 0.4)  # type: ignore[arg-type]

    def subscribe(self, *levels: str) -> None:
        self._filters.append(self.topic(*levels))
        super().subscribe(*levels)

    def _on_connect(self, client: paho.Client, data: Any, flags: Any, code: Any, props: Any) -> None:
        super()._on_connect(client, data, flags, code, props)
        if not code.is_failure:
            for each in self._filters:
                client.subscribe(each, 1)

    def push(self, op: str, params: dict[str, Any], request_id: str, **more: Any) -> None:
        """Send a request without waiting."""
        body = {"id": request_id, "reply": "box", "params": params, **more}
        self.client.publish(self.topic("request", self.user, op), json.dumps(body), 1)

    def reply(self, request_id: str, timeout: float) -> dict[str, Any] | None:
        """The reply to a request, if it comes in time."""
        topic = self.topic("response", self.user, "box")

        def mine(message: tuple[str, bytes, bool]) -> bool:
            return message[0] == topic and json.loads(message[1])["id"] == request_id

        try:
            found: dict[str, Any] = json.loads(self.wait(mine, timeout)[1])
        except AssertionError:
            return None
        return found

    def ask(
        self, op: str, params: dict[str, Any] | None = None, *, timeout: float = BOUND_S, **more: Any
    ) -> dict[str, Any]:
        """Retry a request with one id until it is answered; returns the whole reply."""
        return self.insist(op, params, bound(timeout), **more)

    def insist(self, op: str, params: dict[str, Any] | None, seconds: float, **more: Any) -> dict[str, Any]:
        """The same for exactly so many seconds, on any machine."""
        request_id = more.pop("id", None) or next(self._ids)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            mark = len(self.messages)
            self.push(op, params or {}, request_id, **more)
            reply = self._reply_since(request_id, mark, 0.7)
            if reply is not None and not (not reply["ok"] and reply["error"]["code"] == "busy"):
                return reply
        raise AssertionError(f"{op} was not answered within {seconds:g} s")

    def _reply_since(self, request_id: str, mark: int, timeout: float) -> dict[str, Any] | None:
        topic = self.topic("response", self.user, "box")

        def mine(message: tuple[str, bytes, bool]) -> bool:
            return message[0] == topic and json.loads(message[1])["id"] == request_id

        try:
            found: dict[str, Any] = json.loads(self.first(mine, timeout, mark)[1])
        except AssertionError:
            return None
        return found

    def sure(self, op: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        """The result of a request that must succeed, with retries."""
        reply = self.ask(op, params, **more)
        assert reply["ok"], reply
        return reply["result"]
