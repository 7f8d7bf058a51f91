"""What all servers of MQTT 3.1.1 here share: its times, its reserved flags, and how a connection may end."""

from __future__ import annotations

from typing import Final

from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt.packet import (
    PUBLISH,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
    PacketIdVariableHeader,
)

from .packet_stream import GONE, Malformed

CONNECT_WITHIN_S: Final = 10.0
"""From the accepted socket to a whole CONNECT."""
KEEP_ALIVE_FACTOR: Final = 1.5
"""MQTT 3.1.1, section 3.1.2.10."""
FLUSH_S: Final = 1.0
"""Bound of writing what is queued when a connection ends."""
TURN: Final = 32
"""Packets of one connection handled before other clients get their turn."""
MAX_RECEIVED: Final = 1000
"""Messages of QoS 2 that a client has sent and not released."""
ENDINGS: Final = (*GONE, Malformed, AMQTTError, MQTTError, NoDataError, CodecError)
"""What ends a connection through the client's doing; anything else is a defect of ours."""
_FLAGS: Final = {PUBREL: 0x02, SUBSCRIBE: 0x02, UNSUBSCRIBE: 0x02}


def check_flags(header: MQTTFixedHeader) -> None:
    """Raises Malformed for reserved flags (MQTT 3.1.1, section 2.2.2)."""
    if header.packet_type != PUBLISH and header.flags != _FLAGS.get(header.packet_type, 0):
        raise Malformed(f"reserved flags of packet type {header.packet_type}")


async def packet_id_of(header: MQTTFixedHeader, body: BufferReader) -> int:
    """The packet id of a packet that holds nothing else."""
    variable = await PacketIdVariableHeader.from_stream(body, header)
    packet_id: int = variable.packet_id
    return packet_id
