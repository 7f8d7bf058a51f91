"""paho's client with a fast path for plain acknowledgements, and the conversion of MQTT 5 properties.

paho 2 builds a ReasonCode and a Properties for every PUBACK: a fifth of the CPU time of a manager under load
(docs/decisions/0014). This uses private attributes of paho, so its version is bounded in pyproject.toml; an
acknowledgement with more than success takes paho's own path.
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

_TAKEN: Final = ReasonCode(PacketTypes.PUBACK)
_NOTHING: Final = PahoProperties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]
_PLAIN: Final = 2
"""Bytes of a PUBACK after its fixed header when it holds the packet id alone: always in MQTT 3.1.1, and in
MQTT 5 when it was taken and nothing is to be said about it (section 3.4.2.1)."""


PROPERTY_NAMES: Final = {
    "response_topic": "ResponseTopic",
    "correlation": "CorrelationData",
    "expiry_s": "MessageExpiryInterval",
    "content_type": "ContentType",
}
"""Fields of `bus.connection.link.Properties`, as MQTT 5 calls them."""


class Packed:
    """Encoded MQTT 5 properties; `pack` is all that paho calls."""

    def __init__(self, packed: bytes) -> None:
        self.pack = lambda: packed


class Client(paho.Client):
    """A `paho.mqtt.client.Client`."""

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != _PLAIN:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, _TAKEN, _NOTHING)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


@lru_cache(maxsize=256)  # replies without correlation data are alike
def to_paho(properties: Properties) -> Any:
    """Encoded for sending; None when there are none."""
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
    """The properties that the contract uses."""
    known = {ours: getattr(raw, theirs, None) for ours, theirs in PROPERTY_NAMES.items()}
    return Properties(**known, user=tuple(tuple(pair) for pair in getattr(raw, "UserProperty", ())))
