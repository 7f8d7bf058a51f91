"""A program's connection to the simulated broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from random import Random
from typing import Any

from busbar.bus.backoff import Backoff
from busbar.bus.connection.link import NO_PROPERTIES, ConnectHook, Done, Handler, Message, Properties, Will
from busbar.bus.connection.packet_limit import PacketLimit
from busbar.bus.errors import BusOfflineError, MessageTooLargeError
from busbar.bus.options import MAX_PACKET

from tests.simulation.loop import Program
from tests.simulation.net import CONNECT_S, EMPTY, KEEPALIVE_S, Broker, Session, matches

log = logging.getLogger("busbar.bus")


class SimLink:
    """A `Link` that behaves as `bus.connection.mqtt_link.MqttLink` does, over the simulated network."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        program: Program,
        random: Random,
        will: Callable[[int], Will | None] | None = None,
    ) -> None:
        self.client_id = client_id
        self.program = program
        self.session: Session | None = None
        self.connected_at: float | None = None
        self._broker, self._loop, self._random, self._will = broker, broker.loop, random, will
        self._subscriptions: dict[str, tuple[Handler, int]] = {}
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._hooks: list[ConnectHook] = []
        self._up = asyncio.Event()
        self._conn = 0
        self._limit = PacketLimit(MAX_PACKET)
        self._backoff = Backoff()

    @property
    def connected(self) -> bool:
        return self._up.is_set() and not self.program.dead

    @property
    def max_packet(self) -> int:
        return self._limit.bytes

    @property
    def conn(self) -> int:
        return self._conn

    def subscribe(self, pattern: str, handler: Handler, qos: int = 1) -> None:
        self._subscriptions[pattern] = (handler, qos)
        self._handlers.clear()
        if self.session and self.connected:
            self._ask(self.session, {pattern: qos})

    def unsubscribe(self, pattern: str) -> None:
        self._handlers.clear()
        if self._subscriptions.pop(pattern, None) and self.session:
            self.session.patterns.pop(pattern, None)
            self.session.routes.clear()
            self._broker.asking.clear()

    def on_connect(self, hook: ConnectHook) -> None:
        self._hooks.append(hook)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        session = self.session
        if session is None or not self.connected or not session.at_client:
            raise BusOfflineError("no connection")
        self._limit.check(topic, payload, qos)
        done: asyncio.Future[None] | None = None
        if qos:
            done = self._loop.create_future()
            session.waiting[done] = None
        self._broker.send(session, Message(topic, payload, False, qos, properties), retain, done)
        if done is not None:
            await done

    def send(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        session = self.session
        if session is None or not self.connected or not session.at_client:
            self._loop.call_soon(done, BusOfflineError("no connection"))
            return
        try:
            self._limit.check(topic, payload, 1)
        except MessageTooLargeError as error:
            self._loop.call_soon(done, error)
            return
        taken: asyncio.Future[None] = self._loop.create_future()
        taken.add_done_callback(lambda future: done(future.exception()))
        session.waiting[taken] = None
        self._broker.send(session, Message(topic, payload, False, 1, properties), retain, taken)

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> bool:
        session = self.session
        if session is None or not self.connected or not session.at_client:
            return False
        try:
            self._limit.check(topic, payload, qos)
        except MessageTooLargeError:
            return False
        self._broker.send(session, Message(topic, payload, False, qos, properties), retain, None)
        return True

    async def wait_connected(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            raise BusOfflineError("not connected") from None

    def reconnect(self, reason: str) -> None:
        if self.session:
            self.session.end_at_client()

    async def run(self) -> None:
        failures = 0
        while True:
            began = self._loop.now
            with contextlib.suppress(BusOfflineError):
                await self._connect_once()
            failures = 1 if self._loop.now - began > CONNECT_S else failures + 1
            await asyncio.sleep(self._backoff.delay(failures, self._random.random()))

    async def _connect_once(self) -> None:
        self._conn += 1
        session = Session(self, self._will(self._conn) if self._will else None)
        await asyncio.sleep(2 * self._broker.latency())
        if not self._broker.up or self.client_id in self._broker.cut:
            raise BusOfflineError("connection refused")
        self._limit.connected(self._broker.max_packet)
        self._broker.accept(session)
        self.session = session
        hooks: asyncio.Task[None] | None = None
        try:
            await self._subscribe_all(session)
            self._up.set()
            self.connected_at = self._loop.now
            hooks = asyncio.create_task(self._run_hooks(session))
            await session.ended.wait()
            raise BusOfflineError("connection closed")
        finally:
            self._up.clear()
            if hooks:
                hooks.cancel()
            if not self.program.dead:
                self._leave(session)

    async def _subscribe_all(self, session: Session) -> None:
        if self._subscriptions:
            self._ask(session, {pattern: qos for pattern, (_, qos) in self._subscriptions.items()})
        await asyncio.sleep(2 * self._broker.latency())
        if not session.at_client:
            raise BusOfflineError("connection closed")

    def _ask(self, session: Session, patterns: dict[str, int]) -> None:
        session.inbound = max(session.inbound, session.stalled_until, self._loop.now + self._broker.latency())
        self._loop.call_at(session.inbound, self._broker.subscribed, session, patterns, context=EMPTY)

    def _leave(self, session: Session) -> None:
        """A polite end of a connection that lives; else the broker sees it break."""
        polite = session.at_client
        session.end_at_client()
        if session.at_broker and self.client_id not in self._broker.cut and not session.deaf:
            self._loop.call_later(
                max(session.inbound - self._loop.now, 0.001), self._gone, session, not polite, context=EMPTY
            )

    def _gone(self, session: Session, will: bool) -> None:
        if session.at_broker:
            self._broker.close(session, will=will, notice=0.0)

    async def _run_hooks(self, session: Session) -> None:
        for hook in self._hooks:
            try:
                await hook()
            except BusOfflineError:
                return
            except Exception:
                log.exception("a connect hook failed")
                session.end_at_client()

    def take(self, message: Message) -> None:
        handlers = self._handlers.get(message.topic)
        if handlers is None:
            known = self._subscriptions.items()
            handlers = tuple(handler for pattern, (handler, _) in known if matches(pattern, message.topic))
            self._handlers[message.topic] = handlers
        for handler in handlers:
            try:
                handler(message)
            except Exception:
                log.exception("handling a message on %s failed", message.topic)

    def died(self) -> None:
        """The program was killed: its kernel closes the connection, which the broker sees soon."""
        session = self.session
        if session is None or not session.at_broker:
            return
        # Cut off, the broker learns of it by its keepalive alone.
        delay = KEEPALIVE_S if self.client_id in self._broker.cut else self._random.uniform(0.0, 0.02)
        due = max(session.inbound, self._loop.now + delay)
        self._loop.call_at(due, self._gone, session, True, context=EMPTY)


def connected(link: Any) -> bool:
    """Both ends of the connection agree that it lives."""
    if link is None or not link.connected:
        return False
    session = link.session
    return bool(session and session.at_client and session.at_broker and not session.deaf)
