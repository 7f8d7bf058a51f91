"""The first packet of a connection: decoded and checked before anything else happens."""

from typing import Final

from amqtt.adapters import BufferReader
from amqtt.errors import NoDataError
from amqtt.mqtt.connack import (
    BAD_USERNAME_PASSWORD,
    IDENTIFIER_REJECTED,
    NOT_AUTHORIZED,
    SERVER_UNAVAILABLE,
    UNACCEPTABLE_PROTOCOL_VERSION,
    ConnackPacket,
)
from amqtt.mqtt.connect import ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.packet import CONNECT, MQTTFixedHeader
from msgspec import Struct

from .packet_stream import Malformed
from .session import Publication
from .strings import check_connect_strings

ACCEPTED: Final = 0
NOT_AUTHORIZED_CODE: Final[int] = NOT_AUTHORIZED
BUSY_CODE: Final[int] = SERVER_UNAVAILABLE
"""The client may be right, and tries again."""
TOKEN_USED_CODE: Final[int] = BAD_USERNAME_PASSWORD
"""Only for a join token that was used: whoever knows one may know that."""
_LEVEL_3_1_1: Final = 4
_MAX_CLIENT_ID: Final = 256


class Refused(Exception):
    """The connection is refused with this CONNACK code (MQTT 3.1.1, section 3.2.2.3)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class LastWill(Struct, frozen=True):
    """What to publish when the client vanishes."""

    publication: Publication
    retain: bool


class Connect(Struct, frozen=True):
    """A well-formed CONNECT. `keep_alive_s` is 0 when the client wants no limit."""

    client_id: str
    username: str
    password: str
    clean: bool
    keep_alive_s: int
    will: LastWill | None


def connack(code: int, present: bool = False) -> bytes:
    """The CONNACK packet."""
    return bytes(ConnackPacket.build(int(present), code).to_bytes())


async def read_connect(
    header: MQTTFixedHeader, body: bytes, *, anonymous: bool = False, max_qos: int = 1
) -> Connect:
    """Check the first packet. Raises Refused when a CONNACK can say why, else Malformed.

    `anonymous`: a client may come without a name, or without a password. `max_qos`: the highest of a will.
    """
    if header.packet_type != CONNECT or header.flags:
        raise Malformed("the first packet is not a CONNECT")
    try:
        reader = BufferReader(body)
        variable = await ConnectVariableHeader.from_stream(reader, header)
        _check_protocol(variable)  # before the payload: level 5 puts properties in front of it
        check_connect_strings(body)
        payload = await ConnectPayload.from_stream(reader, header, variable)
    except NoDataError as error:
        raise Malformed("CONNECT ends too early") from error
    _check_payload(variable, payload, anonymous)
    return Connect(
        client_id=payload.client_id,
        username=payload.username or "",
        password=payload.password or "",
        clean=variable.clean_session_flag,
        keep_alive_s=variable.keep_alive,
        will=_will(variable, payload, max_qos),
    )


def _check_protocol(variable: ConnectVariableHeader) -> None:
    if variable.proto_name not in ("MQTT", "MQIsdp"):
        raise Malformed("not MQTT")
    if variable.proto_name != "MQTT" or variable.proto_level != _LEVEL_3_1_1:
        level = variable.proto_level
        raise Refused(UNACCEPTABLE_PROTOCOL_VERSION, f"protocol level {level}; this broker speaks MQTT 3.1.1")
    if variable.reserved_flag:
        raise Malformed("reserved flag is set")


def _check_payload(variable: ConnectVariableHeader, payload: ConnectPayload, anonymous: bool) -> None:
    if payload.client_id_is_random and not variable.clean_session_flag:
        raise Refused(IDENTIFIER_REJECTED, "a session that outlives the connection needs a client id")
    if len(payload.client_id) > _MAX_CLIENT_ID:
        raise Refused(IDENTIFIER_REJECTED, f"client id of more than {_MAX_CLIENT_ID} characters")
    if payload.username is None and payload.password is not None:
        raise Refused(NOT_AUTHORIZED, "a password without a name")
    if not anonymous and (payload.username is None or payload.password is None):
        raise Refused(NOT_AUTHORIZED, "nobody is anonymous here")


def _will(variable: ConnectVariableHeader, payload: ConnectPayload, max_qos: int) -> LastWill | None:
    if not variable.will_flag:
        return None
    if payload.will_topic is None or payload.will_message is None or variable.will_qos > 2:
        raise Malformed("will without topic, message or a valid QoS")
    publication = Publication(
        payload.will_topic, bytes(payload.will_message), min(variable.will_qos, max_qos)
    )
    return LastWill(publication, variable.will_retain_flag)
