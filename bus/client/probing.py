"""What a user can try of a broker without disturbing anybody: what it retains, and what it lets one read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from ..connection.link import Link, Message
from ..decode import read
from ..errors import BusError, MissingRightError
from ..messages import ManagerState
from ..topics import PROBE, Topics
from .subscriptions import Subscriptions


class BrokerProbe:
    """Each try is bounded by the seconds that it is given."""

    def __init__(self, link: Link, subscriptions: Subscriptions, topics: Topics, username: str) -> None:
        self._link, self._subscriptions = link, subscriptions
        self._topics, self._username = topics, username

    @property
    def max_packet(self) -> int:
        """Bytes of the largest packet that the broker takes, as far as it says."""
        return self._link.max_packet

    async def manager_states(self, seconds: float) -> dict[str, str]:
        """The retained states of managers, by name; ends early with the first one that is online."""
        found: dict[str, str] = {}

        def note(message: Message) -> bool:
            with contextlib.suppress(BusError):
                state = read(message.payload, ManagerState).state
                found[self._topics.parse_manager(message.topic) or PROBE] = state
            return message.retain and "online" in found.values()

        await self._collect(self._topics.all_managers(), note, seconds)
        return found

    async def has_assignment(self, node: str, seconds: float) -> bool:
        """Whether there is a retained assignment for a node, which a node may see of itself."""
        found: list[str] = []

        def note(message: Message) -> bool:
            if message.payload:
                found.append(message.topic)
            return bool(found)

        await self._collect(self._topics.node(node, "assignment"), note, seconds)
        return bool(found)

    async def retained_statuses(self, wanted: int, seconds: float) -> int:
        """How many of `wanted` retained statuses come, of clusters, nodes and workers."""
        seen: set[str] = set()

        def note(message: Message) -> bool:
            parsed = self._topics.parse_status(message.topic)
            if message.retain and message.payload and parsed and parsed.kind != "workergroup":
                seen.add(message.topic)
            return len(seen) >= wanted

        if wanted:
            await self._collect(self._topics.all_status(), note, seconds)
        return len(seen)

    async def overhears(self, ask: Callable[[], Awaitable[object]], seconds: float) -> bool:
        """Whether this user may read requests, which are for managers alone; `ask` sends some."""
        heard = asyncio.Event()
        try:
            cancel = self._subscriptions.add(
                self._topics.request(self._username, "+"), lambda message: heard.set()
            )
        except MissingRightError:
            return False
        try:
            await ask()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await heard.wait()
        finally:
            cancel()
        return heard.is_set()

    async def _collect(self, pattern: str, note: Callable[[Message], bool], seconds: float) -> None:
        """Subscribe, and listen until `note` has all that it wants, or the time is over."""
        complete = asyncio.Event()

        def handle(message: Message) -> None:
            if note(message):
                complete.set()

        cancel = self._subscriptions.add(pattern, handle)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await complete.wait()
        finally:
            cancel()
