"""What the broker's tests share: a running broker with accounts, and a client made by hand.

The client says exactly the bytes it is told to, since no library misbehaves the way these tests need.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import ensure_account
from busbar.bus.broker.limits import LIMITS, Limits

from tests.pace import bound

WAIT_S = 5.0
CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 9, 11, 13
PUBREC, PUBCOMP = 5, 7
PEOPLE = {"manager": "manager", "alice": "person", "bob": "person", "n1": "node", "n2": "node"}
R = "busbar/v1/lab"


def secret(name: str) -> str:
    """The secret of a test account: long, so that its hash is the cheap one."""
    return f"{name}-" + "s" * 40


def make_accounts(folder: Path) -> Path:
    """An accounts file with one manager, two persons and two nodes."""
    path = folder / "private" / "accounts.json"
    for name, kind in PEOPLE.items():
        ensure_account(path, name, kind, secret(name))
    return path


@asynccontextmanager
async def broker_in(
    folder: Path, ws_port: int | None = None, limits: Limits = LIMITS
) -> AsyncIterator[EmbeddedBroker]:
    """A running broker with the accounts of `make_accounts`."""
    config = BrokerConfig(make_accounts(folder), ws_port=ws_port, limits=limits)
    async with EmbeddedBroker(config) as broker:
        try:
            yield broker
        finally:
            while Raw.opened:
                Raw.opened.pop().leave()


def text(value: str | bytes) -> bytes:
    """A string or bytes with its length in front."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(raw)) + raw


def packet(first: int, body: bytes) -> bytes:
    """A whole packet from its first byte and its body."""
    out, length = bytearray([first]), len(body)
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


@dataclass(frozen=True)
class Will:
    """The will of a hand-made CONNECT."""

    topic: str
    payload: bytes = b"lost"
    retain: bool = False


def connect_bytes(
    name: str,
    *,
    client_id: str = "",
    password: str | None = None,
    keep_alive: int = 0,
    clean: bool = True,
    will: Will | None = None,
    level: int = 4,
) -> bytes:
    """A CONNECT packet, of any protocol level."""
    flags = 0xC0 | (0x02 if clean else 0)
    body = text(client_id or name)
    if will is not None:
        flags |= 0x04 | 0x08 | (0x20 if will.retain else 0)
        body += text(will.topic) + text(will.payload)
    body += text(name) + text(secret(name) if password is None else password)
    properties = b"\0" if level == 5 else b""
    return packet(
        0x10, text("MQTT") + bytes([level, flags]) + struct.pack("!H", keep_alive) + properties + body
    )


@dataclass
class Raw:
    """A connection that speaks MQTT by hand. `got` holds PUBLISHes met while waiting for something else."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    opened: ClassVar[list["Raw"]] = []
    code: int = -1
    present: bool = False
    got: list[tuple[str, bytes, int]] = field(default_factory=list)
    _last_id: int = 0

    @classmethod
    async def open(cls, port: int) -> "Raw":
        """A connection on which nothing was said yet."""
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        cls.opened.append(raw)
        return raw

    @classmethod
    async def connect(cls, port: int, name: str, *, client_id: str = "", **more: object) -> "Raw":
        """A connection with its CONNACK received; `code` holds the return code."""
        raw = await cls.open(port)
        raw.say(connect_bytes(name, client_id=client_id, **more))  # type: ignore[arg-type]
        _, body = await raw.expect(CONNACK)
        raw.present, raw.code = bool(body[0]), body[1]
        return raw

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def hear(self, within: float | None = None) -> tuple[int, bytes]:
        """The next packet: first byte and body. EOFError when the broker hung up, else TimeoutError."""
        async with asyncio.timeout(bound(WAIT_S) if within is None else within):
            try:
                first = (await self.reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    digit = (await self.reader.readexactly(1))[0]
                    length |= (digit & 0x7F) << shift
                    shift += 7
                    if digit < 0x80:
                        return first, await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise EOFError("the broker hung up") from error

    async def expect(self, kind: int, within: float = WAIT_S) -> tuple[int, bytes]:
        """The next packet of a kind; PUBLISHes before it are kept in `got`."""
        while True:
            first, body = await self.hear(bound(within))
            if first >> 4 == kind:
                return first, body
            assert first >> 4 == PUBLISH, f"expected packet type {kind}, got {first >> 4}"
            self.got.append(take_apart(first, body))

    async def message(self, within: float = WAIT_S, ack: bool = True) -> tuple[str, bytes, int]:
        """The next application message: topic, payload, first byte of its packet."""
        if self.got:
            return self.got.pop(0)
        first, body = await self.expect(PUBLISH, within)
        if ack and first & 0x06:
            self.say(packet(0x40, packet_id(body)))
        return take_apart(first, body)

    async def subscribe(self, *filters: str, qos: int = 1) -> list[int]:
        """The codes of the SUBACK."""
        body = self._id() + b"".join(text(wanted) + bytes([qos]) for wanted in filters)
        self.say(packet(0x82, body))
        return list((await self.expect(SUBACK))[1][2:])

    async def unsubscribe(self, *filters: str) -> None:
        """Give filters up and wait for the UNSUBACK."""
        self.say(packet(0xA2, self._id() + b"".join(map(text, filters))))
        await self.expect(UNSUBACK)

    async def publish(self, topic: str, payload: bytes = b"x", retain: bool = False) -> None:
        """Publish at QoS 1 and wait for the PUBACK."""
        self.say(packet(0x32 | retain, text(topic) + self._id() + payload))
        await self.expect(PUBACK)

    async def ping(self) -> None:
        """All that the broker had to send before has arrived when this returns."""
        self.say(packet(0xC0, b""))
        await self.expect(PINGRESP)

    async def closed(self, within: float = WAIT_S) -> None:
        """Wait until the broker hangs up; TimeoutError if it doesn't."""
        try:
            while True:
                await self.hear(bound(within))
        except EOFError:
            return

    def leave(self) -> None:
        """Close without DISCONNECT, as a client that crashed."""
        self.writer.transport.abort()

    def _id(self) -> bytes:
        self._last_id = self._last_id % 65535 + 1
        return struct.pack("!H", self._last_id)


def packet_id(body: bytes) -> bytes:
    """The packet id in a QoS 1 PUBLISH."""
    end = 2 + struct.unpack("!H", body[:2])[0]
    return body[end : end + 2]


def take_apart(first: int, body: bytes) -> tuple[str, bytes, int]:
    """Topic, payload and first byte of a PUBLISH."""
    end = 2 + struct.unpack("!H", body[:2])[0]
    return body[2:end].decode(), body[end + (2 if first & 0x06 else 0) :], first
