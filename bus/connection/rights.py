"""Finds out which rights are missing at the broker, by messages to oneself.

MQTT 5 tells a publisher that it may not write (PUBACK); MQTT 3.1.1 does not, and mosquitto grants every
subscription whatever its ACL. So what is published to a topic that the user may also read must come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ..errors import BusOfflineError, MissingRightError
from .link import Link, Message

TRIES: Final = 3
TRY_S: Final = 3.0
"""Seconds until a message that has not come back is sent again; a broker that takes five still serves."""


async def missing_rights(link: Link, user: str | None, probes: Mapping[str, str]) -> list[MissingRightError]:
    """The rights that are missing now. `probes`: topics, each with the filter that it stands for.

    The messages are empty and not retained.

    Raises:
        BusOfflineError: the connection broke meanwhile.
    """
    came: set[str] = set()
    refused: dict[str, MissingRightError] = {}
    news = asyncio.Event()

    def note(message: Message) -> None:
        came.add(message.topic)
        news.set()

    for topic in probes:
        # At QoS 0: in a cluster of nats-server each subscription of QoS 1 waits for a leader of its own.
        link.subscribe(topic, note, 0)
    try:
        for _ in range(TRIES):
            waiting = [topic for topic in probes if topic not in came and topic not in refused]
            for topic in waiting:
                if (error := await _sent(link, topic)) is not None:
                    refused[topic] = error
            try:
                async with asyncio.timeout(TRY_S):
                    while not set(probes) <= came | set(refused):
                        news.clear()
                        await news.wait()
                break
            except TimeoutError:
                if not link.connected:
                    raise BusOfflineError from None
    finally:
        for topic in probes:
            link.unsubscribe(topic)
    return [
        MissingRightError(user, "write", shown)
        if topic in refused
        else MissingRightError(user, "write or to read", shown, certain=False)
        for topic, shown in probes.items()
        if topic not in came
    ]


async def _sent(link: Link, topic: str) -> MissingRightError | None:
    """Why the broker did not take it. Raises BusOfflineError when the connection broke."""
    try:
        await link.publish(topic, b"")
    except MissingRightError as error:
        return error
    return None
