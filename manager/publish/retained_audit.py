"""Looks at what the broker holds and mends it: a retained status or assignment that is not the manager's own
(deleted, forged, or left over by an older store) is rewritten or cleared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from busbar.bus.clock import Clock, wait_or_sleep
from busbar.bus.connection.link import Link, Message
from busbar.bus.errors import BusOfflineError
from busbar.bus.topics import Topics

log = logging.getLogger("busbar.repair")

EVERY_S: Final = 60.0
"""The longest pause between two looks."""
SOON_S: Final = 10.0
"""The shortest."""
PER_TOPIC_S: Final = 0.02
"""Pause for each retained topic: a look costs broker and manager some 0.1 ms for each."""
QUIET_S: Final = 0.5
"""No retained message for so long: the broker has sent them all (MQTT does not say when it has)."""
LOOK_S: Final = 10.0
"""The longest look."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is to be done: topics to clear, and whether something must be said again."""

    foreign: tuple[str, ...]
    untrue: tuple[str, ...]


def compare(seen: Mapping[str, bytes], before: Mapping[str, bytes], now: Mapping[str, bytes]) -> Wrong:
    """Judge what the broker held. Pure.

    `before` and `now` are what the manager had said when the look began and ended: a topic whose message
    changed meanwhile is left alone, since it can't be told which of the two the broker had sent.
    """
    settled = {topic: payload for topic, payload in now.items() if before.get(topic) == payload}
    foreign = tuple(topic for topic in seen if topic not in now and topic not in before)
    untrue = tuple(topic for topic, payload in settled.items() if seen.get(topic) != payload)
    return Wrong(foreign, untrue)


class Repair:
    """Compares now and then; `run` lasts until cancelled and never fails.

    `said` gives what every retained topic should hold; `idle` tells when all of it has been sent.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        clock: Clock,
        said: Callable[[], Mapping[str, bytes]],
        idle: Callable[[], bool],
        every: float = EVERY_S,
    ) -> None:
        self._link = link
        self._topics = topics
        self._clock = clock
        self._said = said
        self._idle = idle
        self._every = every
        self._seen: dict[str, bytes] = {}
        self._last = 0.0
        self._wake = asyncio.Event()

    def begin(self) -> None:
        """A new connection: look soon."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            try:
                await self._once()
            except BusOfflineError as error:
                log.debug("a look at the broker was cut short: %s", error)
            except Exception:
                log.exception("a look at the broker failed")
            await wait_or_sleep(self._clock, self._wake, self._pause())
            self._wake.clear()

    def _pause(self) -> float:
        """Often while that costs next to nothing."""
        return min(self._every, max(SOON_S, PER_TOPIC_S * len(self._said())))

    async def _once(self) -> None:
        deadline = self._clock.monotonic() + LOOK_S
        while not (self._link.connected and self._idle()):
            if self._clock.monotonic() > deadline:
                return
            await self._clock.sleep(QUIET_S / 5)
        before = dict(self._said())
        seen = await self._look()
        if not self._link.connected:
            return
        now = dict(self._said())
        wrong = compare(seen, before, now)
        if wrong.foreign or wrong.untrue:
            log.warning(
                "retained topics mended: %d foreign, %d untrue", len(wrong.foreign), len(wrong.untrue)
            )
        for topic in wrong.foreign:
            await self._link.publish(topic, b"", retain=True)
        for topic in wrong.untrue:
            if self._said().get(topic) == now[topic]:
                await self._link.publish(topic, now[topic], retain=True)

    async def _look(self) -> dict[str, bytes]:
        """Every retained status and assignment, at QoS 0: at QoS 1 stock brokers bound what they queue."""
        self._seen = {}
        patterns = (self._topics.all_status(), self._topics.all_nodes("assignment"))
        began = self._last = self._clock.monotonic()
        for pattern in patterns:
            self._link.subscribe(pattern, self._on_message, qos=0)
        try:
            while self._clock.monotonic() < min(self._last + QUIET_S, began + LOOK_S):
                await self._clock.sleep(QUIET_S / 5)
        finally:
            for pattern in patterns:
                self._link.unsubscribe(pattern)
        return self._seen

    def _on_message(self, message: Message) -> None:
        if message.retain and message.payload:
            self._seen[message.topic] = message.payload
            self._last = self._clock.monotonic()
