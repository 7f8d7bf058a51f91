"""Notices that a process has exited: by pidfd, or by polling where the kernel has none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Collection, Iterable
from typing import Final, TypeVar

from busbar.bus.clock import Clock, wait_or_sleep
from msgspec import Struct

from . import procfs
from .procfs import Stat

POLL_S: Final = 0.2
"""Polling interval without pidfd, seconds."""
T = TypeVar("T")


class Exit(Struct, frozen=True):
    """How a process exited. `code`: None if an earlier agent had started it; negative: minus the signal."""

    code: int | None

    @property
    def reason(self) -> str:
        """The exit status as text."""
        if self.code is None:
            return "ended, exit code unknown"
        if self.code >= 0:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-self.code).name}"
        return f"killed by signal {-self.code}"


class ExitWatcher:
    """`exited` is done once the process has exited."""

    def __init__(self, pid: int, start_ticks: int, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid, self._start_ticks, self._clock = pid, start_ticks, clock
        self._polling: asyncio.Task[None] | None = None
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self._fd = pidfd(pid)
        # Opened before the check: the descriptor can't refer to a later process of the same pid.
        if _has_exited(pid, start_ticks):
            self._finish()
        elif self._fd is None:
            self._polling = self._loop.create_task(self._poll(), name=f"exit of {pid}")
        else:
            self._loop.add_reader(self._fd, self._finish)

    async def _poll(self) -> None:
        while not _has_exited(self._pid, self._start_ticks):
            await self._clock.sleep(POLL_S)
        self._finish()

    def _finish(self) -> None:
        self.close()
        if not self.exited.done():
            self.exited.set_result(None)

    def close(self) -> None:
        """Stop watching; the process is not touched."""
        if self._polling is not None:
            self._polling.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None


async def wait_for_exits(processes: Iterable[Stat], timeout_s: float, clock: Clock) -> None:
    """Wait until all of them have exited, at most `timeout_s` seconds."""
    watchers = [ExitWatcher(stat.pid, stat.start_ticks, clock) for stat in processes]
    try:
        await wait_for_futures([each.exited for each in watchers], timeout_s, clock)
    finally:
        for watcher in watchers:
            watcher.close()


async def wait_for_futures(futures: Collection[asyncio.Future[T]], timeout_s: float, clock: Clock) -> None:
    """Wait until all are done, at most `timeout_s` seconds; none is cancelled."""
    pending = {future for future in futures if not future.done()}
    all_done = asyncio.Event()

    def on_done(future: asyncio.Future[T]) -> None:
        pending.discard(future)
        if not pending:
            all_done.set()

    for future in list(pending):
        future.add_done_callback(on_done)
    if pending:
        await wait_or_sleep(clock, all_done, timeout_s)


def pidfd(pid: int) -> int | None:
    """A pidfd, to be closed by the caller; None where there is none for this pid."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _has_exited(pid: int, start_ticks: int) -> bool:
    try:
        stat = procfs.read(pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False  # unknown: assume that it lives
        raise
    return stat is None or stat.dead or stat.start_ticks != start_ticks
