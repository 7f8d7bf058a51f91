"""A minimal WAMP client (JSON over WebSocket): enough to send a message through a router."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.pace import bound

HELLO, WELCOME, SUBSCRIBE, SUBSCRIBED, PUBLISH, PUBLISHED, EVENT = 1, 2, 32, 33, 16, 17, 36


class WampClient:
    """`async with WampClient(url) as wamp`: joins the realm; every wait is bounded by `timeout_s`.

    `authmethod` is one that asks nothing of the client, such as anonymous or tls. `welcome`: what it is told.
    """

    def __init__(
        self,
        url: str,
        realm: str = "realm1",
        timeout_s: float = 10.0,
        *,
        authmethod: str = "anonymous",
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url, self._realm, self._timeout_s = url, realm, timeout_s
        self._authmethod, self._tls, self._headers = authmethod, tls, headers
        self.welcome: dict[str, Any] = {}
        self._connection: ClientConnection | None = None
        self._request = 0
        self._events: list[list[Any]] = []

    async def __aenter__(self) -> WampClient:
        self._connection = await connect(
            self._url,
            subprotocols=[Subprotocol("wamp.2.json")],
            open_timeout=bound(self._timeout_s),
            ssl=self._tls,
            additional_headers=self._headers,
        )
        roles: dict[str, Any] = {"subscriber": {}, "publisher": {}}
        await self._send([HELLO, self._realm, {"roles": roles, "authmethods": [self._authmethod]}])
        self.welcome = (await self._until(WELCOME))[2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def subscribe(self, topic: str) -> None:
        self._request += 1
        await self._send([SUBSCRIBE, self._request, {}, topic])
        await self._until(SUBSCRIBED)

    async def publish(self, topic: str, *args: Any) -> None:
        self._request += 1
        options = {"acknowledge": True, "exclude_me": False}
        await self._send([PUBLISH, self._request, options, topic, list(args)])
        await self._until(PUBLISHED)

    async def event(self) -> list[Any]:
        """The arguments of the next event."""
        message = self._events.pop(0) if self._events else await self._until(EVENT)
        arguments: list[Any] = message[4] if len(message) > 4 else []
        return arguments

    async def _send(self, message: list[Any]) -> None:
        assert self._connection is not None
        await self._connection.send(json.dumps(message))

    async def _until(self, kind: int) -> list[Any]:
        assert self._connection is not None
        async with asyncio.timeout(bound(self._timeout_s)):
            while True:
                message: list[Any] = json.loads(await self._connection.recv())
                if message[0] == kind:
                    return message
                if message[0] != EVENT:
                    raise AssertionError(f"expected message type {kind}, got {message}")
                self._events.append(message)
