"""--watch: a command that lists or shows is run again whenever the bus says that something has changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from ..context import global_options, settings_in_force
from ..errors import sentence
from ..printing import output
from ..printing.formats import OBJECTS

if TYPE_CHECKING:
    from busbar.bus.client.client import BusClient
    from busbar.bus.client.subscriptions import Watch

SETTLE_S: Final = 0.3
"""What changes together within this time is shown once."""
AGAIN_S: Final = 5.0
"""Seconds after which what could not be read is tried again."""


class _Screen(StringIO):
    """Takes what is printed, and looks like the real output."""

    def __init__(self, real: TextIO) -> None:
        super().__init__()
        self._real = real

    @property
    def encoding(self) -> str:  # type: ignore[override]  # that of StringIO is None
        return self._real.encoding

    def isatty(self) -> bool:
        return self._real.isatty()


class Shown(NamedTuple):
    """What an action has printed, to stdout and to stderr."""

    text: str
    notes: str


def repeat(action: Callable[[], Any]) -> None:
    """Run the action now and after every change, and print what differs, until interrupted."""
    from busbar.bus.errors import BusOfflineError, CallTimeoutError

    with _changes() as wait:
        before: Shown | None = None
        failed = False
        while True:
            screen, notes = _Screen(sys.stdout), _Screen(sys.stderr)
            try:
                with redirect_stdout(screen), redirect_stderr(notes):
                    action()
            except (BusOfflineError, CallTimeoutError) as error:
                if before is None:
                    raise
                output.note(sentence(error), flush=True)
                failed = True
            else:
                shown = Shown(screen.getvalue(), notes.getvalue())
                _show(shown, before)
                before, failed = shown, False
            wait(AGAIN_S if failed else None)


def _show(shown: Shown, before: Shown | None) -> None:
    if shown == before:
        return
    output.clear()
    parts = before is not None and output.output_format() not in OBJECTS and not sys.stdout.isatty()
    output.again("\n" + shown.text if parts and shown.text else shown.text)
    output.again(shown.notes, sys.stderr)


@contextmanager
def _changes() -> Iterator[Callable[[float | None], None]]:
    """What waits for the next change of a status or the next event, or so many seconds."""
    from busbar.bus.client.blocking import LoopThread

    from .connect import call_timeout, connected

    thread, stack = LoopThread(), AsyncExitStack()

    async def begin() -> Changes:
        settings = settings_in_force(global_options(), os.environ)
        return Changes(await stack.enter_async_context(connected(settings, call_timeout())))

    changes: Changes | None = None
    try:
        changes = begun = thread.run(begin())
        yield lambda seconds: thread.run(begun.next(seconds))
    finally:
        if changes is not None:
            thread.run(changes.end())
        thread.run(stack.aclose())
        thread.stop()


class Changes:
    """Whether a status has changed, or an event has come, since somebody last asked."""

    def __init__(self, bus: BusClient) -> None:
        self._bus, self._changed = bus, asyncio.Event()
        self._watches: list[Watch[Any]] = [bus.watch_statuses(), bus.watch_events()]
        self._tasks = [asyncio.create_task(self._heed(watch), name="watch") for watch in self._watches]

    async def _heed(self, watch: Watch[Any]) -> None:
        from busbar.bus.client.errors import EventsLostError

        while True:
            with contextlib.suppress(EventsLostError):
                await anext(watch)
            self._changed.set()

    async def next(self, seconds: float | None) -> None:
        """Wait for a change, at most so long, and for what comes with it."""
        waiting = asyncio.ensure_future(self._changed.wait())
        done, _ = await asyncio.wait(
            [waiting, *self._tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        for task in done - {waiting}:
            task.result()
        await self._bus.clock.sleep(SETTLE_S)
        self._changed.clear()

    async def end(self) -> None:
        """End the subscriptions."""
        for watch in self._watches:
            watch.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
