"""Asks an ASGI application without a network, as a browser would: one answer, or a stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

from tests.pace import bound

HOST = "127.0.0.1:8780"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """One browser, at one address."""

    app: ASGIApp
    cookies: dict[str, str] = field(default_factory=dict)
    host: str = HOST
    address: str = "127.0.0.1"

    def _scope(self, method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
        route, _, query = path.partition("?")
        known = {
            "host": self.host,
            "cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
            **headers,
        }
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": method, "scheme": "http", "path": route, "raw_path": route.encode(),
            "query_string": query.encode(), "root_path": "", "client": (self.address, 5), "server": None,
            "headers": [(k.encode(), v.encode()) for k, v in known.items() if v],
        }  # fmt: skip

    async def ask(
        self, method: str, path: str, form: dict[str, str] | bytes | None = None, **headers: str
    ) -> Answer:
        """One request and its whole answer."""
        body = form if isinstance(form, bytes) else urlencode(form or {}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if form is not None:
            named.setdefault("content-type", "application/x-www-form-urlencoded")
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            if parts:
                return parts.pop()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        async with asyncio.timeout(bound(20)):
            await self.app(self._scope(method, path, named), receive, send)
        found = _answer(sent[0])
        found.body = b"".join(each.get("body", b"") for each in sent[1:])
        self._keep(found)
        return found

    def _keep(self, found: Answer) -> None:
        for name, value in found.headers:
            if name == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0].strip('"')

    @contextlib.asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
        """Server-sent events, name and value, until the block ends."""
        sent: asyncio.Queue[Message] = asyncio.Queue()
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        running = asyncio.create_task(
            self.app(self._scope("GET", path, {}), receive, sent.put)  # type: ignore[arg-type]
        )

        async def events() -> AsyncIterator[tuple[str, Any]]:
            rest = b""
            while True:
                async with asyncio.timeout(bound(20)):
                    part = await sent.get()
                rest += part.get("body", b"")
                *whole, rest = rest.split(b"\n\n")
                for text in whole:
                    lines = dict(line.split(": ", 1) for line in text.decode().splitlines() if ": " in line)
                    if "event" in lines:
                        yield lines["event"], json.loads(lines["data"])
                if not part.get("more_body", True):
                    return

        try:
            async with asyncio.timeout(bound(20)):
                start = _answer(await sent.get())
            assert start.status == 200 and start.header("content-type").startswith("text/event-stream"), start
            yield events()
        finally:
            gone.set()
            async with asyncio.timeout(bound(20)):
                await asyncio.wait([running])


def _answer(start: Message) -> Answer:
    return Answer(start["status"], [(k.decode(), v.decode()) for k, v in start["headers"]])
