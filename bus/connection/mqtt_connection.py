"""One MQTT connection: a paho client and its socket on the event loop (see `mqtt_link`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any, Final

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ..clock import Clock
from ..errors import BusOfflineError, MissingRightError, UnexplainedRefusalError
from ..options import ConnectOptions
from ..system.password import read_password
from ..topics import written_kind
from .link import NO_PROPERTIES, Done, Handler, Message, Properties, Will
from .mqtt_util import complete, loss, notify, tls_context
from .packet_limit import NO_RETAIN, RETAIN_NOT_SUPPORTED, PacketLimit, RetainUnavailableError
from .paho_client import Client, from_paho, to_paho

log = logging.getLogger("busbar.bus")

MAX_PENDING: Final = 20_000
"""Publications that wait for their acknowledgement (packet ids end at 65,535)."""
FAILURE: Final = 128
"""Codes of acknowledgements from here on are failures (MQTT 5, section 2.4; 3.1.1, section 3.9.3)."""
NOT_AUTHORIZED: Final = 135
"""The reason code of MQTT 5 for a right that is missing."""
UNKNOWN_TO_OLDER: Final = frozenset({129, 130, 132})
"""Reason codes by which a broker may say that it does not have MQTT 5: malformed packet, protocol error,
version. The one of 3.1.1 (1, section 3.2.2.3) is 132 to paho."""
_TOLD: Final = 16
"""Refused topics that are logged per connection."""
FIRST_TRY_S: Final = 2.0
"""Seconds until the CONNACK of MQTT 5 where 3.1.1 is tried next: some brokers never answer."""
_PING_CHECK_S: Final = 1.0
"""How often paho looks whether a ping is due, or overdue."""


class MqttConnection:
    """One connection: a paho client and its socket on the event loop."""

    def __init__(
        self,
        options: ConnectOptions,
        will: Will | None,
        deliver: Handler,
        clock: Clock,
        limit: PacketLimit,
    ) -> None:
        self._options = options
        self._v5 = options.protocol == 5
        self._limit = limit
        self._retained_will = will is not None and will.retain
        self._deliver = deliver
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._reading = self._writing = False
        self._flush_due = False
        self._opening = True
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._acks: dict[int, tuple[str, Done | None, int]] = {}
        self._subacks: dict[int, tuple[list[str], asyncio.Future[None]]] = {}
        self._told: set[str] = set()
        self._keepalive: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.why = "connection closed"
        self.unanswered = False  # it was lost before the CONNACK
        self.was_lost = False  # the other side ended it
        self.known = False  # its cluster has served us before
        self.refuses_version = False  # as brokers without MQTT 5 do, which refuse it or hang up
        self.last_written = ""
        self.first_of_kind = False  # nothing of its kind was written before, and the connection lived on
        self.written_at = 0.0
        self.largest_taken = 0  # bytes of a packet
        self.largest_left = (0, "")  # of those that were not acknowledged when it ended, with the topic
        self._kinds: set[str] = set()
        self.refusal: BusOfflineError | None = None  # of that message
        self.client = self._make(will)

    def _make(self, will: Will | None) -> Client:
        options = self._options
        v5 = self._v5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if v5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            transport=options.transport,
            reconnect_on_failure=False,
        )
        client.connect_timeout = options.connect_s
        client.max_inflight_messages_set(0)
        client.max_queued_messages_set(MAX_PENDING)
        if options.transport == "websockets":
            client.ws_set_options(path=options.path)
        if options.username is not None:
            file = options.password_file
            client.username_pw_set(options.username, read_password(file) if file else options.password)
        if options.tls is not None:
            client.tls_set_context(tls_context(options))
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._flush_soon
        client.on_socket_unregister_write = self._on_unregister_write
        return client

    async def open(self) -> None:
        """TCP, TLS, CONNECT, CONNACK."""
        arguments: dict[str, Any] = {"clean_start": True} if self._v5 else {}
        connecting = self._loop.run_in_executor(
            None,
            lambda: self.client.connect(
                self._options.host, self._options.port, self._options.keepalive, **arguments
            ),
        )
        try:
            async with asyncio.timeout(3 * self._options.connect_s):
                await connecting
                self._opening = False
                self._watch()
                async with asyncio.timeout(FIRST_TRY_S if self._options.falls_back and self._v5 else None):
                    await self._connack
        except TimeoutError:
            raise BusOfflineError("the broker does not answer the CONNECT") from None
        self._keepalive = asyncio.create_task(self._keep_alive(), name="mqtt-keepalive")

    def subscribe(self, wanted: list[tuple[str, int]]) -> asyncio.Future[None]:
        """Subscribe to several filters in one packet; the future ends with the SUBACK."""
        done: asyncio.Future[None] = self._loop.create_future()
        filters: Any = wanted
        if self._v5:
            shown = self._options.as_published
            filters = [(p, SubscribeOptions(qos, retainAsPublished=p in shown)) for p, qos in wanted]
        code, mid = self.client.subscribe(filters)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            done.set_exception(BusOfflineError(paho.error_string(code)))
            done.exception()
        else:
            self._subacks[mid] = ([pattern for pattern, _ in wanted], done)
        return done

    def send(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        properties: Properties,
        done: Done | None,
    ) -> None:
        """Hand one message to paho; `done` is called at its acknowledgement (QoS 0: at once).

        Raises:
            BusOfflineError: the connection is broken or too much is pending.
            MessageTooLargeError: it is above the broker's packet limit.
        """
        if len(self._acks) >= MAX_PENDING:
            raise BusOfflineError("too many unacknowledged messages")
        extra = to_paho(properties) if self._v5 else None
        size = self._limit.check(topic, payload, qos, extra, v5=self._v5)
        if qos:
            code, mid = self.client.send(topic, payload, retain, extra)
            self._check(code)
            self._acks[mid] = (topic, done, size)
        else:
            self._check(self.client.publish(topic, payload, 0, retain, extra).rc)
            if done:
                done(None)

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BusOfflineError(paho.error_string(code))

    def close(self, why: str) -> None:
        """End this connection without a DISCONNECT."""
        if not self.ended.is_set():
            self.why = why
            self.largest_left = max(
                ((size, topic) for topic, _, size in self._acks.values()), default=(0, "")
            )
            self.ended.set()
            self._fail_waiters()

    async def goodbye(self) -> None:
        """Send DISCONNECT where possible, free everything, fail all waiters."""
        if self._keepalive:
            self._keepalive.cancel()
        polite = not self.ended.is_set() and self._connack.done() and self.client.is_connected()
        self.ended.set()
        if polite:
            self.client.disconnect()
            for _ in range(50):
                if not self.client.want_write():
                    break
                await self._clock.sleep(0.01)
                self.client.loop_write()
        self._unwatch()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._fail_waiters()

    def _fail_waiters(self) -> None:
        error = BusOfflineError(self.why)
        acks, self._acks = self._acks, {}
        for _, done, _ in acks.values():
            notify(done, error)
        for future in (*(done for _, done in self._subacks.values()), self._connack):
            complete(future, error)
        self._subacks.clear()

    # --- the socket on the event loop

    def _on_socket_open(self, _c: object, _d: object, sock: Any) -> None:
        self._socket = sock
        with contextlib.suppress(OSError, AttributeError):
            # Nagle's algorithm would delay a QoS 1 round trip by 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._opening:
            self._watch()

    def _watch(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0 and not self._reading:
            self._loop.add_reader(self._socket, self._readable)
            self._reading = True
            self._flush_soon()

    def _unwatch(self) -> None:
        if self._socket is not None and self._reading:
            self._reading = self._writing = False
            if self._socket.fileno() >= 0:
                self._loop.remove_reader(self._socket)
                self._loop.remove_writer(self._socket)

    def _on_socket_close(self, *_: object) -> None:
        if not self._opening:
            self._unwatch()

    def _on_unregister_write(self, *_: object) -> None:
        if self._writing and self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket)
        self._writing = False

    def _flush_soon(self, *_: object) -> None:
        """Write what one iteration of the event loop has queued with one call."""
        if self._reading and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Sockets are nearly always writable: the event loop watches for it only after a short write."""
        self._flush_due = False
        if not self._reading:
            return
        self.client.loop_write()
        sock = self._socket
        if self._reading and sock is not None and sock.fileno() >= 0 and self.client.want_write():
            self._writing = True
            self._loop.add_writer(sock, self._flush)

    def _readable(self) -> None:
        self.client.read_packets()
        # Bytes that TLS has already decrypted do not wake the event loop again.
        while self._reading and self._socket is not None and self._pending() > 0:
            self.client.read_packets()

    def _pending(self) -> int:
        pending = getattr(self._socket, "pending", None)
        return int(pending()) if pending else 0

    async def _keep_alive(self) -> None:
        while not self.ended.is_set():
            self.client.loop_misc()
            await self._clock.sleep(_PING_CHECK_S)

    # --- paho's callbacks

    def _on_connect(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, props: object
    ) -> None:
        if self._connack.done():
            return
        if code.value == RETAIN_NOT_SUPPORTED or getattr(props, "RetainAvailable", 1) == 0:
            self._connack.set_exception(RetainUnavailableError(NO_RETAIN))
        elif code.is_failure:
            self.refuses_version = code.value in UNKNOWN_TO_OLDER
            self._connack.set_exception(BusOfflineError(f"the broker refused: {code}"))
        else:
            self._limit.connected(getattr(props, "MaximumPacketSize", None))
            self._connack.set_result(None)

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, _props: object
    ) -> None:
        if self._opening:
            return
        self.unanswered = not self._connack.done()
        self.was_lost = not self.ended.is_set()
        self.refuses_version |= self.unanswered and self.was_lost
        self.close(loss(str(code), self.unanswered) + self._retain_hint())
        if not self._connack.done():
            self._connack.set_exception(BusOfflineError(self.why))

    def _retain_hint(self) -> str:
        """MQTT 3.1.1 has no code for a retained will that a broker does not take: it hangs up."""
        return f": perhaps {NO_RETAIN}" if self._may_lack_retain() else ""

    def _may_lack_retain(self) -> bool:
        return self.unanswered and self._retained_will and not self._v5 and not self.known

    def _on_message(self, _c: object, _d: object, raw: paho.MQTTMessage) -> None:
        try:
            topic = raw.topic
        except UnicodeDecodeError:
            log.warning("a message with an undecodable topic was dropped")
            return
        properties = from_paho(raw.properties) if raw.properties is not None else NO_PROPERTIES
        self._deliver(Message(topic, bytes(raw.payload), raw.retain, raw.qos, properties))

    def _on_publish(self, _client: object, _data: object, mid: int, code: ReasonCode, _props: object) -> None:
        topic, done, size = self._acks.pop(mid, ("", None, 0))
        self.largest_taken = max(self.largest_taken, size)
        self.last_written, self.refusal = topic, None
        self.written_at, kind = self._clock.monotonic(), written_kind(topic)
        self.first_of_kind = kind not in self._kinds
        self._kinds.add(kind)
        if code.value < FAILURE or not topic:
            notify(done, None)
            return
        self.refusal = error = self._refusal(code, "write", topic)
        if done is None:
            self._tell(topic, error)
        notify(done, error)

    def _refusal(self, code: ReasonCode, right: str, topic: str) -> BusOfflineError:
        if code.value == NOT_AUTHORIZED:
            return MissingRightError(self._options.username, right, topic)
        return BusOfflineError(f"the broker refused to {right} {topic}: {code}")

    def _tell(self, topic: str, error: BusOfflineError) -> None:
        """Log what nobody waits for, once per topic."""
        if topic not in self._told and len(self._told) < _TOLD:
            self._told.add(topic)
            log.warning("%s", error)

    def _on_subscribe(
        self, _client: object, _data: object, mid: int, codes: list[ReasonCode], _props: object
    ) -> None:
        patterns, done = self._subacks.pop(mid, ([], None))
        refused = [
            (pattern, code) for pattern, code in zip(patterns, codes, strict=False) if code.value >= FAILURE
        ]
        if done is None or done.done():
            return
        if refused and not self._v5:  # 3.1.1 has one code for every refused subscription
            complete(done, UnexplainedRefusalError([pattern for pattern, _ in refused]))
        elif refused:
            pattern, code = refused[0]
            complete(done, self._refusal(code, "read", pattern))
        else:
            done.set_result(None)
