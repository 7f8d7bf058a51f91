"""paho's client with a fast path for plain acknowledgements, and the conversion of MQTT 5 properties.

paho 2 creates a ReasonCode and a Properties for every PUBACK: a fifth of the CPU of a manager under load
(docs/decisions/0014). Acknowledgements that carry more than success are left to paho. The only file that uses
private names of paho, whose version is bounded in pyproject.toml (docs/decisions/0017).
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
_PACKET_ID_ONLY: Final = 2
"""Bytes of a PUBACK after its fixed header when it holds the packet id alone: always in MQTT 3.1.1, in MQTT 5
for a success without properties (section 3.4.2.1)."""


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
    """A `paho.mqtt.client.Client` that acknowledges plain PUBACKs without creating objects."""

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != _PACKET_ID_ONLY:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, _SUCCESS, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


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
