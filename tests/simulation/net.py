"""The broker and the network between it and its clients, with the weather of a bad day."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from busbar.bus.connection.link import Message, Will
from busbar.bus.connection.packet_limit import publish_size
from busbar.bus.errors import BusOfflineError
from busbar.bus.options import MAX_PACKET
from busbar.bus.topics import matches as _matches

from tests.simulation.loop import SimLoop

if TYPE_CHECKING:
    from tests.simulation.link import SimLink

EMPTY = contextvars.Context()
"""The context of what belongs to no program: network and broker."""
matches = lru_cache(maxsize=1 << 16)(_matches)
CONNECT_S = 5.0
KEEPALIVE_S = 8.0
SMALL_PACKET = 700
"""Bytes of a packet in which a report or an assignment of two workers has no room."""
Route = Callable[[str, str, bytes, bool], None]


@dataclass(slots=True)
class Weather:
    """Chances per delivery, and seconds. Fair by default."""

    lose: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    late_wills: float = 0.0

    @property
    def fair(self) -> bool:
        return not (self.lose or self.duplicate or self.reorder or self.delay)


@dataclass(eq=False)
class Session:
    """One TCP connection with its MQTT session. Each end may believe that it lives when it does not."""

    link: SimLink
    will: Will | None
    patterns: dict[str, int] = field(default_factory=dict)
    max_packet: int = MAX_PACKET
    at_client: bool = True
    at_broker: bool = True
    deaf: bool = False
    inbound: float = 0.0
    outbound: float = 0.0
    stalled_until: float = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: dict[asyncio.Future[None], None] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)

    def qos_of(self, topic: str) -> int:
        """What was asked for a topic; -1 when it was not asked for."""
        found = self.routes.get(topic)
        if found is None:
            asked = [qos for pattern, qos in self.patterns.items() if matches(pattern, topic)]
            found = self.routes[topic] = max(asked, default=-1)
        return found

    def end_at_client(self) -> None:
        if not self.at_client:
            return
        self.at_client = False
        self.ended.set()
        for future in self.waiting:
            if not future.done():
                future.set_exception(BusOfflineError("the connection broke"))
                future.exception()
        self.waiting.clear()


class Broker:
    """MQTT as brokers do it: retained messages, wills, takeover; plus what goes wrong with it."""

    def __init__(self, loop: SimLoop, random: Random) -> None:
        self.loop, self.random = loop, random
        self.weather = Weather()
        self.up = True
        self.max_packet = MAX_PACKET
        self.oversized: list[str] = []
        """Messages that a client handed over though they are above the limit."""
        self.retained: dict[str, bytes] = {}
        self.sessions: dict[str, Session] = {}
        self.asking: dict[str, list[tuple[Session, int]]] = {}
        """By topic, until a session or what one asks for changes."""
        self.cut: set[str] = set()
        self.on_route: Route = lambda client, topic, payload, retain: None
        self.on_deliver: Callable[[SimLink, Message], None] = lambda link, message: None
        self.on_delivered: Callable[[SimLink, Message], None] = lambda link, message: None

    def latency(self) -> float:
        return self.random.uniform(0.0005, 0.004) + self.weather.delay

    # --- from clients

    def accept(self, session: Session) -> None:
        """A CONNECT: a session of the same client id is thrown out, and its will is published."""
        name, session.max_packet = session.link.client_id, self.max_packet
        old = self.sessions.get(name)
        if old is not None:
            self.close(old)
        self.sessions[name] = session
        self.asking.clear()

    def send(
        self, session: Session, message: Message, retain: bool, done: asyncio.Future[None] | None
    ) -> None:
        """A PUBLISH on its way in; in order with those before it."""
        size = publish_size(message.topic, message.payload, message.qos)
        if size > session.max_packet:
            self.oversized.append(f"{message.topic}: {size} bytes")
        session.inbound = max(session.inbound, session.stalled_until, self.loop.now + self.latency())
        self.loop.call_at(session.inbound, self._receive, session, message, retain, done, context=EMPTY)

    def _receive(
        self, session: Session, message: Message, retain: bool, done: asyncio.Future[None] | None
    ) -> None:
        if not self.up or not session.at_broker:
            return
        self.route(session.link.client_id, message.topic, message.payload, message.qos, retain)
        if done is not None:
            self._back(session, self._acknowledge, session, done)

    def _acknowledge(self, session: Session, done: asyncio.Future[None]) -> None:
        session.waiting.pop(done, None)
        if session.at_client and not done.done():
            done.set_result(None)

    def subscribed(self, session: Session, patterns: dict[str, int]) -> None:
        """A SUBSCRIBE came in: its retained messages follow."""
        if not session.at_broker:
            return
        session.patterns.update(patterns)
        session.routes.clear()
        self.asking.clear()
        for topic, payload in tuple(self.retained.items()):
            found = [qos for pattern, qos in patterns.items() if matches(pattern, topic)]
            if found:
                self._deliver(session, Message(topic, payload, True, min(1, max(found))))

    def route(self, client: str, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Publish to all who asked for it."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        self.on_route(client, topic, payload, retain)
        asking = self.asking.get(topic)
        if asking is None:
            asked = [(session, session.qos_of(topic)) for session in self.sessions.values()]
            asking = self.asking[topic] = [each for each in asked if each[1] >= 0]
        for session, at_most in asking:
            self._deliver(session, Message(topic, payload, False, min(qos, at_most)))

    # --- to clients

    def _deliver(self, session: Session, message: Message) -> None:
        weather, random = self.weather, self.random
        if message.qos == 0 and weather.lose and random.random() < weather.lose:
            return
        if weather.duplicate and random.random() < weather.duplicate:
            again = self.loop.now + random.uniform(0.0, 1.0)
            self.loop.call_at(again, self._arrive, session, message, context=session.link.program.context)
        if weather.reorder and random.random() < weather.reorder:
            late = self.loop.now + random.uniform(0.0, 0.5)
            self.loop.call_at(late, self._arrive, session, message, context=session.link.program.context)
            return
        self._back(session, self._arrive, session, message)

    def _back(self, session: Session, fn: Callable[..., None], *args: object) -> None:
        """Something on its way to the client, in order with what went before it."""
        session.outbound = max(session.outbound, session.stalled_until, self.loop.now + self.latency())
        self.loop.call_at(session.outbound, fn, *args, context=session.link.program.context)

    def _arrive(self, session: Session, message: Message) -> None:
        link = session.link
        if not session.at_client or session.deaf or link.session is not session:
            return
        self.on_deliver(link, message)
        link.take(message)
        self.on_delivered(link, message)

    # --- ends

    def close(self, session: Session, *, will: bool = True, notice: float | None = None) -> None:
        """The broker ends a session, or sees its end; the client notices after `notice` seconds."""
        if session.at_broker:
            session.at_broker = False
            if self.sessions.get(session.link.client_id) is session:
                del self.sessions[session.link.client_id]
                self.asking.clear()
            if will and session.will is not None:
                self._publish_will(session.will, session.link.client_id)
        if notice is None:
            notice = self.random.uniform(0.0, 0.05)
        self.loop.call_later(notice, session.end_at_client, context=session.link.program.context)

    def _publish_will(self, will: Will, client: str) -> None:
        late = self.weather.late_wills
        delay = self.random.uniform(0, late) if late else 0.0
        self.loop.call_later(delay, self._fire, will, client, context=EMPTY)

    def _fire(self, will: Will, client: str) -> None:
        if self.up:
            self.route(client, will.topic, will.payload, will.qos, will.retain)

    def crash(self, wills: bool) -> None:
        """The broker dies; every connection with it."""
        for session in tuple(self.sessions.values()):
            self.close(session, will=wills)
        self.up = False

    def reset(self, client: str) -> None:
        """The network breaks a client's connection."""
        session = self.sessions.get(client)
        if session is not None:
            self.close(session)
