"""paho's client with fast paths for plain acknowledgements and for many packets at once, and the conversion
of MQTT 5 properties.

paho 2 creates a ReasonCode and a Properties for every PUBACK, and makes three system calls to receive a
packet and one to send it: more than a third of the CPU of a manager under load (docs/decisions/0014).
Acknowledgements that carry more than success are left to paho. The only file that uses private names of paho,
whose version is bounded in pyproject.toml (docs/decisions/0017).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal

from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from .link import NO_PROPERTIES, Properties

_SUCCESS: Final = ReasonCode(PacketTypes.PUBACK)
_NO_PROPERTIES: Final = PahoProperties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]
_KIND: Final = 0xF0
"""The bits of a command that tell the kind of a packet."""
_JOINED: Final = (paho.PUBLISH, paho.PUBACK)
_PACKET_ID_ONLY: Final = 2
"""Bytes of a PUBACK after its fixed header when it holds the packet id alone: always in MQTT 3.1.1, in MQTT 5
for a success without properties (section 3.4.2.1)."""
_PLAIN_PUBACK: Final = bytes([paho.PUBACK, _PACKET_ID_ONLY])
"""How such a PUBACK begins."""
_AWAITED: Final = paho.MQTTMessage()
"""What stands for any message of `Client.send` until it is acknowledged: paho reads no more than its QoS."""
_AWAITED.qos = 1

_RECEIVED: Final = 16 * 1024
"""Bytes that are asked for at once."""
_SENT: Final = 64 * 1024
"""Bytes from which on no packet is joined to those that wait."""

PROPERTY_NAMES: Final = {
    "response_topic": "ResponseTopic",
    "correlation": "CorrelationData",
    "expiry_s": "MessageExpiryInterval",
    "content_type": "ContentType",
}
"""Fields of `bus.connection.link.Properties`, as MQTT 5 calls them."""


class Packed:
    """MQTT 5 properties, encoded; `pack` is all that paho's `publish` calls."""

    def __init__(self, packed: bytes) -> None:
        self.pack = lambda: packed


class Client(paho.Client):
    """A `paho.mqtt.client.Client` for one connection that handles plain PUBACKs without creating objects,
    receives many packets with one system call, and sends many with one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._received, self._handled = b"", 0
        """The last bytes from the socket, and how many of them were handed out."""
        self._may_receive = True

    def read_packets(self) -> None:
        """As `loop_read`, which looks at the socket for so many packets as await an acknowledgement: also
        handles the others that were received with those."""
        code = self.loop_read()
        self._may_receive = False
        try:
            while code == MQTTErrorCode.MQTT_ERR_SUCCESS and self._handled < len(self._received):
                code = self.loop_read()
        finally:
            self._may_receive = True

    def _sock_recv(self, bufsize: int) -> bytes:
        start = self._handled
        if start == len(self._received):
            if not self._may_receive:
                raise BlockingIOError
            self._received, start = super()._sock_recv(max(bufsize, _RECEIVED)), 0
        found = self._received[start : start + bufsize]
        self._handled = start + len(found)
        return found

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: Any = None
    ) -> MQTTErrorCode:
        """Joined to the last one that waits, where nothing happens once either is written."""
        if not _joins(command, qos):
            return super()._packet_queue(command, packet, mid, qos, info)
        last = self._out_packet[-1] if self._out_packet else None
        if last is None or not _joins(last["command"], last["qos"]) or len(last["packet"]) > _SENT:
            return super()._packet_queue(command, bytearray(packet), mid, qos, info)
        last["packet"] += packet
        last["to_process"] += len(packet)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def send(self, topic: str, payload: bytes, retain: bool, properties: Any) -> tuple[MQTTErrorCode, int]:
        """As `publish` at QoS 1, without the objects on which a thread could wait; a code and the packet id.

        Raises:
            ValueError: the topic has a wildcard, or is too long.
        """
        encoded, mid = topic.encode(), self._mid_generate()
        self._raise_for_invalid_topic(encoded)
        if mid in self._out_messages:
            return MQTTErrorCode.MQTT_ERR_QUEUE_SIZE, mid
        code = self._send_publish(mid, encoded, payload, 1, retain, False, None, properties)
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._out_messages[mid] = _AWAITED
            self._inflight_messages += 1
        return code, mid

    def _packet_read(self) -> MQTTErrorCode:
        """A plain PUBACK that was received whole is handled where it lies."""
        start, end = self._handled, self._handled + len(_PLAIN_PUBACK) + _PACKET_ID_ONLY
        found = self._received[start:end]
        if len(found) < end - start or not found.startswith(_PLAIN_PUBACK) or self._in_packet["command"]:
            return super()._packet_read()
        self._handled = end
        return self._acknowledged(found[-_PACKET_ID_ONLY:])

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != _PACKET_ID_ONLY:
            return super()._handle_pubackcomp(cmd)
        return self._acknowledged(packet)

    def _acknowledged(self, packet_id: bytes | bytearray) -> MQTTErrorCode:
        mid = int.from_bytes(packet_id, "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, _SUCCESS, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def _joins(command: int, qos: int) -> bool:
    """Whether paho does nothing once such a packet is written."""
    return qos > 0 and command & _KIND in _JOINED


@lru_cache(maxsize=256)  # replies without correlation data are alike
def to_paho(properties: Properties) -> Any:
    """Properties for paho's `publish`; None for none."""
    if properties is NO_PROPERTIES:
        return None
    out = PahoProperties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for ours, theirs in PROPERTY_NAMES.items():
        if (value := getattr(properties, ours)) is not None:
            setattr(out, theirs, value)
    if properties.user:
        out.UserProperty = list(properties.user)
    return Packed(out.pack())  # type: ignore[no-untyped-call]


def from_paho(raw: PahoProperties) -> Properties:
    """The properties that the contract uses; the others are ignored."""
    known = {ours: getattr(raw, theirs, None) for ours, theirs in PROPERTY_NAMES.items()}
    return Properties(**known, user=tuple(tuple(pair) for pair in getattr(raw, "UserProperty", ())))
