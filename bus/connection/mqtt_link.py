"""The MQTT link on paho-mqtt inside asyncio; see `mqtt_connection` and `paho_client`.

paho implements the protocol; the event loop watches its socket, so there is no thread per client or call:
only the blocking TCP and TLS handshake runs in a helper thread. Every connection is a new paho client: what
the old one had queued fails, and is never sent late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final

from ..backoff import Backoff
from ..clock import Clock
from ..errors import BusOfflineError, MessageTooLargeError, MissingRightError
from ..options import ConnectOptions
from ..system.service_status import SayStatus, unsaid
from ..topics import matcher, written_kind
from .asking import Asking
from .broker_rotation import STABLE, BrokerRotation
from .failure_log import FailureLog
from .link import NO_PROPERTIES, ConnectHook, Done, Handler, Message, Properties, Will
from .mqtt_connection import MqttConnection
from .mqtt_util import complete, failure_reason, likely_cause
from .packet_limit import PacketLimit, RetainUnavailableError, not_taken
from .protocol_memory import ProtocolChoice, ProtocolMemory

log = logging.getLogger("busbar.bus")

SETTLED_S: Final = 30.0
"""A connection that the service gives up sooner was no good; the next is logged once it has lasted so long:
where a right is missing, one follows the other."""
SUSPECT: Final = 2_048
"""Bytes of a packet from which on a broker may have closed the connection for its size."""
WillFactory = Callable[[int], Will | None]


class MqttLink:
    """A `bus.connection.link.Link` over paho-mqtt: TCP, TLS or WebSocket, MQTT 3.1.1 or 5."""

    def __init__(
        self,
        options: ConnectOptions,
        *,
        clock: Clock,
        random: Random,
        will: WillFactory | None = None,
        backoff: Backoff | None = None,
        memory: ProtocolMemory | None = None,
        say: SayStatus = unsaid,
    ) -> None:
        self.rotation = BrokerRotation(options, backoff or Backoff())
        self._failures = FailureLog()
        self._say = say
        self._clock = clock
        self._random = random
        self._will = will
        self._subscriptions: dict[str, tuple[Callable[[str], object], Handler, int]] = {}
        self._hooks: list[ConnectHook] = []
        self._connection: MqttConnection | None = None
        self._up = asyncio.Event()
        self._conn = 0
        self._gave_up = self._was_cut_short = False
        self._suspect = self._left = ""
        self._asking = Asking(clock, options.username, self._wants, self._refused)
        self._asked: set[asyncio.Task[None]] = set()
        self._was_served = False  # by one of several brokers: what they are is known
        self._limit = PacketLimit(options.max_packet)
        self._protocols = ProtocolChoice(options, clock, memory)
        self._other_protocol = False  # the same broker is tried at once with 3.1.1

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def conn(self) -> int:
        return self._conn

    @property
    def max_packet(self) -> int:
        return self._limit.bytes

    def subscribe(self, pattern: str, handler: Handler, qos: int = 1) -> None:
        self._subscriptions[pattern] = (matcher(pattern), handler, qos)
        if self._connection and self.connected:
            answer = self._connection.subscribe([(pattern, qos)])
            task = asyncio.create_task(self._ask_for(self._connection, pattern, qos, answer))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _ask_for(
        self, connection: MqttConnection, pattern: str, qos: int, answer: asyncio.Future[None]
    ) -> None:
        """On a connection that stands."""
        try:
            await self._asking.settle(connection, [(pattern, qos)], answer)
        except MissingRightError as error:
            log.warning("%s", error)
        except BusOfflineError as error:
            log.debug("subscribing to %s: %s", pattern, error)

    def _wants(self, pattern: str) -> bool:
        return pattern in self._subscriptions

    def _refused(self, error: MissingRightError) -> None:
        """It is asked for again; whoever waits for the connection is told at its end."""
        log.debug("asked again: %s", error)
        self.rotation.trouble(str(error))

    def unsubscribe(self, pattern: str) -> None:
        if self._subscriptions.pop(pattern, None) and self._connection and self.connected:
            self._connection.client.unsubscribe(pattern)

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
        connection = self._connection
        if connection is None or not self.connected:
            raise BusOfflineError(self.rotation.last_error)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connection.send(topic, payload, qos, retain, properties, partial(complete, done))
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
        connection = self._connection
        try:
            if connection is None or not self.connected:
                raise BusOfflineError(self.rotation.last_error)
            connection.send(topic, payload, 1, retain, properties, done)
        except BusOfflineError as error:
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
        connection = self._connection
        if connection is None or not self.connected:
            return False
        try:
            connection.send(topic, payload, qos, retain, properties, None)
        except BusOfflineError:
            return False
        return True

    async def wait_connected(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            raise BusOfflineError(f"no connection to a broker: {self.rotation.last_error}") from None

    def reconnect(self, reason: str) -> None:
        log.debug("connection to %s given up: %s", self.rotation.current.url, reason)
        if self._connection:
            self._give_up(self._connection, reason)

    def _give_up(self, connection: MqttConnection, reason: str) -> None:
        self._gave_up = True
        connection.close(reason)

    async def run(self) -> None:
        rotation = self.rotation
        while True:
            began, url, why = self._clock.monotonic(), rotation.current.url, "connection closed"
            try:
                await self._connect_once()
            except (OSError, BusOfflineError, ValueError) as error:
                unanswered = self._connection is not None and self._connection.unanswered
                why = failure_reason(error)
                if not self._was_served:
                    why += likely_cause(error, rotation.current, unanswered)
            if self._other_protocol:
                log.debug("no MQTT 5 at %s (%s): 3.1.1 is tried", url, why)
                continue
            lasted = self._clock.monotonic() - began
            self._note_failure(url, self._cause_of_loss(why, lasted), lasted)
            await self._clock.sleep(rotation.delay(self._random.random()))

    def _cause_of_loss(self, why: str, lasted: float) -> str:
        """Some brokers hang up on who writes without the right to; with MQTT 3.1.1 nothing else tells."""
        connection = self._connection
        if connection is not None and (too_large := self._too_large(connection)):
            return f"{why}: {too_large}"
        written = connection.last_written if connection is not None and connection.was_lost else ""
        if connection is None or not written:
            self._suspect = ""
            return why
        at_once = self._clock.monotonic() - connection.written_at <= STABLE
        if lasted > STABLE and not (connection.first_of_kind and at_once):
            self._suspect = ""
            return why
        before, self._suspect = self._suspect, written
        error = connection.refusal
        alike = connection.first_of_kind and written_kind(before) == written_kind(written)
        if error is None and (before == written or alike):
            error = MissingRightError(self.rotation.current.username, "write", written, certain=False)
        self._gave_up |= error is not None
        return f"{why}: {error}" if error is not None else why

    def _too_large(self, connection: MqttConnection) -> str:
        """Where a broker does not tell its limit: the same message, larger than any that it took, was the
        largest that it left when it hung up, twice in a row."""
        before, self._left = self._left, ""
        size, topic = connection.largest_left if connection.was_lost else (0, "")
        if size < SUSPECT or size <= connection.largest_taken:
            return ""
        self._left = topic
        return not_taken(size, topic) if topic == before else ""

    def _note_failure(self, url: str, why: str, lasted: float) -> None:
        now = self._clock.monotonic()
        self.rotation.failed(why, lasted)
        self._was_cut_short = self._gave_up and lasted <= SETTLED_S
        self._gave_up = False
        if lasted > STABLE and not self._was_cut_short:
            self._failures.connected(url)
        self._say(f"no connection to {url}: {why}")
        line = self._failures.failed(url, why, now)
        if line is not None:
            log.warning("%s", line)
        else:
            log.debug("no connection to %s: %s", url, why)

    async def _connect_once(self) -> None:
        """One connection, from start to end.

        Raises:
            OSError, BusOfflineError: why it ended.
        """
        self._conn += 1
        will = self._will(self._conn) if self._will else None
        options, url = self.rotation.current, self.rotation.current.url
        if self._protocols.tries_3_1_1(url):
            options = replace(options, protocol=4)
        self._connection, self._other_protocol = None, False
        self._connection = connection = MqttConnection(options, will, self._deliver, self._clock, self._limit)
        connection.known = self._was_served
        hooks: asyncio.Task[None] | None = None
        try:
            try:
                await connection.open()
            except RetainUnavailableError:
                raise
            except BusOfflineError:
                self._other_protocol = self._protocols.failed(url, refused=connection.refuses_version)
                raise
            self._protocols.accepted(url)
            self._was_served = len(self.rotation.brokers) > 1
            await self._subscribe_all(connection)
            self._up.set()
            self._say(f"connected to {self.rotation.current.url}")
            hooks = asyncio.create_task(self._run_hooks(connection), name="connect-hooks")
            await connection.ended.wait()
            raise BusOfflineError(connection.why)
        finally:
            self._up.clear()
            if hooks:
                hooks.cancel()
            await connection.goodbye()

    async def _subscribe_all(self, connection: MqttConnection) -> None:
        wanted = [(pattern, qos) for pattern, (_, _, qos) in self._subscriptions.items()]
        await self._asking.settle(connection, wanted)

    async def _run_hooks(self, connection: MqttConnection) -> None:
        if not self._was_cut_short:
            log.info("connected to %s", self.rotation.current.url)
        for hook in self._hooks:
            try:
                await hook()
            except MessageTooLargeError:
                return
            except BusOfflineError as error:
                self._give_up(connection, str(error))
                return
            except Exception:
                log.exception("a connect hook failed")
                self._give_up(connection, "a connect hook failed")
        if self._was_cut_short:
            await self._clock.sleep(SETTLED_S)
            log.info("connected to %s", self.rotation.current.url)
            self._was_cut_short = False

    def _deliver(self, message: Message) -> None:
        for matching, handler, _ in tuple(self._subscriptions.values()):
            if matching(message.topic):
                try:
                    handler(message)
                except Exception:
                    log.exception("handling a message on %s failed", message.topic)
