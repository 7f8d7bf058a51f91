"""Retained statuses as they change, and waiting for one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import UNSET, Struct

from ..connection.link import Link, Message
from ..decode import MAX_REPORT, read
from ..errors import BusError, MissingRightError
from ..messages import Status
from ..topics import Topics
from .errors import GoalLostError, WaitTimeoutError
from .goals import Goal, reasons
from .subscriptions import Subscriptions, Watch

log = logging.getLogger("busbar.client")

HISTORY: Final = 16
"""Statuses of one object that are kept for a slow reader, the latest ones."""
OBJECTS: Final = 100_000
"""Objects with statuses that were not read yet; beyond it the one that waits longest is dropped."""

Progress = Callable[[Status], None]


class StatusUpdate(Struct, frozen=True):
    """A status of an object, or its deletion (`status` is None). `cluster` is None for a node."""

    kind: str
    cluster: str | None
    name: str
    status: Status | None

    @property
    def deleted(self) -> bool:
        """Whether the object is gone."""
        return self.status is None


class StatusWatch(Watch[StatusUpdate]):
    """The present status of each object, then every change. A status that is no news is not told twice.

    A reader that falls behind misses what is out of date: only the last statuses of an object are kept.
    `dropped` counts objects whose news were dropped because too many waited. A deletion while the connection
    is down is not told: retained messages can't tell it.
    """

    def __init__(
        self, subscriptions: Subscriptions, link: Link, topics: Topics, pattern: str, qos: int, user: str
    ) -> None:
        self._link, self._topics = link, topics
        self._missing = MissingRightError(user, "read", pattern, certain=False)
        self._waiting: dict[str, deque[StatusUpdate]] = {}
        self._seen: dict[str, int] = {}
        self.dropped = 0
        super().__init__(subscriptions, pattern, qos)

    def note(self, message: Message) -> None:
        """Keep a status until it is read."""
        topic = self._topics.parse_status(message.topic)
        if topic is None or self._seen.get(message.topic) == hash(message.payload):
            return
        try:
            status = read(message.payload, Status, MAX_REPORT) if message.payload else None
        except BusError as error:
            log.warning("a status on %s was not understood: %s", message.topic, error)
            return
        if status is None:
            self._seen.pop(message.topic, None)
        else:
            self._seen[message.topic] = hash(message.payload)
        cluster = None if topic.kind == "node" else topic.cluster
        if message.topic not in self._waiting and len(self._waiting) >= OBJECTS:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1
        waiting = self._waiting.setdefault(message.topic, deque(maxlen=HISTORY))
        waiting.append(StatusUpdate(topic.kind, cluster, topic.name, status))
        self._news.set()

    def take(self) -> StatusUpdate | None:
        """The oldest status of the object that waits longest."""
        if not self._waiting:
            return None
        topic = next(iter(self._waiting))
        waiting = self._waiting[topic]
        found = waiting.popleft()
        if not waiting:
            del self._waiting[topic]
        return found

    async def until(
        self,
        goal: Goal,
        subject: str,
        timeout: float,
        *,
        name: str | None = None,
        oid: str | None = None,
        progress: Progress | None = None,
    ) -> Status | None:
        """Read statuses until the goal is reached; return the status that did (None: the object is gone).

        Args:
            subject: the object, for people: it begins the error's text.
            timeout: seconds.
            name: heed the object of this name alone.
            oid: heed this object alone. Another of its name counts once this one was seen: as its deletion.
            progress: called with each status that is not older than the change.

        Raises:
            WaitTimeoutError: it was not reached in time.
            GoalLostError: it can no longer be reached.
        """
        last: Status | None = None
        seen = False
        try:
            async with asyncio.timeout(timeout):
                async for update in self:
                    if name is not None and update.name != name:
                        continue
                    status = update.status
                    other = status is not None and oid is not None and status.oid not in (oid, UNSET)
                    if other and not seen:
                        continue
                    seen = seen or status is not None
                    last = status = None if other else status
                    if progress is not None and status is not None and status.version >= goal.version:
                        progress(status)
                    if goal.reached(status):
                        return status
                    if why := goal.failed(status):
                        raise GoalLostError(subject, goal.words, why, status)
        except TimeoutError:
            pass
        why = reasons(last)
        if self._closed:
            raise GoalLostError(subject, goal.words, f"the client was closed; {why}", last)
        if not self._link.connected:
            why += "; the connection to the broker is lost"
        elif not seen and not self._seen:
            why += f"; {self._missing}"
        text = f"{subject} is not {goal.words} after {max(timeout, 0.1):.3g} s: {why}"
        raise WaitTimeoutError(subject, goal.words, why, last, text)
