"""paho's client with a shorter way for plain acknowledgements.

paho 2 makes a ReasonCode and a Properties for every PUBACK: a fifth of what a manager under load did
(docs/decisions/0014). This reaches into paho's insides, so its version is bounded in pyproject.toml, and an
acknowledgement that says more than "taken" goes paho's own way.
"""

from __future__ import annotations

from typing import Final, Literal

from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

_TAKEN: Final = ReasonCode(PacketTypes.PUBACK)
_NOTHING: Final = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]
_PLAIN: Final = 2
"""Bytes of a PUBACK after its fixed header when it holds the packet id alone: always in MQTT 3.1.1, and in
MQTT 5 when it was taken and nothing is to be said about it (section 3.4.2.1)."""


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
