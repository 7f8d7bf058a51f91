"""--wait: follows an object's retained status until it is as wanted, or says why it is not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol

from busbar.bus.connection.link import Message
from busbar.bus.decode import MAX_REPORT, parse
from busbar.bus.errors import BusError

from .connect import Session
from .errors import CliError, ExitCode

Status = Mapping[str, Any]
SHOWN: Final = 5
"""Conditions told when a wait ends in vain."""
QUEUE: Final = 1000
"""Statuses not looked at yet; when it is full the oldest goes, since only the latest counts."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is waited for. Both questions are asked of each status; None stands for a deleted object.

    `version` is the object's after the accepted change: statuses before it are old news.
    """

    words: str
    version: int
    reached: Callable[[Status | None], bool]
    spoiled: Callable[[Status | None], str | None] = lambda _: None


def started(version: int) -> Goal:
    """The cluster runs; `version` is that of the accepted start."""
    return Goal(
        "RUNNING",
        version,
        lambda s: s is not None and s["status"] == "RUNNING" and s["version"] >= version,
        lambda s: _lost(s, version, "STOPPED", "STOPPING"),
    )


def stopped(version: int) -> Goal:
    """The cluster is stopped; `version` is that of the accepted stop."""
    return Goal(
        "STOPPED",
        version,
        lambda s: s is not None and s["status"] == "STOPPED" and s["version"] >= version,
        lambda s: _lost(s, version, "STARTING"),
    )


def scaled(version: int, scale: int) -> Goal:
    """Every worker that the group asks for is ready, or the group is stopped anyway."""

    def reached(s: Status | None) -> bool:
        if s is None or s["version"] < version or s.get("scale") != scale:
            return False
        return s["status"] == "STOPPED" or (s["status"] == "RUNNING" and s.get("ready") == scale)

    return Goal(f"RUNNING with {scale}", version, reached, lambda s: _lost(s, version))


def updated(version: int, revision: int) -> Goal:
    """Every worker of the group is ready with that revision, or the group is stopped anyway."""

    def reached(s: Status | None) -> bool:
        if s is None or s["version"] < version or s.get("revision") != revision:
            return False
        return s["status"] == "STOPPED" or (s["status"] == "RUNNING" and "updated" not in s)

    def spoiled(s: Status | None) -> str | None:
        if s is not None and s.get("revision", 0) > revision:
            return f"revision {s['revision']} was asked for meanwhile"
        return _lost(s, version)

    return Goal(f"RUNNING with revision {revision}", version, reached, spoiled)


def drained(version: int) -> Goal:
    """Nothing is left on the node."""
    return Goal(
        "drained",
        version,
        lambda s: s is not None and s["version"] >= version and bool(s.get("drained")),
        lambda s: _undrained(s, version),
    )


def _undrained(status: Status | None, version: int) -> str | None:
    if status is None:
        return "it was unpaired meanwhile"
    if status["version"] > version and "draining" not in status:
        return "somebody else has let it take workers again"
    return None


def deleted() -> Goal:
    """The object's status is taken away."""
    return Goal("gone", 0, lambda s: s is None)


def _lost(status: Status | None, version: int, *instead: str) -> str | None:
    if status is None:
        return "it was deleted meanwhile"
    if status["version"] > version and status["status"] in instead:
        return f"it is {status['status']} again, by somebody else's order"
    return None


def describe(status: Status | None) -> str:
    """A status in a few words."""
    if status is None:
        return "no status was published yet"
    if "draining" in status:
        return f"{status['status']}, {'drained' if status.get('drained') else 'draining'}"
    if status.get("scale") is None:
        return str(status["status"])
    text = f"{status['status']}, {status.get('ready', 0)} of {status['scale']} ready"
    return f"{text}, {status['updated']} updated" if "updated" in status else text


def reasons(status: Status | None) -> str:
    """A status with its conditions: the first few, and how many more."""
    conditions = list((status or {}).get("conditions", []))
    more = [f"and {len(conditions) - SHOWN} more"] if len(conditions) > SHOWN else []
    return "; ".join([describe(status), *conditions[:SHOWN], *more])


class Display(Protocol):
    """Shows how far it is."""

    def update(self, status: Status) -> None: ...

    def end(self) -> None: ...


class Lines:
    """A line on stderr for each change: for logs and pipes."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = ""

    def update(self, status: Status) -> None:
        """Print the status unless it reads as before; why it is so comes at the end, if it is not reached."""
        text = describe(status)
        if text != self._last:
            print(f"{self._title}: {text}", file=sys.stderr, flush=True)
        self._last = text

    def end(self) -> None:
        """Nothing to clean up."""


class Bar:
    """A progress bar on a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[words]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(title, total=None, words="")
        self._progress.start()

    def update(self, status: Status) -> None:
        """Move the bar."""
        total, ready = status.get("scale"), status.get("ready", 0)
        self._progress.update(self._task, total=total or None, completed=ready, words=describe(status))

    def end(self) -> None:
        """Take it off the screen."""
        self._progress.stop()


class Follow:
    """`async with Follow(session, topic)` before the change is asked for, then `await follow.until(goal)`."""

    def __init__(self, session: Session, topic: str) -> None:
        self._session, self._topic = session, topic
        self._queue: asyncio.Queue[Status | None] = asyncio.Queue(QUEUE)
        self.last: Status | None = None

    async def __aenter__(self) -> Follow:
        self._session.link.subscribe(self._topic, self._note)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.link.unsubscribe(self._topic)

    def _note(self, message: Message) -> None:
        try:
            status = parse(message.payload, MAX_REPORT) if message.payload else None
        except BusError:
            return
        if status is not None and not {"version", "status"} <= status.keys():
            return
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(status)

    async def until(self, goal: Goal, title: str, timeout: float) -> Status | None:
        """Wait until the goal is reached and return the status that did.

        Raises:
            CliError: after `timeout` seconds, with the present status and its conditions; or when it can no
                longer be reached.
        """
        display: Display = Bar(title) if sys.stderr.isatty() else Lines(title)
        try:
            async with asyncio.timeout(timeout):
                return await self._watch(goal, title, display)
        except TimeoutError:
            text = f"{title} is not {goal.words} after {timeout:g} s: {reasons(self.last)}"
            raise CliError(text, ExitCode.TIMEOUT, "timeout") from None
        finally:
            display.end()

    async def _watch(self, goal: Goal, title: str, display: Display) -> Status | None:
        while True:
            self.last = status = await self._queue.get()
            if status is not None and status["version"] >= goal.version:
                display.update(status)
            if goal.reached(status):
                return status
            spoiled = goal.spoiled(status)
            if spoiled:
                raise CliError(f"{title} is not {goal.words}: {spoiled}", ExitCode.CONFLICT, "superseded")
