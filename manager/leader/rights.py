"""Whether the broker gives this manager its rights: looked at after every connect, and told by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from busbar.bus.clock import Clock, wait_or_sleep
from busbar.bus.connection.link import Link
from busbar.bus.connection.rights import missing_rights
from busbar.bus.errors import BusOfflineError, MissingRightError
from busbar.bus.topics import PROBE, Topics

log = logging.getLogger("busbar.manager")

AGAIN_S: Final = 60.0
"""While one is missing, seconds until they are looked at again."""
UNREAD_S: Final = 5.0
"""How often the rights are looked at that no probe shows."""


class Rights:
    """`missing`: the rights that the last look has not found, in words.

    A probe must disturb nobody: it goes to topics that no node and no person reads, or that belong to nothing
    that exists. Where all topics of a right are read by others, `unread` tells what should have come by now.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        user: str | None,
        clock: Clock,
        retry: Callable[[], None],
        unread: Callable[[], Iterable[MissingRightError]] = tuple,
    ) -> None:
        self.missing: list[str] = []
        self._since: dict[str, float] = {}
        self._link, self._user, self._clock, self._retry = link, user, clock, retry
        self._unread = unread
        self._refused: list[MissingRightError] = []
        own = user or PROBE
        self.probes = {
            topics.request(own, PROBE): topics.all_requests(),
            topics.response(own, PROBE): topics.response("+", "+"),
            topics.node(PROBE, "assignment"): topics.all_nodes("assignment"),
            topics.node(PROBE, "command"): topics.all_nodes("command"),
            topics.node(own, "heartbeat"): topics.all_nodes("heartbeat"),
        }
        self._wake = asyncio.Event()
        self._connected = False

    def wake(self) -> None:
        """Look soon: there is a new connection."""
        self._connected = True
        self._wake.set()

    async def run(self) -> None:
        """Look after every connect, and again while a right is missing. Lasts until cancelled."""
        await self._wake.wait()
        again_at = 0.0
        while True:
            now = self._clock.monotonic()
            if self._connected or (self.missing and now >= again_at):
                self._connected = False
                await self._probe()
                again_at = now + AGAIN_S
            self._tell(self._in_words([*self._refused, *self._unread()]))
            self._wake.clear()
            if not self._connected:
                await wait_or_sleep(self._clock, self._wake, UNREAD_S)

    async def _probe(self) -> None:
        try:
            found = await missing_rights(self._link, self._user, self.probes)
        except BusOfflineError as error:
            log.debug("the rights were not looked at: %s", error)
            return
        self._refused = found
        if self.missing:
            self._retry()

    def _in_words(self, found: Iterable[MissingRightError]) -> list[str]:
        """What is only likely is called so once it has lasted: a cluster of brokers may elect a leader."""
        now, before, self._since = self._clock.monotonic(), self._since, {}
        words = []
        for error in found:
            since = self._since[error.topic] = before.get(error.topic, now)
            doubtful = not error.certain and now - since < AGAIN_S
            words.append(str(error.after(1) if doubtful else error))
        return words

    def _tell(self, found: list[str]) -> None:
        before, self.missing = self.missing, found
        if found == before:
            return
        for text in found:
            log.error("%s", text)
        if not found:
            log.warning("the broker now gives this manager all its rights")
