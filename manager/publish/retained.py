"""Reads what a broker retains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link, Message

SETTLE_S: Final = 0.5
"""Without a retained message for so long, the broker has sent all of them (MQTT has no end marker)."""
READ_TIMEOUT_S: Final = 10.0


async def read_retained(link: Link, clock: Clock, patterns: Sequence[str]) -> dict[str, bytes]:
    """All retained messages of these filters, by topic, within `READ_TIMEOUT_S`.

    The caller sees whether the connection has lasted. At QoS 0, since brokers bound the queue of QoS 1.
    """
    received: dict[str, bytes] = {}
    began = last = clock.monotonic()

    def note(message: Message) -> None:
        nonlocal last
        if message.retain and message.payload:
            received[message.topic] = message.payload
            last = clock.monotonic()

    for pattern in patterns:
        link.subscribe(pattern, note, qos=0)
    try:
        while clock.monotonic() < min(last + SETTLE_S, began + READ_TIMEOUT_S):
            await clock.sleep(SETTLE_S / 5)
    finally:
        for pattern in patterns:
            link.unsubscribe(pattern)
    return received
