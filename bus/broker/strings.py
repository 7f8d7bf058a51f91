"""The strings of a packet, checked in its bytes before they are decoded.

amqtt decodes what is no UTF-8 as the text of a Python literal, so afterwards nobody can tell.
"""

from typing import Final

from amqtt.mqtt.packet import PUBLISH, SUBSCRIBE, UNSUBSCRIBE, MQTTFixedHeader

from .packet_stream import Malformed

FLAG_NAME: Final = 0x80
FLAG_PASSWORD: Final = 0x40
FLAG_WILL: Final = 0x04
_SHOWN: Final = 80  # bytes of a string in the log
_BEHIND_FILTER: Final = {SUBSCRIBE: 1, UNSUBSCRIBE: 0}  # its QoS


def check_strings(header: MQTTFixedHeader, body: bytes) -> None:
    """Raises Malformed for a topic or filter that is no UTF-8, has a NUL, or ends behind the packet
    (MQTT 3.1.1, section 1.5.3)."""
    try:
        if header.packet_type == PUBLISH:
            _check(body, 0)
        behind, at = _BEHIND_FILTER.get(header.packet_type), 2
        while behind is not None and at < len(body):
            at = _check(body, at) + behind
    except IndexError:
        raise Malformed(f"a string ends behind its packet of type {header.packet_type}") from None


def check_connect_strings(body: bytes) -> None:
    """The same of client id, will topic and user name in a CONNECT of level 4. What a password or a will
    says may be any bytes. What is missing at the end is left to whoever decodes the rest."""
    try:
        _, at = field(body, 0)
        flags = body[at + 1]
        at = _check(body, at + 4)
        if flags & FLAG_WILL:
            _, at = field(body, _check(body, at))
        if flags & FLAG_NAME:
            _check(body, at)
    except IndexError:
        return


def field(body: bytes, at: int) -> tuple[bytes, int]:
    """The bytes behind the length that is at `at`, and where they end. Raises IndexError."""
    end = at + 2 + (body[at] << 8 | body[at + 1])
    if end > len(body):
        raise IndexError
    return body[at + 2 : end], end


def _check(body: bytes, at: int) -> int:
    found, end = field(body, at)
    try:
        if "\0" not in found.decode():
            return end
    except UnicodeDecodeError:
        pass
    raise Malformed(f"a string is no UTF-8 or has a NUL: {found[:_SHOWN]!r}")
