"""Sessions, subscriptions and retained messages of the amqtt router, at QoS 0 to 2.

amqtt's own, of version 0.12.1, lose acknowledged messages and deliver what was not subscribed (see
docs/decisions/0019). Pure state: connections are `Sink`s.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrel import PubrelPacket
from busbar.bus.broker.limits import Limits, fits
from busbar.bus.broker.protocol import MAX_RECEIVED
from busbar.bus.broker.session import Publication, Sink
from busbar.bus.broker.topic_tree import SubscriptionTree, TopicTree
from busbar.bus.topics import is_valid_filter
from msgspec.structs import replace

from .amqtt_acl import Rights

MAX_SESSIONS_AWAY: Final = 256
"""Persistent sessions without a connection; the one that is away longest goes first."""
MAX_AWAY: Final = 1000
"""Messages kept for such a session, the oldest ones."""
MAX_HELD_AWAY: Final = 4 * 1024 * 1024
"""Bytes of them."""
MAX_IN_FLIGHT: Final = 1000
"""Messages of QoS 1 and 2 sent and not acknowledged; further ones wait."""
MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of such messages, both kinds, of one session."""
MAX_RETAINED: Final = 100_000
MAX_HELD_RETAINED: Final = 128 * 1024 * 1024
"""Bytes of retained messages; beyond either a message is delivered and not retained."""
SUBACK_FAILURE: Final = 0x80

LIMITS: Final = Limits(
    topic_bytes=4096,
    topic_levels=128,
    session_filters=10_000,
    packet_bytes=16 * 1024 * 1024,
    connect_bytes=512 * 1024,
    filter_packet_bytes=1024 * 1024,
    queued_bytes=64 * 1024 * 1024,
)
"""Bounds of one connection: a larger packet or topic, or more bytes that a client does not read, end it; a
filter beyond them is refused."""

log = logging.getLogger("amqtt.router")

Client = tuple[str, str]
"""User name and client id: nobody takes over the session of another user."""


def _encode(message: Publication, packet_id: int | None, dup: bool) -> bytes:
    packet = PublishPacket.build(message.topic, message.payload, packet_id, dup, message.qos, message.retain)
    return bytes(packet.to_bytes())


def _release(packet_id: int) -> bytes:
    return bytes(PubrelPacket.build(packet_id).to_bytes())


@dataclass(eq=False)
class Session:
    """One client's state; `persistent` is the opposite of MQTT's clean session."""

    client: Client
    persistent: bool
    rights: Rights | None = None
    """Those of its last connection; None: it may read everything."""
    sink: Sink | None = None
    filters: set[str] = field(default_factory=set)
    _received: dict[int, tuple[Publication, bool]] = field(default_factory=dict)
    _held_received: int = 0
    _in_flight: dict[int, Publication | None] = field(default_factory=dict)  # None: received, not completed
    _waiting: deque[Publication] = field(default_factory=deque)
    _held: int = 0
    _last_id: int = 0

    def attach(self, sink: Sink) -> None:
        """A connection resumes the session: what was not acknowledged is sent again (MQTT-4.4.0-1)."""
        self.sink = sink
        for packet_id, message in list(self._in_flight.items()):
            sink.send(_release(packet_id) if message is None else _encode(message, packet_id, True))
        self._pump()

    def deliver(self, message: Publication) -> None:
        """Send the message at its QoS, or keep it for a persistent session that is away; not without the
        right to read it."""
        if self.rights is not None and not self.rights.may_read(message.topic):
            return
        if not message.qos:
            if self.sink is not None:
                self.sink.send(_encode(message, None, False))
            return
        if self.sink is None and (not self.persistent or len(self._waiting) >= MAX_AWAY):
            return
        if self._held + message.cost > (MAX_HELD if self.sink is not None else MAX_HELD_AWAY):
            if self.sink is not None:
                self.sink.abort("does not acknowledge what it is sent")
            return
        self._held += message.cost
        self._waiting.append(message)
        self._pump()

    def receive(self, packet_id: int, message: Publication, retain: bool) -> bool:
        """Keep a message of QoS 2 until it is released, once; False beyond the bounds."""
        if packet_id in self._received:
            return True
        if len(self._received) >= MAX_RECEIVED or self._held_received + message.cost > MAX_HELD:
            return False
        self._received[packet_id] = message, retain
        self._held_received += message.cost
        return True

    def release(self, packet_id: int) -> tuple[Publication, bool] | None:
        """A PUBREL came: the message to route, and whether to retain it."""
        found = self._received.pop(packet_id, None)
        if found is not None:
            self._held_received -= found[0].cost
        return found

    def acknowledged(self, packet_id: int) -> None:
        """A PUBACK came. One that nothing awaits is ignored."""
        message = self._in_flight.get(packet_id)
        if message is not None and message.qos == 1:
            del self._in_flight[packet_id]
            self._held -= message.cost
            self._pump()

    def arrived(self, packet_id: int) -> None:
        """A PUBREC came."""
        message = self._in_flight.get(packet_id)
        if message is not None and message.qos == 2:
            self._in_flight[packet_id] = None
            self._held -= message.cost
        if self.sink is not None:
            self.sink.send(_release(packet_id))

    def completed(self, packet_id: int) -> None:
        """A PUBCOMP came."""
        if self._in_flight.get(packet_id, self) is None:
            del self._in_flight[packet_id]
            self._pump()

    def _pump(self) -> None:
        while self.sink is not None and self._waiting and len(self._in_flight) < MAX_IN_FLIGHT:
            message = self._waiting.popleft()
            while (packet_id := self._last_id % 65535 + 1) in self._in_flight:
                self._last_id = packet_id
            self._last_id = packet_id
            self._in_flight[packet_id] = message
            self.sink.send(_encode(message, packet_id, False))


