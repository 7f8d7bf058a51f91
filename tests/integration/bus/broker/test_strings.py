"""Strings that MQTT forbids: the connection is closed as malformed, and the log stays bounded."""

import logging
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busbar.bus.broker import EmbeddedBroker
from busbar.bus.broker.limits import LIMITS

from tests.integration.bus.broker.kit import R, Raw, Will, broker_in, packet, secret, text

TOPIC = f"{R}/request/alice/op".encode()
NUL, SURROGATE, OVERLONG, LATIN, CUT = b"\0", b"\xed\xa0\x80", b"\xc0\x80", b"\xff", b"\xc3"
FORBIDDEN = pytest.mark.parametrize("forbidden", [NUL, SURROGATE, OVERLONG, LATIN, CUT])
"""MQTT 3.1.1, section 1.5.3: neither U+0000, nor what is no UTF-8, surrogates included."""


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with broker_in(tmp_path) as running:
        yield running


def connect(client_id: bytes, name: bytes = b"alice", will: bytes = b"", will_text: bytes = b"gone") -> bytes:
    """A CONNECT with these strings, and the password of alice."""
    flags = 0xC2 | (0x04 if will else 0)
    said = text("MQTT") + bytes([4, flags]) + struct.pack("!H", 60) + text(client_id)
    if will:
        said += text(will) + text(will_text)
    return packet(0x10, said + text(name) + text(secret("alice")))


@FORBIDDEN
@pytest.mark.parametrize("where", ["client id", "user name", "will topic"])
async def test_a_connect_with_a_forbidden_string_is_not_answered(
    broker: EmbeddedBroker, where: str, forbidden: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "busbar")
    said = {
        "client id": connect(b"c" + forbidden),
        "user name": connect(b"c", b"alice" + forbidden),
        "will topic": connect(b"c", will=TOPIC + forbidden),
    }[where]
    raw = await Raw.open(broker.port)
    raw.say(said)
    with pytest.raises(EOFError):  # MQTT-3.1.4-1: closed without a CONNACK
        await raw.hear()
    told = [record for record in caplog.records if "no UTF-8 or has a NUL" in record.getMessage()]
    assert len(told) == 1 and told[0].levelno == logging.INFO and told[0].exc_info is None


@FORBIDDEN
@pytest.mark.parametrize(
    ("first", "before", "after"),
    [(0x30, b"", b""), (0x32, b"", b"\0\1x"), (0x82, b"\0\1", b"\1"), (0xA2, b"\0\1", b"")],
    ids=["PUBLISH", "PUBLISH at QoS 1", "SUBSCRIBE", "UNSUBSCRIBE"],
)
async def test_a_topic_with_a_forbidden_string_ends_the_connection_with_its_will(
    broker: EmbeddedBroker,
    first: int,
    before: bytes,
    after: bytes,
    forbidden: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "busbar")
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/#")
    alice = await Raw.connect(broker.port, "alice", will=Will(TOPIC.decode()))
    good = text(TOPIC) + after if first in (0x82, 0xA2) else b""  # a good one in front hides nothing
    alice.say(packet(first, before + good + text(TOPIC + forbidden) + after))
    with pytest.raises(EOFError):
        await alice.hear()
    assert (await manager.message())[1] == b"lost"
    assert sum("no UTF-8 or has a NUL" in record.getMessage() for record in caplog.records) == 1
    assert not any(record.exc_info for record in caplog.records)


async def test_forbidden_strings_fill_no_log(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "busbar")
    for _ in range(LIMITS.log_lines + 10):
        raw = await Raw.open(broker.port)
        raw.say(connect(b"\xff" * 60_000))
        await raw.closed()
    assert len(caplog.records) <= LIMITS.log_lines + 2
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)


async def test_what_mqtt_allows_is_taken(broker: EmbeddedBroker) -> None:
    """A byte order mark is a character of the string (MQTT-1.5.3-3), and a will may say any bytes."""
    name = "\ufeffé\U0001f600"
    raw = await Raw.open(broker.port)
    raw.say(connect(name.encode(), will=TOPIC, will_text=b"\0\xff"))
    assert (await raw.hear())[1] == b"\0\0"
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/#")
    await raw.publish(f"{R}/request/alice/{name}", b"\0\xff")
    assert (await manager.message())[:2] == (f"{R}/request/alice/{name}", b"\0\xff")
    raw.leave()
    assert (await manager.message())[1] == b"\0\xff"
