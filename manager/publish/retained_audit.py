"""Audits the broker's retained statuses and assignments: one that was deleted, forged or left over by an
older store is published again or cleared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from busbar.bus.clock import Clock, wait_or_sleep
from busbar.bus.connection.link import Link
from busbar.bus.errors import BusOfflineError
from busbar.bus.topics import Topics
from msgspec import Struct

from .retained import read_retained

log = logging.getLogger("busbar.retained_audit")

MAX_INTERVAL_S: Final = 60.0
"""The longest pause between two audits."""
MIN_INTERVAL_S: Final = 10.0
"""The shortest."""
PER_TOPIC_S: Final = 0.02
"""Pause per retained topic: an audit costs broker and manager about 0.1 ms per topic."""
IDLE_S: Final = 10.0
"""An audit waits so long for what has not been sent, and is left out then."""
POLL_S: Final = 0.1
UNREAD: Final = 2
"""So many audits in a row without a single status, which the broker acknowledged, and there is a cause."""


class Discrepancies(Struct, frozen=True):
    """Topics to clear (`unknown`) and topics to publish again (`stale`)."""

    unknown: tuple[str, ...]
    stale: tuple[str, ...]


def compare(
    received: Mapping[str, bytes],
    before: Mapping[str, bytes],
    now: Mapping[str, bytes],
    held_back: Collection[str] = (),
) -> Discrepancies:
    """Compare the broker's retained messages with the expected ones. Pure.

    `before` and `now` are what was expected when the reading began and ended: a topic that changed meanwhile
    is skipped, because the broker may have sent either. So is one whose message is held back: the broker
    keeps the one before.
    """
    settled = {
        topic: payload
        for topic, payload in now.items()
        if before.get(topic) == payload and topic not in held_back
    }
    unknown = tuple(topic for topic in received if topic not in now and topic not in before)
    stale = tuple(topic for topic, payload in settled.items() if received.get(topic) != payload)
    return Discrepancies(unknown, stale)


class RetainedAudit:
    """Audits periodically; `run` lasts until cancelled and never fails.

    `expected` returns the payload of every retained topic, `idle` whether all of them have been sent,
    `held_back` the topics whose message is too large to be sent.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        clock: Clock,
        expected: Callable[[], Mapping[str, bytes]],
        idle: Callable[[], bool],
        interval: float = MAX_INTERVAL_S,
        held_back: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._link = link
        self._topics = topics
        self._clock = clock
        self._expected = expected
        self._idle = idle
        self._held_back = held_back
        self._interval = interval
        self._unread = 0
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Audit soon: there is a new connection."""
        self._wake.set()

    @property
    def statuses_unread(self) -> bool:
        """Whether none of the statuses comes back: the right to write or to read them may be missing."""
        return self._unread >= UNREAD

    async def run(self) -> None:
        while True:
            try:
                await self._audit()
            except BusOfflineError as error:
                log.debug("an audit was interrupted: %s", error)
            except Exception:
                log.exception("an audit failed")
            await wait_or_sleep(self._clock, self._wake, self._next_interval())
            self._wake.clear()

    def _next_interval(self) -> float:
        """In proportion to the cost of an audit."""
        return min(self._interval, max(MIN_INTERVAL_S, PER_TOPIC_S * len(self._expected())))

    async def _audit(self) -> None:
        deadline = self._clock.monotonic() + IDLE_S
        while not (self._link.connected and self._idle()):
            if self._clock.monotonic() > deadline:
                return
            await self._clock.sleep(POLL_S)
        before = dict(self._expected())
        patterns = (self._topics.all_status(), self._topics.all_nodes("assignment"))
        received = await read_retained(self._link, self._clock, patterns)
        if not self._link.connected:
            return
        now = dict(self._expected())
        self._note_unread(received, before.keys() & now.keys() - set(self._held_back()))
        found = compare(received, before, now, self._held_back())
        if found.unknown or found.stale:
            log.warning("retained topics: %d unknown cleared, %d stale", len(found.unknown), len(found.stale))
        for topic in found.unknown:
            await self._link.publish(topic, b"", retain=True)
        for topic in found.stale:
            if self._expected().get(topic) == now[topic]:
                await self._link.publish(topic, now[topic], retain=True)

    def _note_unread(self, received: Collection[str], expected: Collection[str]) -> None:
        status = f"{self._topics.prefix}/status/"
        came, due = (any(topic.startswith(status) for topic in each) for each in (received, expected))
        self._unread = self._unread + 1 if due and not came else 0
