"""Stopping what forks faster than /proc can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from busbar.agent.processes import killing, procfs
from busbar.agent.processes.procfs import ProcessRecord, Stat, Unread
from busbar.bus.clock import SystemClock

RECORD = ProcessRecord("web-1", 0, "another boot", 0, "")
Scan = tuple[list[Stat], list[Unread]]
"""What one scan shows: living members, and those that had exited before they were read."""


def living(pid: int) -> Stat:
    found = procfs.read(pid)
    assert found is not None
    return found


def scans(monkeypatch: pytest.MonkeyPatch, *shown: Scan, then: Scan) -> list[int]:
    """Let /proc show this, scan by scan, and then `then`; returns the number of each scan that was made."""
    made: list[int] = []

    def members(
        record: ProcessRecord, seen: dict[int, Stat], unread: list[Unread] | None = None
    ) -> Iterator[Stat]:
        found, exited = shown[len(made)] if len(made) < len(shown) else then
        made.append(len(made))
        if unread is not None:
            unread += exited
        yield from (stat for stat in found if (now := procfs.read(stat.pid)) is not None and not now.dead)

    monkeypatch.setattr(procfs, "members", members)
    return made


async def test_a_child_of_one_that_exited_in_each_scan_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scan shows only that somebody has exited: a new one each time, as a chain of forks leaves."""
    with subprocess.Popen(["sleep", "600"]) as child:  # noqa: ASYNC220
        last = living(child.pid)
        scans(monkeypatch, *(([], [(-n, n)]) for n in range(1, 30)), ([last], []), then=([last], []))
        report = await killing.kill(RECORD, SystemClock())
        assert report.gone and report.killed == 1
        assert child.wait(20) == -signal.SIGKILL


async def test_zombies_that_nobody_reaps_delay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scans(monkeypatch, then=([], [(-1, 5), (-2, 5)]))
    assert (await killing.kill(RECORD, SystemClock())).gone
    assert len(made) == 3  # one that finds them, and two in which nobody has exited


async def test_a_machine_where_processes_come_and_go_without_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = scans(monkeypatch, then=([], [(-1, None)]))
    assert (await killing.kill(RECORD, SystemClock())).gone
    assert len(made) == killing.KILL_LOOKS * killing.KILL_BURST


def test_a_zombie_may_have_a_child_that_is_not_listed() -> None:
    """One that is younger than the worker; older ones are somebody else's."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        ticks = living(child.pid).start_ticks
        for since, told in ((ticks, True), (ticks + 1, False)):
            unread: list[Unread] = []
            record = ProcessRecord("web-1", child.pid, procfs.boot_id(), since, "b-token")
            assert list(procfs.members(record, {}, unread)) == []
            assert ((child.pid, ticks) in unread) is told
