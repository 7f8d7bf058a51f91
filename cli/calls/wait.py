"""--wait: waits for a status and shows the progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from busbar.bus.client.errors import WaitTimeoutError
from busbar.bus.client.goals import Goal, describe
from busbar.bus.client.statuses import Progress, StatusWatch
from busbar.bus.messages import Status
from busbar.bus.printable import printable
from msgspec import UNSET

from ..printing import output


class Display(Protocol):
    """Shows the progress."""

    def update(self, status: Status) -> None: ...

    def end(self) -> None: ...


class Lines:
    """A line on stderr for each change: for logs and pipes."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = ""

    def update(self, status: Status) -> None:
        """Print the status unless the line would repeat; reasons are printed only if the wait fails."""
        text = describe(status)
        if text != self._last:
            output.note(f"{self._title}: {text}", flush=True)
        self._last = text

    def end(self) -> None:
        """Nothing to clean up."""


class Bar:
    """A progress bar on a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        words = TextColumn("{task.fields[words]}", markup=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(30), words)
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(printable(title), total=None, words="")
        self._progress.start()

    def update(self, status: Status) -> None:
        """Move the bar."""
        total = None if status.scale is UNSET else status.scale
        ready = 0 if status.ready is UNSET else status.ready
        self._progress.update(
            self._task, total=total or None, completed=ready, words=printable(describe(status))
        )

    def end(self) -> None:
        """Remove the bar."""
        self._progress.stop()


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """Show each status on stderr until the block ends."""
    display: Display = Bar(title) if output.has_colours(sys.stderr) else Lines(title)
    try:
        yield display.update
    finally:
        display.end()


@contextmanager
def way_back(cluster: str) -> Iterator[None]:
    """Where an update does not come to its end in time, say how to take it back."""
    try:
        yield
    except WaitTimeoutError:
        history = f"'busbar history cluster {cluster}' lists what it was"
        output.note(f"it goes on; to take it back: {history}, 'busbar rollback cluster {cluster} --to N'")
        raise


async def until(
    watch: StatusWatch, goal: Goal, title: str, timeout: float, *, oid: str, name: str | None = None
) -> Status | None:
    """Wait for the goal of this object, showing the progress; the status that reached it, None for a deleted
    object.

    Raises:
        WaitTimeoutError, GoalLostError: as `StatusWatch.until`.
    """
    with shown(title) as progress:
        return await watch.until(goal, title, timeout, name=name, oid=oid, progress=progress)
