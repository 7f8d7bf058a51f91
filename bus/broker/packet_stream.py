"""One connection's bytes: whole packets in, within a size and a time; queued packets out, within a bound.

The same over TCP and WebSocket. Packets are decoded and encoded by amqtt's codecs.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from amqtt.adapters import WriterAdapter
from amqtt.mqtt.packet import CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, MQTTFixedHeader
from amqtt.mqtt.publish import PublishPacket

from .limits import LIMITS, Limits, Meter, source_of
from .session import Publication

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

STALL_S: Final = 10.0
"""A client that reads nothing for so long, while bytes are queued for it, is dropped."""
_PER_PACKET: Final = 64  # bytes of bookkeeping, so that a flood of small packets counts too
_STRANGERS_PARTS: Final = 64
_MAX_OTHER: Final = 16  # bytes of a packet that holds nothing but an id, or less
_BATCH: Final = 256 * 1024
_READ: Final = 64 * 1024

log = logging.getLogger(__name__)

Read = Callable[[], Awaitable[bytes]]
"""The next bytes of a transport; b"" at the end of the stream."""

GONE: Final = (OSError, EOFError, asyncio.TimeoutError)
"""What reading or writing raises when the client is gone or too slow."""


class Malformed(Exception):
    """The client violated the protocol; the connection must be closed."""


def encode(publication: Publication, packet_id: int | None, dup: bool) -> bytes:
    """The PUBLISH packet, at QoS 1 when there is a packet id and else at QoS 0."""
    qos = 0 if packet_id is None else 1
    packet = PublishPacket.build(
        publication.topic, publication.payload, packet_id, dup, qos, publication.retain
    )
    return bytes(packet.to_bytes())


class PacketStream:
    """`writer` is amqtt's adapter for the transport."""

    def __init__(
        self,
        read: Read,
        writer: WriterAdapter,
        transport: asyncio.BaseTransport,
        limits: Limits = LIMITS,
    ) -> None:
        self._sizes = {
            CONNECT: limits.connect_bytes,
            PUBLISH: limits.packet_bytes,
            SUBSCRIBE: limits.filter_packet_bytes,
            UNSUBSCRIBE: limits.filter_packet_bytes,
        }
        self.source = source_of(transport.get_extra_info("peername"))
        self._max_queued = limits.queued_bytes
        self._read = read
        self._writer = writer
        self._transport = transport
        self._buffer = bytearray()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._beneath: Callable[[], int] = lambda: 0
        self._below = 0
        self._max_stranger = limits.connect_bytes
        self._max_parts = limits.packet_fragments
        self._parts = 0
        self._meter: Meter | None = None
        self._wake = asyncio.Event()
        self._ended = False
        self.reason = ""
        set_nodelay(transport)

    async def packet(self, within: float | None, only: int | None = None) -> tuple[MQTTFixedHeader, bytes]:
        """The next packet's header and body.

        Raises Malformed when the header is broken or announces more bytes than its type may have, which is
        known before any of them is read; one of GONE at the end of the stream or when no whole packet came
        `within` seconds. Malformed as well, at the first byte, for a type other than `only`.
        """
        found = self._take(only)
        if found is None:
            async with asyncio.timeout(within):
                while found is None:
                    await self._fill()
                    found = self._take(only)
        return found

    def send(self, data: bytes) -> None:
        """Queue a packet; too many bytes waiting end the connection."""
        if self._ended:
            return
        if self._queued + len(data) + _PER_PACKET > self._max_queued:
            self.abort("does not read what it is sent")
            return
        if not self._take_bytes(len(data) + _PER_PACKET):
            return
        self._queue.append(data)
        self._queued += len(data) + _PER_PACKET
        self._wake.set()

    @property
    def held_bytes(self) -> int:
        """Bytes queued for the client and received from it, in packets not yet complete."""
        return self._queued + len(self._buffer) + self._below

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._queued

    def charge_to(self, meter: Meter) -> None:
        """The client is known: what its connection holds is charged to its account from now on."""
        if meter.take(self.held_bytes):
            self._meter = meter
        else:
            self.abort("its account holds too many bytes")

    def part_came(self) -> None:
        """A fragment of a WebSocket message was taken, perhaps an empty one. Too many for a packet end it."""
        self._parts += 1
        if self._parts > (_STRANGERS_PARTS if self._meter is None else self._max_parts):
            self.abort("sends a packet in too many fragments")

    def parts_taken(self) -> int:
        """Fragments since this was last asked: they cost as packets do."""
        parts, self._parts = self._parts, 0
        return parts

    def count(self, beneath: Callable[[], int]) -> None:
        """Count what the transport holds as well: bytes that were received and can't be read yet."""
        self._beneath = beneath
        self.recount()

    def recount(self) -> None:
        """The transport has received bytes; beyond the limits the connection is ended."""
        if self._ended:
            return
        held = self._beneath()
        if self._meter is None:
            self._below = held
            if held > self._max_stranger:
                self.abort("sends too much before it is logged in")
        elif held < self._below:
            self._give_back(self._below - held)
            self._below = held
        elif self._take_bytes(held - self._below):
            self._below = held

    def _take_bytes(self, count: int) -> bool:
        meter = self._meter
        if meter is not None and not meter.take(count):
            self.abort("its account holds too many bytes")
        elif meter is not None and self._ended:  # ended to make room
            meter.give_back(count)
        return not self._ended

    def _give_back(self, count: int) -> None:
        if self._meter is not None:
            self._meter.give_back(count)

    async def write_queued(self) -> None:
        """Runs beside the reader until `finish` or `abort`; then the queue is written or dropped."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while batch := self._next_batch():
                    self._writer.write(b"".join(batch))
                    async with asyncio.timeout(STALL_S):
                        await self._writer.drain()
                    self._written(sum(map(len, batch)) + _PER_PACKET * len(batch))
                if self._ended:
                    return
        except Exception as error:  # a transport may raise anything; here it only means the end
            self.abort(f"can't be written to ({error!r})")

    async def finish(self, writing: asyncio.Task[None], within: float) -> None:
        """Close once the queue was written, at most after `within` seconds."""
        self.hang_up()
        try:
            await asyncio.wait({writing}, timeout=within)
            if writing.done() and not self.reason:
                with suppress(Exception):
                    async with asyncio.timeout(within):
                        await self._writer.close()
        finally:
            writing.cancel()
            self.abort("ended")

    def hang_up(self) -> None:
        """Accept no further packet, in or out."""
        self._ended = True
        self._wake.set()

    def abort(self, reason: str) -> None:
        """Drop the connection and its queue now."""
        if not self.reason:
            self.reason = reason
        self.hang_up()
        self._queue.clear()
        self._give_back(self.held_bytes)
        self._meter, self._queued, self._below = None, 0, 0
        self._buffer.clear()
        abort: Callable[[], None] = getattr(self._transport, "abort", self._transport.close)
        abort()

    async def _fill(self) -> None:
        data = await self._read()
        if not data:
            raise EOFError("the client hung up")
        counted = min(len(data), self._below)
        if self._take_bytes(len(data) - counted):
            self._below -= counted
            self._buffer += data

    def _take(self, only: int | None) -> tuple[MQTTFixedHeader, bytes] | None:
        if self._ended:
            raise EOFError(self.reason)
        if only is not None and self._buffer and self._buffer[0] >> 4 != only:
            raise Malformed(f"packet of type {self._buffer[0] >> 4} instead of {only}")
        header = parse_header(self._buffer)
        if header is None:
            return None
        start, length = header
        kind = self._buffer[0] >> 4
        if length > (limit := self._sizes.get(kind, _MAX_OTHER)):
            raise Malformed(f"packet of type {kind} with {length} bytes, more than the {limit} allowed")
        if len(self._buffer) < start + length:
            return None
        first, body = self._buffer[0], bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        self._give_back(start + length)
        return MQTTFixedHeader(first >> 4, first & 0x0F, length), body

    def _written(self, count: int) -> None:
        if self._queued:  # else it was aborted meanwhile
            self._queued -= count
            self._give_back(count)

    def _next_batch(self) -> list[bytes]:
        parts: list[bytes] = []
        size = 0
        while self._queue and size < _BATCH:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
        return parts


def parse_header(buffer: bytearray) -> tuple[int, int] | None:
    """Where the body begins and how long it is; None while the header is incomplete.

    Raises Malformed for a length of more than four bytes (MQTT 3.1.1, section 2.2.3).
    """
    length = 0
    for index in range(1, min(len(buffer), 5)):
        length |= (buffer[index] & 0x7F) << (7 * (index - 1))
        if not buffer[index] & 0x80:
            return index + 1, length
    if len(buffer) >= 5:
        raise Malformed("remaining length of more than four bytes")
    return None


def set_nodelay(transport: asyncio.BaseTransport) -> None:
    """Disable Nagle's algorithm, which makes a QoS 1 round trip take 44 ms instead of one."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def tcp_read(reader: asyncio.StreamReader) -> Read:
    """How a PacketStream reads from a TCP stream."""
    return lambda: reader.read(_READ)


def websocket_read(websocket: "ServerConnection", on_part: Callable[[], None] = lambda: None) -> Read:
    """How a PacketStream reads from a WebSocket; `on_part` is called for each fragment. (amqtt's reader
    repeats the last message at the end.)"""
    from websockets.exceptions import ConnectionClosed

    async def fragments() -> AsyncIterator[bytes]:
        with suppress(ConnectionClosed):
            while True:
                # A message may come in fragments without end, so they are not collected.
                async for part in websocket.recv_streaming():
                    on_part()
                    if part:
                        yield part.encode() if isinstance(part, str) else part

    parts = fragments()
    return lambda: anext(parts, b"")
