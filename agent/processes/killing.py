"""Stops the processes of a worker: SIGTERM to its process group, SIGKILL for whatever survives.

Its cgroup, where it has one, is killed as a whole. Any other signal goes through a pidfd that was opened
before the identity check, so it never hits a reused pid.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

from busbar.bus.clock import Clock
from msgspec import Struct

from . import cgroups, procfs
from .exits import pidfd, wait_for_exits
from .procfs import ProcessRecord, Stat

KILL_PASSES: Final = 25
KILL_WAIT_S: Final = 0.2
KILL_BURST: Final = 20
"""Bounds of SIGKILL: 25 passes of at most 0.2 s, so 5 s (no orphan is left 10 s after a stop)."""
KILL_LOOKS: Final = 3
"""Passes that find nobody before nobody is taken to be left, where processes come and go in every scan."""


class StopResult(Struct, frozen=True):
    """Processes that got the stop signal, processes that got SIGKILL, and pids that survived both."""

    signalled: int = 0
    killed: int = 0
    survivors: tuple[int, ...] = ()

    @property
    def gone(self) -> bool:
        """No process is left."""
        return not self.survivors


async def stop(record: ProcessRecord, signum: int, grace_s: float, clock: Clock) -> StopResult:
    """Signal the process group, wait `grace_s` seconds, kill the rest; at most `grace_s` + 5 s.

    Raises:
        OSError: /proc can't be read.
    """
    seen: dict[int, Stat] = {}
    group = [stat for stat in await _members(record, seen) if stat.pgid == record.pid]
    signalled = sum(_send(stat, signum) for stat in group)
    if signalled:
        # A suspended process could not handle the signal within its grace period.
        for stat in group:
            if stat.state in "Tt":
                _send(stat, signal.SIGCONT)
        await wait_for_exits(group, grace_s, clock)
    return await kill(record, clock, seen, signalled)


async def kill(
    record: ProcessRecord, clock: Clock, seen: dict[int, Stat] | None = None, signalled: int = 0
) -> StopResult:
    """Kill every process of a worker, `seen` ones included. Bounded, see `KILL_PASSES`.

    Raises:
        OSError: /proc can't be read.
    """
    seen = {} if seen is None else seen
    killed, folders, looks = set[int](), set[Path](), 0
    for _ in range(KILL_PASSES):
        left, settled = await asyncio.to_thread(_kill_pass, record, seen, killed, folders)
        looks = 0 if left else looks + 1
        if not left and (settled or looks == KILL_LOOKS):
            return StopResult(signalled, len(killed))
        await wait_for_exits(left, KILL_WAIT_S, clock)
    left = await _members(record, seen)
    return StopResult(signalled, len(killed), tuple(stat.pid for stat in left))


async def _members(record: ProcessRecord, seen: dict[int, Stat]) -> list[Stat]:
    return await asyncio.to_thread(lambda: list(procfs.members(record, seen)))


def _kill_pass(
    record: ProcessRecord, seen: dict[int, Stat], killed: set[int], folders: set[Path]
) -> tuple[list[Stat], bool]:
    """Kill the worker's cgroup (added to `folders`), then what else is there; returns as `_kill_burst`."""
    folders |= cgroups.folders(record.token, list(seen)) if record.token else set()
    for folder in folders:
        killed |= cgroups.pids_in(folder)
        cgroups.kill(folder)
    left, settled = _kill_burst(record, seen, killed)
    if not left and settled:
        for folder in folders:
            cgroups.remove(folder)
    return left, settled


def _kill_burst(record: ProcessRecord, seen: dict[int, Stat], killed: set[int]) -> tuple[list[Stat], bool]:
    """Suspend all until two complete scans find no new one, then kill them: what is suspended can't fork on.

    Returns what the last scan still saw, and whether the scans were complete: in one that is not, a process
    had exited before it was read, and may have left a child that came too late to be listed.
    """
    left: dict[int, Stat] = {}
    zombies = set[procfs.Unread]()
    idle_scans = 0
    for _ in range(KILL_BURST):
        unread, before = list[procfs.Unread](), len(left)
        for stat in procfs.members(record, seen, unread):
            known = left.get(stat.pid)
            if known is None or known.start_ticks != stat.start_ticks:
                left[stat.pid] = stat
                _send(stat, signal.SIGSTOP)
        # A zombie of an earlier scan has no new child.
        idle_scans = idle_scans + 1 if len(left) == before and zombies.issuperset(unread) else 0
        zombies.update(each for each in unread if each[1] is not None)
        if idle_scans == 2:
            break
    for stat in left.values():
        if _send(stat, signal.SIGKILL):
            killed.add(stat.pid)
    return [stat for stat in left.values() if _lives(stat)], idle_scans == 2


def _lives(target: Stat) -> bool:
    now = procfs.read(target.pid)
    return now is not None and not now.dead and now.start_ticks == target.start_ticks


def signal_first(record: ProcessRecord, signum: int) -> bool:
    """Send a signal to exactly the process of a record; False where it is gone or can't be looked at."""
    try:
        stat = procfs.read(record.pid) if procfs.is_alive(record) else None
    except OSError:
        return False
    return stat is not None and stat.start_ticks == record.start_ticks and _send(stat, signum)


def _send(target: Stat, signum: int) -> bool:
    """Signal exactly this process; False when it is gone or may not be signalled.

    Raises:
        OSError: /proc can't be read, so the identity of the pid is unknown.
    """
    fd = pidfd(target.pid)
    try:
        now = procfs.read(target.pid)
        if now is None or now.dead or now.start_ticks != target.start_ticks:
            return False
        if fd is not None:
            signal.pidfd_send_signal(fd, signum)
        else:
            os.kill(target.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if fd is not None:
            os.close(fd)
    return True
