"""A TCP proxy for MQTT packets: it forwards, delays, drops, duplicates and truncates them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from tests.brokers import free_port

PUBLISH = 3
CONNACK = 2
PUBACK = 4


@dataclass(frozen=True, slots=True)
class Packet:
    """One MQTT packet on its way; `up`: to the broker."""

    up: bool
    raw: bytes

    @property
    def kind(self) -> int:
        return self.raw[0] >> 4

    @property
    def topic(self) -> str:
        """The topic of a PUBLISH; empty for anything else."""
        if self.kind != PUBLISH:
            return ""
        start = 1
        while self.raw[start] & 0x80:
            start += 1
        length = int.from_bytes(self.raw[start + 1 : start + 3])
        return self.raw[start + 3 : start + 3 + length].decode(errors="replace")

    def again(self) -> bytes:
        """A duplicate; a QoS 1 PUBLISH gets the DUP flag."""
        if self.kind == PUBLISH and self.raw[0] & 0x06:
            return bytes([self.raw[0] | 0x08]) + self.raw[1:]
        return self.raw


Choice = Callable[[Packet], bool]


def nothing(_packet: Packet) -> bool:
    return False


class Proxy:
    """Listens on `port` and forwards to `upstream`, with the faults that its attributes set.

    `delay`: seconds for every packet. `drop`, `twice`, `tear`, `hold`: which packets are dropped, duplicated,
    truncated by a reset, or delivered after all that come within `hold_s`. `hole`: a black hole, without a
    reset. `shut`: connections are refused. `spoke`: when the last PUBLISH to the broker passed (monotonic
    seconds). `made`: connections so far.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = free_port()
        self.delay = 0.0
        self.hold_s = 0.3
        self.hole = False
        self.shut = False
        self.drop: Choice = nothing
        self.twice: Choice = nothing
        self.tear: Choice = nothing
        self.hold: Choice = nothing
        self.spoke = 0.0
        self.made = 0
        self.torn = self.doubled = self.dropped = self.held = 0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=2**20))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def blackhole(self) -> None:
        """Make a black hole: a half-open connection for both sides."""
        self.hole = True

    def heal(self) -> None:
        """Clear all faults; connections that went through a black hole are reset."""
        was, self.hole, self.shut, self.delay = self.hole, False, False, 0.0
        self.drop = self.twice = self.tear = self.hold = nothing
        if was:
            self.reset()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self.shut = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection."""

        async def work() -> None:
            for link in tuple(self._links):
                link.abort()

        self._run(work())

    def close(self) -> None:
        """Stop it, and close every connection."""
        self.shut = True

        async def work() -> None:
            self._server.close()
            for link in tuple(self._links):
                link.abort()
            if self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks, timeout=2)

        with contextlib.suppress(Exception):
            self._run(work())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._loop.is_running():
            self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, writer)
        self._links.add(link)
        self.made += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self.shut:
                # Only `close` cancels it: nothing waits for this task.
                with contextlib.suppress(asyncio.CancelledError):
                    await link.run(reader)
        finally:
            link.abort()
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client
        self.broker: asyncio.StreamWriter | None = None
        _no_delay(client)

    async def run(self, reader: asyncio.StreamReader) -> None:
        if self.proxy.hole:
            await _swallow(reader)
            return
        try:
            upstream, self.broker = await asyncio.open_connection("127.0.0.1", self.proxy.upstream)
        except OSError:
            return
        _no_delay(self.broker)
        ways = [
            asyncio.ensure_future(self._way(reader, self.broker, True)),
            asyncio.ensure_future(self._way(upstream, self.client, False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways, timeout=1)

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                packet = Packet(up, await _packet(reader))
                if self.proxy.hole or self._chosen("drop", "dropped", packet):
                    continue
                if up and packet.kind == PUBLISH:
                    self.proxy.spoke = time.monotonic()
                if self._chosen("tear", "torn", packet):
                    writer.write(packet.raw[: max(1, len(packet.raw) // 2)])
                    await writer.drain()
                    self.abort()
                    return
                wait = self.proxy.delay
                if self._chosen("hold", "held", packet):
                    wait += self.proxy.hold_s
                copies = [packet.raw]
                if self._chosen("twice", "doubled", packet):
                    copies.append(packet.again())
                for raw in copies:
                    if wait:
                        loop.call_later(wait, _write, writer, raw)
                    else:
                        _write(writer, raw)

    def _chosen(self, rule: str, counter: str, packet: Packet) -> bool:
        chosen = bool(getattr(self.proxy, rule)(packet))
        if chosen:
            setattr(self.proxy, counter, getattr(self.proxy, counter) + 1)
        return chosen

    def abort(self) -> None:
        for writer in (self.client, self.broker):
            if writer is not None:
                sock = writer.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                writer.transport.abort()


async def _packet(reader: asyncio.StreamReader) -> bytes:
    raw = await reader.readexactly(2)
    while raw[-1] & 0x80:
        raw += await reader.readexactly(1)
    length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(raw[1:]))
    return raw + await reader.readexactly(length)


async def _swallow(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def _write(writer: asyncio.StreamWriter, raw: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(raw)


def _no_delay(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
