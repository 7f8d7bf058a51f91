"""Whether the broker gives this manager its rights: looked at after every connect, and told by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from busbar.bus.clock import Clock, wait_or_sleep
from busbar.bus.connection.link import Link
from busbar.bus.connection.rights import missing_rights
from busbar.bus.errors import BusOfflineError
from busbar.bus.topics import PROBE, Topics

log = logging.getLogger("busbar.manager")

AGAIN_S: Final = 60.0
"""While one is missing, seconds until they are looked at again."""


class Rights:
    """`missing`: the rights that the last look has not found, in words."""

    def __init__(
        self, link: Link, topics: Topics, user: str | None, clock: Clock, retry: Callable[[], None]
    ) -> None:
        self.missing: list[str] = []
        self._link, self._user, self._clock, self._retry = link, user, clock, retry
        own = user or PROBE
        # Topics of nobody else, or of nothing that exists: whoever reads them ignores what is empty. A probe
        # of the events, or of the nodes' states, would be seen by everybody who reads those.
        self.probes = {
            topics.request(own, PROBE): topics.all_requests(),
            topics.response(own, PROBE): topics.response("+", "+"),
            topics.status(PROBE, PROBE, PROBE): topics.all_status(),
            topics.node(PROBE, "assignment"): topics.all_nodes("assignment"),
            topics.node(own, "heartbeat"): topics.all_nodes("heartbeat"),
            topics.node(own, "reported"): topics.all_nodes("reported"),
        }
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look soon: there is a new connection."""
        self._wake.set()

    async def run(self) -> None:
        """Look after every connect, and again while a right is missing. Lasts until cancelled."""
        while True:
            if self.missing:
                await wait_or_sleep(self._clock, self._wake, AGAIN_S)
            else:
                await self._wake.wait()
            self._wake.clear()
            try:
                await self._look()
            except BusOfflineError as error:
                log.debug("the rights were not looked at: %s", error)

    async def _look(self) -> None:
        found = [str(error) for error in await missing_rights(self._link, self._user, self.probes)]
        before, self.missing = self.missing, found
        if before:
            self._retry()
        if found != before:
            for text in found:
                log.error("%s", text)
            if not found:
                log.warning("the broker now gives this manager all its rights")
