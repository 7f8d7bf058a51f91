"""Clients of the workers, as a user's programs would be: MQTT, HTTP, WAMP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.errors import BusOfflineError
from busbar.bus.options import parse_url, parse_urls

PATIENCE_S: Final = 40.0
"""Of a client whose routers elect a leader, seconds."""
ANSWER_S: Final = 10.0
"""Bound of every wait for an answer, seconds."""


async def mqtt_echo(url: str, count: int, clock: Clock) -> int:
    """Subscribe and publish through an MQTT router; returns how many messages came back."""
    link = MqttLink(parse_url(url), clock=clock, random=Random())
    received: set[bytes] = set()
    complete = asyncio.Event()

    def on_message(message: Message) -> None:
        received.add(message.payload)
        if len(received) == count:
            complete.set()

    link.subscribe("demo/echo", on_message)
    running = asyncio.create_task(link.run())
    try:
        await link.wait_connected(ANSWER_S)
        for number in range(count):
            await link.publish("demo/echo", f"message {number}".encode())
        async with asyncio.timeout(ANSWER_S):
            await complete.wait()
    except TimeoutError:
        pass
    finally:
        running.cancel()
        await asyncio.wait([running])
    return len(received)


class Stream:
    """A subscriber at one MQTT router, and a publisher that knows several: numbers, at QoS 1, in order.

    A number is published until it is acknowledged, at another router if need be, and then the next one is.
    """

    def __init__(self, hears: str, speaks: Sequence[str], clock: Clock) -> None:
        self._clock = clock
        self.acknowledged = 0
        self.heard: set[int] = set()
        self.pause_s = 0.0
        """The longest time between two acknowledgements, seconds."""
        options = replace(parse_url(hears), client_id="demo-subscriber")
        self._subscriber = MqttLink(options, clock=clock, random=Random())
        options = replace(parse_urls(",".join(speaks)), client_id="demo-publisher")
        self._publisher = MqttLink(options, clock=clock, random=Random())
        self._subscriber.subscribe("demo/numbers/+", lambda message: self.heard.add(int(message.payload)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stream]:
        """Numbers are published until the end of the block."""
        links = [self._subscriber, self._publisher]
        tasks = [asyncio.create_task(link.run()) for link in links]
        try:
            for link in links:
                await link.wait_connected(PATIENCE_S)
            tasks.append(asyncio.create_task(self._publish()))
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _publish(self) -> None:
        last = self._clock.monotonic()
        while True:
            number = self.acknowledged
            try:
                await self._publisher.publish(f"demo/numbers/{number}", b"%d" % number)
                self.acknowledged = number + 1
                now = self._clock.monotonic()
                self.pause_s, last = max(self.pause_s, now - last), now
            except BusOfflineError:
                pass
            await self._clock.sleep(0.02)

    def begin(self) -> None:
        """The longest pause is that from now on."""
        self.pause_s = 0.0

    async def more(self, count: int) -> str:
        """Wait until so many more are acknowledged, and until all that are were heard; what came of it.

        Raises:
            TimeoutError: they are not.
        """
        wanted = self.acknowledged + count
        async with asyncio.timeout(PATIENCE_S):
            while self.acknowledged < wanted or not self.heard.issuperset(range(wanted)):
                await self._clock.sleep(0.02)
        return f"{wanted} of {wanted} heard, longest pause {self.pause_s:.1f} s"


async def http_text(url: str) -> str:
    """GET, as text."""
    from urllib.request import urlopen

    def get() -> str:
        with urlopen(url, timeout=ANSWER_S) as answer:
            text: str = answer.read().decode()
            return text

    return await asyncio.to_thread(get)


async def http_json(url: str) -> Any:
    """GET, as JSON."""
    return json.loads(await http_text(url))


async def wamp_hello(url: str, realm: str) -> list[Any]:
    """Join a realm over a minimal WebSocket; returns the router's first message (2 is WELCOME)."""
    parts = urlsplit(url)
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(_upgrade(parts.netloc, parts.path))
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if " 101 " not in head.splitlines()[0]:
                return [head.splitlines()[0]]
            hello = [1, realm, {"roles": {"subscriber": {}}, "authmethods": ["anonymous"]}]
            writer.write(_frame(json.dumps(hello).encode()))
            message: list[Any] = json.loads(await _read_frame(reader))
            return message
        finally:
            writer.close()


def _upgrade(host: str, path: str) -> bytes:
    lines = [
        f"GET {path or '/'} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: wamp.2.json",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _frame(payload: bytes) -> bytes:
    """One text frame, masked as a client's must be (RFC 6455, section 5.2)."""
    mask = os.urandom(4)
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
    return b"\x81" + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    _, size = await reader.readexactly(2)
    if size == 126:
        size = struct.unpack(">H", await reader.readexactly(2))[0]
    elif size == 127:
        size = struct.unpack(">Q", await reader.readexactly(8))[0]
    return await reader.readexactly(size)


def processes_with(*marks: bytes) -> list[str]:
    """Command lines of other processes whose environment or arguments contain one of the marks."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes()
            text = arguments + (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(mark in text for mark in marks):
            found.append(
                f"{folder.name} {arguments.replace(bytes(1), b' ').decode(errors='replace').strip()}"
            )
    return found
