"""One client's connection: the MQTT 3.1.1 server side, from CONNECT to the end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from amqtt.adapters import BufferReader
from amqtt.mqtt.packet import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
)
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from ..access.acl import MANAGER
from ..clock import Clock
from ..topics import is_valid_topic
from .access_plugin import AccessPlugin, Peer
from .connect import (
    ACCEPTED,
    BUSY_CODE,
    NOT_AUTHORIZED_CODE,
    TOKEN_USED_CODE,
    Connect,
    LastWill,
    Refused,
    connack,
    read_connect,
)
from .limits import Accounting, Owner, count_filters
from .pace import Pace, Turn, fragments, weight
from .packet_stream import Malformed, PacketStream
from .protocol import (
    CONNECT_WITHIN_S,
    ENDINGS,
    FLUSH_S,
    KEEP_ALIVE_FACTOR,
    MAX_RECEIVED,
    TURN,
    check_flags,
    packet_id_of,
)
from .router import SUBACK_FAILURE, Router
from .session import Publication, Session
from .strings import check_strings

LOGIN_WITHIN_S: Final = 30.0
"""From there to the CONNACK: the passwords of a thousand agents may wait for a thread."""
_SHOWN: Final = 200  # characters of a topic in the log
_FILTER_PACKETS: Final = {SUBSCRIBE: 1, UNSUBSCRIBE: 0}  # bytes behind each filter
_PINGRESP: Final = bytes(PingRespPacket.build().to_bytes())

log = logging.getLogger(__name__)

Authenticate = Callable[[Peer], Awaitable[bool]]
Handler = Callable[[Session, MQTTFixedHeader, BufferReader], Awaitable[None]]
MaySubscribe = Callable[[Peer, str], Awaitable[bool]]
OnManagerEvent = Callable[[Publication], Awaitable[None]]


class ClientConnection:
    """Reads packets, checks access, responds. `run` never raises except when cancelled."""

    def __init__(
        self,
        stream: PacketStream,
        router: Router,
        access: AccessPlugin,
        clock: Clock,
        *,
        authenticate: Authenticate,
        may_subscribe: MaySubscribe,
        on_manager_event: OnManagerEvent,
        on_silence: Callable[[bool], None] = lambda _: None,
        accounting: Accounting | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.stream = stream
        self.peer = Peer("", "")
        self._router = router
        self._access = access
        self._authenticate = authenticate
        self._clock = clock
        self._may_subscribe = may_subscribe
        self._on_manager_event = on_manager_event
        self._on_silence = on_silence  # True while it is refused, False once it has said who it is
        self._accounting = accounting or Accounting()
        self._limits = self._accounting.limits
        self._pace = pace or Pace(clock, self._limits)
        self._turn: Turn | None = None  # None: a manager's connection, which is never held back
        self._work = 0.0
        self._counted = False
        self._session: Session | None = None
        self._will: LastWill | None = None
        self._serving: asyncio.Task[None] | None = None
        self._handlers: dict[int, Handler] = {
            PUBLISH: self._on_publish,
            PUBACK: self._on_puback,
            PUBREC: self._on_ignored,
            PUBREL: self._on_pubrel,
            PUBCOMP: self._on_ignored,
            SUBSCRIBE: self._on_subscribe,
            UNSUBSCRIBE: self._on_unsubscribe,
            PINGREQ: self._on_ping,
        }

    async def run(self) -> None:
        """Serve the client until it disconnects, violates the protocol, times out or is dropped."""
        writing = asyncio.create_task(self.stream.write_queued())
        self._serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait({self._serving})
            self._explain(self._serving)
        finally:
            self._serving.cancel()
            self._leave()
            await self.stream.finish(writing, FLUSH_S)

    def drop(self, reason: str) -> None:
        """End the connection now, without its will (revoked, broker ends)."""
        self._will = None
        self.stream.abort(reason)

    @property
    def held_bytes(self) -> int:
        """Bytes that the client's connection and session hold."""
        return self.stream.held_bytes + (self._session.held_bytes if self._session is not None else 0)

    @property
    def untaken_bytes(self) -> int:
        """Bytes sent to the client that are not yet written, or not acknowledged."""
        return self.stream.queued_bytes + (self._session.held_bytes if self._session is not None else 0)

    def evict(self) -> None:
        """End the connection and its session now, to have the memory back; the will is published."""
        self.stream.abort("its account holds too many bytes, and it the most")
        if self._session is not None:
            self._router.forget(self._session)
            self._session.detach()

    def end(self) -> None:
        """The broker stops: write what is queued, then close, without the will."""
        self._will = None
        if self._serving is not None:
            self._serving.cancel()

    def send(self, data: bytes) -> None:
        """Sink: queue a packet."""
        self.stream.send(data)

    def abort(self, reason: str) -> None:
        """Sink: end the connection now; the will is published."""
        self.stream.abort(reason)

    def supersede(self) -> None:
        """Sink: the client reconnected (same account and client id): its will comes before what it says now.

        MQTT-3.1.2-8 knows no exception: only a DISCONNECT removes a will.
        """
        self._uncount()
        self.stream.abort("taken over by a newer connection")
        self._publish_will()

    @property
    def owner(self) -> Owner:
        """The account that the connection is charged to."""
        return Owner(self.peer.username, self.peer.kind)

    @property
    def _client_id(self) -> str:
        return self._session.client_id if self._session is not None else "?"

    def _explain(self, serving: asyncio.Task[None]) -> None:
        error = None if serving.cancelled() else serving.exception()
        who = (self._client_id, self.peer.username)
        if isinstance(error, ENDINGS):
            self._log(logging.INFO, "client %r of %r: %s", *who, self.stream.reason or repr(error))
        elif error is not None:
            log.error("client %r of %r dropped", *who, exc_info=error)

    def _log(self, level: int, text: str, *args: object) -> None:
        """Log what the client caused, one line and not too many of it. Text that it chose comes as %r."""
        cause = self.peer.username if self.peer.account is not None else f"source {self.stream.source}"
        if log.isEnabledFor(level):
            left_out = self._accounting.lines.admit(cause, self._clock.monotonic())
            if left_out is not None:
                more = f" ({left_out} further lines left out)" if left_out else ""
                log.log(level, text + "%s", *args, more)

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                header, body = await self.stream.packet(None, CONNECT)
                connect = await read_connect(header, body)
            self._on_silence(False)
            async with asyncio.timeout(LOGIN_WITHIN_S):
                session = await self._admit(connect)
        except Refused as refused:
            self._on_silence(True)
            self._log(logging.INFO, "connection refused: %s", refused)
            self.stream.send(connack(refused.code))
            return
        within = connect.keep_alive_s * KEEP_ALIVE_FACTOR or None
        work = 0
        while True:
            header, body = await self.stream.packet(within)
            if header.packet_type == DISCONNECT:
                self._will = None
                return
            await self._take_turn(session, header, body)
            work += TURN if header.packet_type == SUBSCRIBE else 1
            if work >= TURN:
                work = 0
                await self._clock.sleep(0)

    async def _take_turn(self, session: Session, header: MQTTFixedHeader, body: bytes) -> None:
        """Handle a packet when its account has its turn. An acknowledgement that is due never waits."""
        due = header.packet_type == PUBACK and session.awaits(int.from_bytes(body[:2]))
        if self._turn is None or due:
            self.stream.parts_taken()
            await self._handle(session, header, body)
            return
        async with self._turn:
            publishes = header.packet_type == PUBLISH
            await self._pace.wait(self.owner, publishes, lambda: bool(self.stream.reason))
            if self.stream.reason:
                raise EOFError(self.stream.reason)
            self._work = 1 + weight(len(body)) + fragments(self.stream.parts_taken())
            try:
                await self._handle(session, header, body)
            finally:
                self._pace.spend(self.owner, self._work)

    async def _admit(self, connect: Connect) -> Session:
        """No session is looked up, and no other connection affected, before the password is verified."""
        self.peer = Peer(connect.username, connect.password, self.stream.source)
        if not await self._authenticate(self.peer):
            if self.peer.busy:
                raise Refused(BUSY_CODE, f"too many wrong passwords for {connect.username!r}")
            if self.peer.late:
                raise Refused(TOKEN_USED_CODE, f"the join token of {connect.username!r} was used before")
            raise Refused(NOT_AUTHORIZED_CODE, f"wrong name or password for {connect.username!r}")
        if connect.will is not None:
            self._will = self._permitted_will(connect.will)
        self._router.supersede(self.owner, connect.client_id)
        if not self._accounting.take_connection(self.owner):
            raise Refused(BUSY_CODE, f"too many connections of {connect.username!r}, or in all")
        self._counted = True
        self.stream.charge_to(self._router.meter(self.owner))
        session, present = self._router.open(self.owner, connect.client_id, not connect.clean)
        self._session = session
        self.stream.send(connack(ACCEPTED, present))
        session.attach(self)
        if self.peer.kind == MANAGER:
            self._pace.add(self)
        else:
            self._turn = self._pace.turn(self.owner)
        return session

    def _permitted_will(self, will: LastWill) -> LastWill | None:
        small = len(will.publication.payload) <= self._limits.will_bytes
        if small and self._access.may_publish(self.peer, will.publication.topic, will.retain):
            return will
        topic = will.publication.topic[:_SHOWN]
        self._log(logging.WARNING, "%s may not leave a will on %r: ignored", self.peer.username, topic)
        return None

    async def _handle(self, session: Session, header: MQTTFixedHeader, body: bytes) -> None:
        handler = self._handlers.get(header.packet_type)
        if handler is None:
            raise Malformed(f"unexpected packet of type {header.packet_type}")
        check_flags(header)
        if header.packet_type in _FILTER_PACKETS:
            limit = self._limits.packet_filters
            if count_filters(body, _FILTER_PACKETS[header.packet_type], limit) > limit:
                raise Malformed(f"more than {limit} filters in a packet")
        check_strings(header, body)
        await handler(session, header, BufferReader(body))

    async def _on_publish(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet = await PublishPacket.from_stream(body, fixed_header=header)
        topic, qos, packet_id = packet.topic_name, packet.qos, packet.packet_id
        if qos > 2 or (qos and not packet_id) or not is_valid_topic(topic):
            raise Malformed(f"PUBLISH with QoS {qos}, id {packet_id}, topic {topic[:80]!r}")
        if qos < 2 or self._is_first(session, packet_id):
            await self._publish(Publication(topic, packet.data, min(qos, 1)), packet.retain_flag)
        if qos == 1:
            self.stream.send(PubackPacket.build(packet_id).to_bytes())
        elif qos == 2:
            self.stream.send(PubrecPacket.build(packet_id).to_bytes())

    async def _publish(self, publication: Publication, retain: bool) -> None:
        """Route what the account may write. The rest is acknowledged and dropped, as mosquitto does: PUBLISH
        can't be refused (MQTT 3.1.1, section 3.3.5), and a disconnected client would only come back."""
        if self._access.may_publish(self.peer, publication.topic, retain):
            self._work += self._router.publish(
                publication, retain and self._access.may_retain(publication.topic), self.owner
            )
            if self.peer.kind == MANAGER:  # its events may revoke accounts (bus.broker.revocation)
                await self._on_manager_event(publication)
        else:
            what, topic = "publish retained" if retain else "publish", publication.topic[:_SHOWN]
            self._log(logging.WARNING, "%s may not %s to %r: dropped", self.peer.username, what, topic)

    def _is_first(self, session: Session, packet_id: int) -> bool:
        if packet_id in session.received:
            return False
        if len(session.received) >= MAX_RECEIVED:
            raise Malformed("too many QoS 2 messages that are never released")
        session.received.add(packet_id)
        return True

    async def _on_pubrel(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet_id = await packet_id_of(header, body)
        session.received.discard(packet_id)
        self.stream.send(PubcompPacket.build(packet_id).to_bytes())

    async def _on_puback(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        session.acknowledge(await packet_id_of(header, body))

    async def _on_subscribe(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet = await SubscribePacket.from_stream(body, fixed_header=header)
        wanted: list[tuple[str, int]] = packet.payload.topics
        if not wanted or any(qos > 2 for _, qos in wanted):
            raise Malformed("SUBSCRIBE without a filter or with a QoS above 2")
        self._work += len(wanted)
        allowed = [await self._may_subscribe(self.peer, topic) for topic, _ in wanted]
        if session.sink is not self:  # taken over meanwhile: nothing may be added now
            raise EOFError("superseded")
        codes = [
            self._router.subscribe(session, topic, qos, self._access.readable(self.peer, topic))
            if ok
            else SUBACK_FAILURE
            for (topic, qos), ok in zip(wanted, allowed, strict=True)
        ]
        self.stream.send(SubackPacket.build(packet.variable_header.packet_id, codes).to_bytes())
        for (topic, _), code in zip(wanted, codes, strict=True):
            if code == SUBACK_FAILURE:
                who, shown = self.peer.username, topic[:_SHOWN]
                self._log(logging.WARNING, "%s may not subscribe to %r, or has too many filters", who, shown)
            if code != SUBACK_FAILURE:
                for work in self._router.send_retained(session, topic, code):
                    self._work += work
                    await self._clock.sleep(0)
                    if session.sink is not self or self.stream.reason:
                        raise EOFError(self.stream.reason or "superseded")

    async def _on_unsubscribe(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet = await UnsubscribePacket.from_stream(body, fixed_header=header)
        self._work += len(packet.payload.topics)
        for wanted in packet.payload.topics:
            self._router.unsubscribe(session, wanted)
        self.stream.send(UnsubackPacket.build(packet.variable_header.packet_id).to_bytes())

    async def _on_ping(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        self.stream.send(_PINGRESP)

    async def _on_ignored(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        """Responses of a QoS 2 exchange, which this broker never initiates."""

    def _uncount(self) -> None:
        counted, self._counted = self._counted, False
        if counted:
            self._accounting.return_connection(self.owner)

    def _leave(self) -> None:
        """Give the session back, and publish the will of a client that vanished and still has its account."""
        self._uncount()
        self._pace.remove(self)
        if self._session is not None and self._session.sink is self:
            self._router.close(self._session)
        self._publish_will()

    def _publish_will(self) -> None:
        will, self._will = self._will, None
        if will is not None and self._session is not None and self._access.is_current(self.peer):
            retain = will.retain and self._access.may_retain(will.publication.topic)
            self._router.publish(will.publication, retain, self.owner)
