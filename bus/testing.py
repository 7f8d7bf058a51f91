"""An in-memory broker and a manually advanced clock, shipped so that users can test against them."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable

from .connection.link import NO_PROPERTIES, ConnectHook, Done, Handler, Message, Properties, Will
from .connection.packet_limit import PacketLimit
from .errors import BusOfflineError, MessageTooLargeError
from .options import MAX_PACKET
from .topics import matches

log = logging.getLogger("busbar.testing")


class FakeClock:
    """A clock for tests. `advance` wakes the sleepers that are due, in order."""

    def __init__(self, start: float = 1000.0, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = start
        self._wall = wall_ns
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self._now

    def time_ns(self) -> int:
        return self._wall

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Advance by `seconds`, running whatever becomes due on the way."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._move(due)
            if not future.done():
                future.set_result(None)
                await settle()
        self._move(end)
        await settle()

    def _move(self, to: float) -> None:
        self._wall += int((to - self._now) * 1e9)
        self._now = max(self._now, to)


async def settle(rounds: int = 20) -> None:
    """Let ready tasks run."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class MemoryBroker:
    """An MQTT broker in memory, on one event loop: retained messages, wills, session takeover, no QoS 2.

    The links refuse a message above `max_packet` bytes.
    """

    def __init__(self, max_packet: int = MAX_PACKET) -> None:
        self.max_packet = max_packet
        self.retained: dict[str, bytes] = {}
        self.links: dict[str, MemoryLink] = {}
        self.journal: list[Message] = []
        self._count = 0

    def link(self, client_id: str = "", *, will: Callable[[int], Will | None] | None = None) -> MemoryLink:
        """A connection to this broker; it comes up when its `run` is started."""
        self._count += 1
        return MemoryLink(self, client_id or f"client-{self._count}", will)

    def route(self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties) -> None:
        """Deliver one publication, and keep it when it is retained."""
        message = Message(topic, payload, False, qos, properties)
        self.journal.append(message)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for link in tuple(self.links.values()):
            link.offer(message)

    def drop(self, client_id: str, *, will: bool = True) -> None:
        """Break a connection as the network would; its will is published."""
        link = self.links.pop(client_id, None)
        if link is not None:
            link.broken(will)


class MemoryLink:
    """A `bus.connection.link.Link` to a MemoryBroker. Delivery goes through the event loop, in order."""

    def __init__(
        self, broker: MemoryBroker, client_id: str, will: Callable[[int], Will | None] | None
    ) -> None:
        self.client_id = client_id
        self._broker = broker
        self._will = will
        self._limit = PacketLimit(broker.max_packet)
        self._present_will: Will | None = None
        self._subscriptions: dict[str, Handler] = {}
        self._hooks: list[ConnectHook] = []
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._conn = 0
        self.reachable = asyncio.Event()
        self.reachable.set()

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def max_packet(self) -> int:
        return self._limit.bytes

    @property
    def conn(self) -> int:
        return self._conn

    def subscribe(self, pattern: str, handler: Handler, qos: int = 1) -> None:
        self._subscriptions[pattern] = handler
        if self.connected:
            self._send_retained(pattern)

    def unsubscribe(self, pattern: str) -> None:
        self._subscriptions.pop(pattern, None)

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
        self._limit.check(topic, payload, qos)
        if not self.post(topic, payload, qos=qos, retain=retain, properties=properties):
            raise BusOfflineError()
        await asyncio.sleep(0)

    def send(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        error: BusOfflineError | None = None
        try:
            self._limit.check(topic, payload, 1)
            if not self.post(topic, payload, retain=retain, properties=properties):
                error = BusOfflineError()
        except MessageTooLargeError as found:
            error = found
        asyncio.get_running_loop().call_soon(done, error)

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> bool:
        if not self.connected:
            return False
        try:
            self._limit.check(topic, payload, qos)
        except MessageTooLargeError:
            return False
        self._broker.route(topic, payload, qos, retain, properties)
        return True

    async def wait_connected(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            raise BusOfflineError() from None

    def reconnect(self, reason: str) -> None:
        self._broker.drop(self.client_id)

    async def run(self) -> None:
        try:
            while True:
                await self.reachable.wait()
                self._connect()
                for hook in self._hooks:
                    try:
                        await hook()
                    except BusOfflineError:
                        break
                    except Exception:
                        log.exception("a connect hook failed")
                await self._down.wait()
        finally:
            if self._broker.links.get(self.client_id) is self:
                del self._broker.links[self.client_id]
            self._up.clear()

    def _connect(self) -> None:
        old = self._broker.links.get(self.client_id)
        if old is not None and old is not self:
            self._broker.drop(self.client_id, will=False)
        self._conn += 1
        self._present_will = self._will(self._conn) if self._will else None
        self._broker.links[self.client_id] = self
        self._down.clear()
        self._up.set()
        for pattern in tuple(self._subscriptions):
            self._send_retained(pattern)

    def broken(self, will: bool) -> None:
        """The connection broke: called by the broker."""
        self._up.clear()
        self._down.set()
        if will and self._present_will is not None:
            last = self._present_will
            self._broker.route(last.topic, last.payload, last.qos, last.retain, NO_PROPERTIES)

    def offer(self, message: Message) -> None:
        """Deliver a message to every handler whose filter matches, soon."""
        for pattern, handler in tuple(self._subscriptions.items()):
            if matches(pattern, message.topic):
                asyncio.get_running_loop().call_soon(self._call, handler, message)

    def _send_retained(self, pattern: str) -> None:
        handler = self._subscriptions[pattern]
        for topic, payload in tuple(self._broker.retained.items()):
            if matches(pattern, topic):
                message = Message(topic, payload, True, 1)
                asyncio.get_running_loop().call_soon(self._call, handler, message)

    def _call(self, handler: Handler, message: Message) -> None:
        if not self.connected:
            return
        try:
            handler(message)
        except Exception:
            log.exception("handling a message on %s failed", message.topic)
