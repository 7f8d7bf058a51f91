"""The size of a PUBLISH packet and its bound: the one place that decides what may be sent."""

from __future__ import annotations

import logging
from typing import Any, Final

from ..errors import BusOfflineError, MessageTooLargeError

log = logging.getLogger("busbar.bus")

MAX_LOGGED: Final = 1_000
"""Topics whose oversized messages are remembered as logged."""
NO_RETAIN: Final = "this broker does not keep retained messages (retain_available false); Busbar needs them"
RETAIN_NOT_SUPPORTED: Final = 0x9A
"""The CONNACK reason code for a retained will that the broker does not take (MQTT 5, section 3.2.2.2)."""


class RetainUnavailableError(BusOfflineError):
    """The broker accepts connections and keeps no retained messages: another MQTT version does not help."""


def not_taken(size: int, topic: str) -> str:
    """Why a broker that does not tell its limit has probably closed the connection, and what to do."""
    return (
        f"the broker probably takes no packet of {size} bytes, as that on {topic}: raise its limit; services "
        "stay below it with MQTT 5, which tells it, or with --max-packet"
    )


def publish_size(topic: str, payload: bytes, qos: int, properties: int | None = None) -> int:
    """Bytes of a whole PUBLISH packet; `properties` are the bytes of its MQTT 5 properties, with their length
    field (None: MQTT 3.1.1, which has none)."""
    return packet_size(topic, len(payload), qos, properties)


def packet_size(topic: str, size: int, qos: int, properties: int | None = None) -> int:
    """As `publish_size`, with a payload of so many bytes."""
    body = 2 + len(topic.encode()) + (2 if qos else 0) + (properties or 0) + size
    length = 1 + (body > 127) + (body > 16_383) + (body > 2_097_151)
    return 1 + length + body


class PacketLimit:
    """The most bytes of a packet on the present connection: the configured bound, or the broker's if less."""

    def __init__(self, configured: int) -> None:
        self._configured = configured
        self._logged: set[str] = set()
        self.bytes = configured

    def connected(self, told: int | None) -> None:
        """A connection was accepted; `told` is the CONNACK's Maximum Packet Size, None without one."""
        self.bytes = min(self._configured, told) if told else self._configured

    def check(self, topic: str, payload: bytes, qos: int, packed: Any = None, *, v5: bool = False) -> int:
        """Refuse a message that the broker would close the connection for; logged once per topic.

        Returns the size of its packet.

        Raises:
            MessageTooLargeError: it is above the bound.
        """
        size = publish_size(topic, payload, qos, (len(packed.pack()) if packed else 1) if v5 else None)
        if size <= self.bytes:
            self._logged.discard(topic)
            return size
        error = MessageTooLargeError(topic, size, self.bytes)
        if topic not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(topic)
            log.error("%s", error)
        raise error
