"""One client of the amqtt router: the MQTT 3.1.1 server side, from CONNECT to the end, at QoS 0 to 2."""

from __future__ import annotations

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
from busbar.bus.broker.connect import (
    ACCEPTED,
    NOT_AUTHORIZED_CODE,
    Connect,
    LastWill,
    Refused,
    connack,
    read_connect,
)
from busbar.bus.broker.limits import fits
from busbar.bus.broker.packet_stream import Malformed, PacketStream
from busbar.bus.broker.protocol import (
    CONNECT_WITHIN_S,
    ENDINGS,
    FLUSH_S,
    KEEP_ALIVE_FACTOR,
    TURN,
    check_flags,
    packet_id_of,
)
from busbar.bus.broker.session import Publication
from busbar.bus.broker.strings import check_strings
from busbar.bus.topics import is_valid_topic

from .amqtt_acl import Rights
from .amqtt_sessions import LIMITS, SUBACK_FAILURE, Exchange, Session

_SHOWN: Final = 80  # characters of a topic in the log

log = logging.getLogger("amqtt.router")

Authenticate = Callable[[Connect], Awaitable[bool]]
RightsOf = Callable[[Connect], Rights | None]
"""None: the client may do everything."""
Handler = Callable[[Session, MQTTFixedHeader, BufferReader], Awaitable[None]]