class Exchange:
    """What all connections share."""

    def __init__(self) -> None:
        self._sessions: dict[Client, Session] = {}
        self._tree: SubscriptionTree[Session] = SubscriptionTree()
        self._retained: TopicTree[Publication] = TopicTree()
        self._held_retained = 0
        self._told_full = False

    def open(self, client: Client, persistent: bool, rights: Rights | None = None) -> tuple[Session, bool]:
        """The session for a new connection, and whether it was there before. Ends the client's former one."""
        old = self._sessions.get(client)
        if old is not None and old.sink is not None:
            old.sink.supersede()
            old.sink = None
        if old is not None and old.persistent and persistent:
            old.rights = rights
            return old, True
        if old is not None:
            self._forget(old)
        session = self._sessions[client] = Session(client, persistent, rights)
        return session, False

    def close(self, session: Session) -> None:
        """The session's connection ended: a clean session ends with it (MQTT-3.1.2-6)."""
        session.sink = None
        if not session.persistent:
            self._forget(session)
        elif self._sessions.pop(session.client, None) is not None:
            self._sessions[session.client] = session  # now the most recently disconnected
            away = [kept for kept in self._sessions.values() if kept.sink is None]
            for kept in away[: max(0, len(away) - MAX_SESSIONS_AWAY)]:
                self._forget(kept)

    def subscribe(self, session: Session, wanted: str, qos: int) -> int:
        """The code for the SUBACK; a filter that the session has is granted anew (MQTT-3.8.4-3)."""
        full = wanted not in session.filters and len(session.filters) >= LIMITS.session_filters
        if full or not is_valid_filter(wanted) or not fits(wanted, LIMITS):
            return SUBACK_FAILURE
        if session.rights is not None and not session.rights.may_subscribe(wanted):
            return SUBACK_FAILURE
        session.filters.add(wanted)
        self._tree.add(wanted, session, qos)
        return qos

    def unsubscribe(self, session: Session, wanted: str) -> None:
        """Drop the filter, if the session has it."""
        session.filters.discard(wanted)
        self._tree.remove(wanted, session)

    def retained(self, wanted: str, qos: int) -> list[Publication]:
        """The retained messages that a subscription brings, at the lower QoS of the two."""
        return [replace(kept, qos=min(qos, kept.qos)) for kept in self._retained.match(wanted)]

    def publish(self, message: Publication, retain: bool) -> None:
        """Retain the message if that is wanted, and deliver it once to every client that subscribed to it."""
        if retain:
            self._retain(replace(message, retain=True))
        for session, granted in self._tree.match(message.topic).items():
            session.deliver(replace(message, qos=min(granted, message.qos)))

    def _retain(self, message: Publication) -> None:
        """Set the topic's retained message; an empty one removes it, and so does one that has no room."""
        former = self._retained.pop(message.topic)
        if former is not None:
            self._held_retained -= former.cost
        if not message.payload:
            return
        if self._held_retained + message.cost <= MAX_HELD_RETAINED and len(self._retained) < MAX_RETAINED:
            self._retained.put(message.topic, message)
            self._held_retained += message.cost
        elif not self._told_full:
            self._told_full = True  # once: what clients send must not fill the log
            log.warning("no room for more retained messages: they are delivered and not retained")

    def _forget(self, session: Session) -> None:
        for wanted in session.filters:
            self._tree.remove(wanted, session)
        session.persistent = False
        if self._sessions.get(session.client) is session:
            del self._sessions[session.client]
