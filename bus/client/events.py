"""Lifecycle events as they happen, in order, with what was missed fetched from the manager."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from ..clock import Clock, wait_or_sleep
from ..connection.link import Message
from ..decode import read
from ..errors import BusError, BusOfflineError, CallTimeoutError, MissingRightError
from ..events import EVENTS, event_type
from ..messages import Event
from ..topics import Topics
from .errors import EventsLostError
from .subscriptions import Subscriptions, Watch

log = logging.getLogger("busbar.client")

QUEUE: Final = 10_000
"""Live events that were not read yet; what does not fit is fetched from the manager later."""
PAGE: Final = 1000
"""Events of one answer; the contract's limit."""
RETRY_S: Final = 1.0
"""Pause after events could not be fetched, besides the time that the call took."""
CHECK_S: Final = 10.0
"""While no event has come, how often the manager is asked whether there was one."""
REMEMBERED: Final = 1000
"""Clusters of one name that came and went while they were watched."""
RESTORED: Final = event_type("manager", "restored")
"""The store was restored from a backup: its sequence goes on elsewhere, which is no loss of events."""

Fetch = Callable[[int, int], Awaitable[list[Event]]]
"""Stored events after a sequence, at most so many."""
Present = Callable[[], Awaitable[int]]
"""The sequence of the last event."""
FindCluster = Callable[[str], Awaitable[str | None]]
"""A cluster's oid by its name; None when there is none."""


def cluster_of(event: Event) -> str | None:
    """The cluster an event belongs to: from its data, else from its subject `routercluster/edge`."""
    if event.data.get("cluster"):
        return str(event.data["cluster"])
    kind, _, name = event.subject.partition("/")
    return name if kind == "routercluster" else None


class EventFilter:
    """Which events are wanted.

    Raises:
        ValueError: the contract has no such type.
    """

    def __init__(self, types: Collection[str] | None, subject: str | None, cluster: str | None) -> None:
        known = {event_type(kind, verb) for kind, verbs in EVENTS.items() for verb in verbs}
        wanted = None if types is None else {_full_type(name) for name in types}
        if unknown := sorted((wanted or set()) - known):
            raise ValueError(f"there is no event type {', '.join(unknown)}: see docs/reference/events.md")
        self._types, self._subject, self._cluster = wanted, subject, cluster
        self._cluster_oids: set[object] = set()

    async def prepare(self, find: FindCluster) -> None:
        """Look the cluster's oid up: events of its groups do not name it."""
        if self._cluster is not None:
            self._cluster_oids.add(await find(self._cluster))

    def wants(self, event: Event) -> bool:
        """Whether this one is wanted."""
        if self._cluster is not None and not self._is_of_cluster(event):
            return False
        if self._types is not None and event.type not in self._types:
            return False
        return self._subject is None or self._subject in (event.subject, event.data.get("oid"))

    def _is_of_cluster(self, event: Event) -> bool:
        if event.subject == f"routercluster/{self._cluster}" and len(self._cluster_oids) < REMEMBERED:
            self._cluster_oids.add(event.data.get("oid"))
        by_oid = event.data.get("cluster_oid")
        return cluster_of(event) == self._cluster or (by_oid is not None and by_oid in self._cluster_oids)


def _full_type(name: str) -> str:
    return name if name.startswith("busbar.") else f"busbar.on_{name}"