class Connection:
    """Reads packets and responds. `run` never raises except when cancelled. `verified`: user names are."""

    def __init__(
        self,
        stream: PacketStream,
        exchange: Exchange,
        authenticate: Authenticate,
        rights_of: RightsOf,
        *,
        verified: bool,
    ) -> None:
        self._stream = stream
        self._verified = verified
        self._exchange = exchange
        self._authenticate = authenticate
        self._rights_of = rights_of
        self._rights: Rights | None = None
        self._told_denied = False
        self._session: Session | None = None
        self._will: LastWill | None = None
        self._handlers: dict[int, Handler] = {
            PUBLISH: self._on_publish,
            PUBACK: self._on_acknowledgement,
            PUBREC: self._on_acknowledgement,
            PUBREL: self._on_pubrel,
            PUBCOMP: self._on_acknowledgement,
            SUBSCRIBE: self._on_subscribe,
            UNSUBSCRIBE: self._on_unsubscribe,
            PINGREQ: self._on_ping,
        }

    async def run(self) -> None:
        """Serve the client until it disconnects, violates the protocol, is silent too long or is dropped."""
        writing = asyncio.create_task(self._stream.write_queued())
        try:
            await self._serve()
        except Malformed as error:
            log.warning("client %r dropped: %s", self._client_id, error)
        except ENDINGS as error:
            log.info("client %r: %s", self._client_id, self._stream.reason or repr(error))
        except Exception:
            log.exception("client %r dropped", self._client_id)
        finally:
            if self._session is not None and self._session.sink is self:
                self._exchange.close(self._session)
            self._publish_will()
            await self._stream.finish(writing, FLUSH_S)

    def end(self) -> None:
        """The router stops: close now, without the will."""
        self._will = None
        self._stream.abort("the router ends")

    def send(self, data: bytes) -> None:
        """Sink: queue a packet."""
        self._stream.send(data)

    def abort(self, reason: str) -> None:
        """Sink: end the connection now; the will is published."""
        self._stream.abort(reason)

    def supersede(self) -> None:
        """Sink: the client has connected again: its will comes before what it says now (MQTT-3.1.2-8)."""
        self._stream.abort("taken over by a newer connection")
        self._publish_will()

    @property
    def _client_id(self) -> str:
        return self._session.client[1] if self._session is not None else "?"

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                header, body = await self._stream.packet(None, CONNECT)
            connect = await read_connect(header, body, anonymous=True, max_qos=2)
            session = await self._admit(connect)
        except Refused as refused:
            log.info("connection refused: %s", refused)
            self._stream.send(connack(refused.code))
            return
        within = connect.keep_alive_s * KEEP_ALIVE_FACTOR or None
        handled = 0
        while True:
            header, body = await self._stream.packet(within)
            if header.packet_type == DISCONNECT:
                self._will = None
                return
            handler = self._handlers.get(header.packet_type)
            if handler is None:
                raise Malformed(f"unexpected packet of type {header.packet_type}")
            check_flags(header)
            check_strings(header, body)
            await handler(session, header, BufferReader(body))
            handled += 1
            if handled % TURN == 0:
                await asyncio.sleep(0)

    async def _admit(self, connect: Connect) -> Session:
        """No session is looked up, and no other connection affected, before the password is verified."""
        if connect.will is not None:
            _check_topic(connect.will.publication.topic)
        if not await self._authenticate(connect):
            raise Refused(NOT_AUTHORIZED_CODE, "wrong name or password")
        self._rights = self._rights_of(connect)
        # A name that nobody has verified makes no other client (MQTT-3.1.4-2).
        client = (connect.username if self._verified else "", connect.client_id)
        session, present = self._exchange.open(client, not connect.clean, self._rights)
        self._session, self._will = session, connect.will
        self._stream.send(connack(ACCEPTED, present))
        session.attach(self)
        return session

    async def _on_publish(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet = await PublishPacket.from_stream(body, fixed_header=header)
        topic, qos, packet_id = packet.topic_name, packet.qos, packet.packet_id
        if qos > 2 or (qos and not packet_id):
            raise Malformed(f"PUBLISH with QoS {qos} and packet id {packet_id}")
        _check_topic(topic)
        message = Publication(topic, packet.data, qos)
        if not self._may_publish(topic):
            pass  # MQTT 3.1.1 has no refusal: it is acknowledged, and goes nowhere (MQTT-3.3.5-2)
        elif qos < 2:
            self._exchange.publish(message, packet.retain_flag)
        elif not session.receive(packet_id, message, packet.retain_flag):
            raise Malformed("too many or too large QoS 2 messages that are never released")
        if qos:
            kind = PubackPacket if qos == 1 else PubrecPacket
            self._stream.send(kind.build(packet_id).to_bytes())

    async def _on_pubrel(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet_id = await packet_id_of(header, body)
        released = session.release(packet_id)
        if released is not None:
            self._exchange.publish(*released)
        self._stream.send(PubcompPacket.build(packet_id).to_bytes())

    async def _on_acknowledgement(
        self, session: Session, header: MQTTFixedHeader, body: BufferReader
    ) -> None:
        packet_id = await packet_id_of(header, body)
        if header.packet_type == PUBACK:
            session.acknowledged(packet_id)
        elif header.packet_type == PUBREC:
            session.arrived(packet_id)
        else:
            session.completed(packet_id)

    async def _on_subscribe(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet = await SubscribePacket.from_stream(body, fixed_header=header)
        wanted: list[tuple[str, int]] = packet.payload.topics
        if not wanted or any(qos > 2 for _, qos in wanted):
            raise Malformed("SUBSCRIBE without a filter or with a QoS above 2")
        codes = [self._exchange.subscribe(session, topic, qos) for topic, qos in wanted]
        self._stream.send(SubackPacket.build(packet.variable_header.packet_id, codes).to_bytes())
        for (topic, _), code in zip(wanted, codes, strict=True):
            for message in self._exchange.retained(topic, code) if code != SUBACK_FAILURE else ():
                session.deliver(message)

    async def _on_unsubscribe(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        packet = await UnsubscribePacket.from_stream(body, fixed_header=header)
        for wanted in packet.payload.topics:
            self._exchange.unsubscribe(session, wanted)
        self._stream.send(UnsubackPacket.build(packet.variable_header.packet_id).to_bytes())

    async def _on_ping(self, session: Session, header: MQTTFixedHeader, body: BufferReader) -> None:
        self._stream.send(bytes(PingRespPacket.build().to_bytes()))

    def _publish_will(self) -> None:
        will, self._will = self._will, None
        if will is not None and self._may_publish(will.publication.topic):
            self._exchange.publish(will.publication, will.retain)

    def _may_publish(self, topic: str) -> bool:
        # Topics with a leading $ are the router's own (MQTT 3.1.1, section 4.7.2).
        rights = self._rights
        allowed = not topic.startswith("$") and (rights is None or rights.may_publish(topic))
        if not allowed and not self._told_denied:
            self._told_denied = True  # once: what clients send must not fill the log
            log.warning("client %r may not publish to %r", self._client_id, topic[:_SHOWN])
        return allowed


def _check_topic(topic: str) -> None:
    """Raises Malformed."""
    if not is_valid_topic(topic):
        raise Malformed(f"topic {topic[:_SHOWN]!r} is empty or has a wildcard")
    if not fits(topic, LIMITS):
        raise Malformed(f"topic {topic[:_SHOWN]!r} is longer than {LIMITS.topic_bytes} bytes or too deep")
