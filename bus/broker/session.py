"""One client's session: its filters and the QoS 1 messages that it has not acknowledged.

Pending messages are bounded in number and bytes. A message stays in flight until its PUBACK, however long
that takes; if the connection ends first, a persistent session resends it with DUP on the next connection.
Pure state: the connection is a `Sink`, and encoding is passed in.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from msgspec import Struct

from .limits import Limits, Meter, Owner

MAX_IN_FLIGHT: Final = 1000
"""QoS 1 messages sent and not acknowledged; further ones are queued in order."""
MAX_AWAY: Final = 1000
"""Messages kept for a persistent session that is away (as mosquitto's `max_queued_messages`)."""
_PER_MESSAGE: Final = 200  # bytes of bookkeeping, so that many empty messages count too


class Publication(Struct, frozen=True):
    """One published message; `qos` is the publisher's, `retain` marks one from the retained store."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False

    @property
    def cost(self) -> int:
        """Bytes that it counts for in limits."""
        return len(self.topic) + len(self.payload) + _PER_MESSAGE


class Sink(Protocol):
    """The live connection of a session."""

    def send(self, data: bytes) -> None:
        """Queue bytes for the client; never blocks."""

    def abort(self, reason: str) -> None:
        """Drop the connection at once, as failed: the will is published."""

    def supersede(self) -> None:
        """Drop the connection at once because its client reconnected."""


Encode = Callable[[Publication, int | None, bool], bytes]
"""publication, packet id (None at QoS 0), dup -> packet"""


@dataclass(eq=False)
class Session:
    """One client's state. `owner` is the account, `persistent` the opposite of MQTT's clean session."""

    owner: Owner
    client_id: str
    persistent: bool
    encode: Encode
    limits: Limits
    meter: Meter
    sink: Sink | None = None
    filters: dict[str, int] = field(default_factory=dict)
    narrowed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What is subscribed instead of a filter that matches more than the account may read."""
    received: set[int] = field(default_factory=set)  # ids of incoming QoS 2 messages not yet released
    _in_flight: dict[int, Publication] = field(default_factory=dict)
    _waiting: deque[Publication] = field(default_factory=deque)
    _held: int = 0
    _last_id: int = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of QoS 1 messages in flight and waiting."""
        return self._held

    def parts(self, wanted: str) -> tuple[str, ...]:
        """The filters that are subscribed for one that was asked for."""
        return self.narrowed.get(wanted, (wanted,))

    def granted(self, part: str) -> int | None:
        """The highest QoS with which a filter is subscribed, as it was asked for or as a part; None: not."""
        asked = [wanted for wanted, parts in self.narrowed.items() if part in parts]
        if part in self.filters and part not in self.narrowed:
            asked.append(part)
        return max((self.filters[wanted] for wanted in asked), default=None)

    def attach(self, sink: Sink) -> None:
        """A connection resumes the session: resend what is in flight, then send what is queued."""
        self.sink = sink
        for packet_id, message in list(self._in_flight.items()):
            sink.send(self.encode(message, packet_id, True))
        self._pump()

    def detach(self) -> None:
        """The connection is gone."""
        self.sink = None

    def deliver(self, message: Publication, qos: int, plain: bytes | None = None) -> None:
        """Send the message with this QoS; `plain` is its QoS 0 packet when the caller has it already."""
        if qos:
            self._hold(message)
        elif self.sink is not None:
            self.sink.send(plain if plain is not None else self.encode(message, None, False))

    def awaits(self, packet_id: int) -> bool:
        """True for the id of a message in flight."""
        return packet_id in self._in_flight

    def acknowledge(self, packet_id: int) -> None:
        """A PUBACK came. An unknown id is ignored."""
        message = self._in_flight.pop(packet_id, None)
        if message is not None:
            self._held -= message.cost
            self.meter.give_back(message.cost)
            self._pump()

    def discard(self) -> None:
        """The session is over: give back what it held."""
        self.persistent = False
        self._in_flight.clear()
        self._waiting.clear()
        held, self._held = self._held, 0
        self.meter.give_back(held)

    def _hold(self, message: Publication) -> None:
        if self.sink is None and (not self.persistent or len(self._waiting) >= MAX_AWAY):
            return
        if self._held + message.cost > self.limits.session_bytes:
            # While away it loses the newest.
            if self.sink is not None:
                self.sink.abort("too many unacknowledged messages")
            return
        if not self.meter.take(message.cost):
            if self.sink is not None:
                self.sink.abort("its account holds too many bytes")
            return
        if self.sink is None and not self.persistent:  # ended to make room
            self.meter.give_back(message.cost)
            return
        self._held += message.cost
        self._waiting.append(message)
        self._pump()

    def _pump(self) -> None:
        while self.sink is not None and self._waiting and len(self._in_flight) < MAX_IN_FLIGHT:
            message = self._waiting.popleft()
            packet_id = self._next_id()
            self._in_flight[packet_id] = message
            self.sink.send(self.encode(message, packet_id, False))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._in_flight:
                return self._last_id