class EventWatch(Watch[Event]):
    """Events in the order of their sequence, each once.

    Gaps (a slow reader, a lost connection) are filled from the manager's store. What is no longer there ends
    the iteration with EventsLostError, once; iterating again goes on behind the gap.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        topics: Topics,
        wanted: EventFilter,
        since: int | None,
        fetch: Fetch,
        present: Present,
        find: FindCluster,
        clock: Clock,
        user: str | None = None,
    ) -> None:
        self._user, self._pattern = user, topics.all_events()
        self._came = False
        self._told = False
        self._ahead = 0  # the sequence at the last look, while no event has come
        self._wanted, self._fetch, self._present, self._find = wanted, fetch, present, find
        self._clock = clock
        self._last = since
        """The last sequence that was told or passed over; None until the first step of the iteration."""
        self._begun = False
        self._live: deque[Event] = deque()
        self._stored: deque[Event] = deque()
        self._behind = since is not None
        super().__init__(subscriptions, self._pattern, 1)

    def note(self, message: Message) -> None:
        """Keep an event until it is read; when too many wait, the rest is fetched later."""
        try:
            event = read(message.payload, Event)
            int(event.sequence)
        except (BusError, ValueError) as error:
            log.warning("an event on %s was not understood: %s", message.topic, error)
            return
        self._came = True
        if len(self._live) >= QUEUE:
            self._behind = True
        else:
            self._live.append(event)
        self._news.set()

    def reconnected(self) -> None:
        """Events of the meantime are fetched."""
        self._behind = self._last is not None
        self._news.set()

    def take(self) -> Event | None:
        """The next event that is in sequence."""
        while self._last is not None and (self._stored or self._live):
            ahead = self._stored or self._live
            sequence = int(ahead[0].sequence)
            if ahead[0].type == RESTORED:
                self._last = sequence - 1
            if sequence > self._last + 1 and not self._stored:
                return None
            event = ahead.popleft()
            if sequence <= self._last:
                continue
            self._last = sequence
            if self._wanted.wants(event):
                return event
        return None

    async def __anext__(self) -> Event:
        await self._begin()
        while True:
            event = self.take()
            if event is not None:
                return event
            if self._closed:
                raise StopAsyncIteration
            if self._live or self._behind:
                await self._fill_patiently()
                continue
            self._news.clear()
            if self._came:
                await self._news.wait()
            else:
                await self._look()

    async def _look(self) -> None:
        """Wait, and find out whether there are events that do not come: brokers do not tell who may not read.

        Those are then fetched.
        """
        await wait_or_sleep(self._clock, self._news, CHECK_S)
        last = self._last or 0
        if self._live or self._behind or self._closed:
            return
        try:
            present = await self._present()
        except (CallTimeoutError, BusOfflineError, BusError) as error:
            log.debug("whether there are events is not known: %s", error)
            return
        missed, self._ahead = last < self._ahead <= present, present
        if missed and not self._came:
            self._behind = True
            if not self._told:
                self._told = True
                missing = MissingRightError(self._user, "read", self._pattern, certain=False)
                log.warning("no event comes, they are fetched every %g s: %s", CHECK_S, missing)

    async def _begin(self) -> None:
        """Where to begin: whoever can't be reached now is told so, not waited for."""
        if self._begun:
            return
        await self._wanted.prepare(self._find)
        if self._last is None:
            present = await self._present()
            self._last = min(present, int(self._live[0].sequence) - 1) if self._live else present
        elif self._behind:
            await self._fill()
        self._begun = True

    async def _fill_patiently(self) -> None:
        try:
            await self._fill()
        except (CallTimeoutError, BusOfflineError, BusError) as error:
            if isinstance(error, BusError) and not error.row.retryable:
                raise
            log.warning("missed events can't be fetched yet: %s", error)
            await self._clock.sleep(RETRY_S)

    async def _fill(self) -> None:
        """Fetch what comes after the last event; up to the next live one, where there is one.

        Raises:
            EventsLostError: the manager does not have it any more.
        """
        last = self._last or 0
        before = int(self._live[0].sequence) if self._live else None
        missing = PAGE if before is None else min(PAGE, before - last - 1)
        if missing > 0:
            page = await self._fetch(last, missing)
            self._stored.extend(event for event in page if before is None or int(event.sequence) < before)
            if before is None:
                self._behind = len(page) == PAGE
        first = int(self._stored[0].sequence) if self._stored else before
        if first is not None and first > last + 1:
            self._last = first - 1
            restored = bool(self._stored) and self._stored[0].type == RESTORED
            if last > 0 and not restored:
                raise EventsLostError(last, first)
