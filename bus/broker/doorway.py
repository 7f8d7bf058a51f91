"""What comes before a connection is served: its first packet is looked at, and decides who is served first.

A connection costs some hundred microseconds to serve, and clients that come back as fast as they can would
make all others wait behind theirs. So at first nothing is made for it but this. Clients whose password was
right before go on at once, within a limit for each account; of the others so many per second do, each name in
turn.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from amqtt.mqtt.packet import CONNECT

from ..buckets import Buckets
from ..clock import Clock
from .limits import Limits
from .packet_stream import Malformed, parse_header
from .protocol import CONNECT_WITHIN_S
from .strings import FLAG_NAME, FLAG_PASSWORD, FLAG_WILL, field

T = TypeVar("T")

_LEVEL: Final = 4
_TURN_S: Final = 0.02
"""How often those who wait are looked at."""
_LOOK_S: Final = 0.25
"""How often those are looked at who say nothing."""


class First(NamedTuple):
    """What a first packet says: empty where it can't be understood, which is then told where it is served."""

    name: str = ""
    password: str = ""


def peek(buffer: bytearray, most: int) -> First | None:
    """Look at a first packet of at most so many bytes without decoding it; None while it is not whole."""
    if buffer and buffer[0] != CONNECT << 4:
        return First()
    try:
        header = parse_header(buffer)
    except Malformed:
        return First()
    if header is None:
        return None
    start, length = header
    if length > most:
        return First()
    if len(buffer) < start + length:
        return None
    try:
        return _first(bytes(buffer[start : start + length]))
    except (IndexError, UnicodeDecodeError):
        return First()


def _first(body: bytes) -> First:
    _, at = field(body, 0)
    level, flags = body[at], body[at + 1]
    if level != _LEVEL:
        return First()
    at += 4
    for _ in range(3 if flags & FLAG_WILL else 1):  # client id, will topic, will payload
        _, at = field(body, at)
    name = password = b""
    if flags & FLAG_NAME:
        name, at = field(body, at)
    if flags & FLAG_PASSWORD:
        password, at = field(body, at)
    return First(name.decode(), password.decode())


class Queue(Generic[T]):
    """Those who wait, by name: each name in turn, and so many per second. Pure."""

    def __init__(self, limits: Limits) -> None:
        self._rate = Buckets(limits.other_logins, limits.other_logins_per_s, keys=1)
        self._rows: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, name: str, guest: T) -> None:
        """It waits."""
        self._rows.setdefault(name, deque()).append(guest)

    def remove(self, name: str, guest: T) -> None:
        """It is gone."""
        row = self._rows.get(name)
        if row is not None and guest in row:
            row.remove(guest)
            if not row:
                del self._rows[name]

    def next(self, now: float) -> T | None:
        """The next one that may go on; None when there is none, or too many did."""
        if not self._rows or not self._rate.take("", now):
            return None
        name, row = next(iter(self._rows.items()))
        guest = row.popleft()
        if row:
            self._rows.move_to_end(name)
        else:
            del self._rows[name]
        return guest


class Guest(asyncio.Protocol):
    """A connection that nothing was made for yet."""

    def __init__(self, doorway: "Doorway") -> None:
        self._doorway = doorway
        self.transport: asyncio.Transport
        self.buffer = bytearray()
        self.first: First | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It was accepted."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._doorway.arrived(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came, of the first packet or of more."""
        self.buffer += data
        if self.first is None:
            self._doorway.look_at(self)

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone before it was served."""
        self._doorway.left(self)


class Unserved(Protocol):
    """A connection that is not served yet, whatever there is of it."""

    @property
    def transport(self) -> asyncio.Transport:
        """What ends it, and says where it comes from."""
        ...


class Doorway:
    """`recognises` tells whether a password was right before; `on_arrived` and `on_left` tell the gate of
    silent connections; `serve` takes over a connection with what it has said."""

    def __init__(
        self,
        clock: Clock,
        limits: Limits,
        recognises: Callable[[str, str], bool],
        on_arrived: Callable[[asyncio.Transport], None],
        on_left: Callable[[asyncio.Transport], None],
        serve: Callable[[asyncio.Transport, bytes], None],
    ) -> None:
        self._clock, self._most = clock, limits.connect_bytes
        self._recognises = recognises
        self._on_arrived, self._on_left, self._serve = on_arrived, on_left, serve
        self._known = Buckets(limits.account_logins, limits.account_logins_per_s)
        self._queue: Queue[Guest] = Queue(limits)
        self._guests: dict[Unserved, float] = {}  # in the order in which they came, and when
        self._wake, self._never = asyncio.Event(), asyncio.Event()

    def arrived(self, guest: Unserved) -> None:
        """A connection was accepted."""
        self._guests[guest] = self._clock.monotonic()
        self._wake.set()
        self._on_arrived(guest.transport)

    def left(self, guest: Unserved) -> None:
        """It is gone, or another guest in its place."""
        self._guests.pop(guest, None)
        if isinstance(guest, Guest) and guest.first is not None:
            self._queue.remove(guest.first.name, guest)
        self._on_left(guest.transport)

    def look_at(self, guest: Guest) -> None:
        """Serve it, let it wait, or wait for the rest of its first packet."""
        guest.first = first = peek(guest.buffer, self._most)
        if first is None:
            return
        now = self._clock.monotonic()
        if first.password and self._recognises(*first) and self._known.take(first.name, now):
            self._go_on(guest)
            return
        guest.transport.pause_reading()
        self._queue.add(first.name, guest)
        self._let_in()

    async def run(self) -> None:
        """Let those in who wait, and end those who came too long ago, until cancelled; then end all."""
        try:
            while True:
                await self._wake.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TURN_S if self._queue else _LOOK_S):
                        await self._never.wait()
                if not self._guests:
                    self._wake.clear()
                self._let_in()
                self._end_late()
        finally:
            for guest in tuple(self._guests):
                guest.transport.abort()

    def _let_in(self) -> None:
        while (guest := self._queue.next(self._clock.monotonic())) is not None:
            self._go_on(guest)

    def _end_late(self) -> None:
        """Who says nothing, and who has waited for so long: that it has left is not seen meanwhile."""
        late = self._clock.monotonic() - CONNECT_WITHIN_S
        while self._guests and next(iter(self._guests.values())) <= late:
            guest = next(iter(self._guests))
            del self._guests[guest]
            guest.transport.abort()

    def _go_on(self, guest: Guest) -> None:
        self._guests.pop(guest, None)
        if not guest.transport.is_closing():
            self._serve(guest.transport, bytes(guest.buffer))
