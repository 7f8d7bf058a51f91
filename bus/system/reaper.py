"""Reaps adopted children: processes whose parent has exited become ours when we are PID 1 of a container.

Linux only; elsewhere nothing is adopted that would not be reaped by init.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..clock import Clock

EVERY_S: Final = 0.5
MAX_PER_PASS: Final = 2_000
_TASKS: Final = Path("/proc/self/task")
_ZOMBIE: Final = "Z"

log = logging.getLogger("busbar.service")


class Reaper:
    """Reaps zombies among our children that nobody else waits for.

    Those that we start ourselves lead a session, and whoever started one reaps it at once: a zombie that
    leads a session is left alone until it was seen twice.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def reap(self) -> int:
        """One pass; returns how many were reaped. Never raises."""
        reaped, leaders = 0, set()
        for pid in _children():
            if reaped >= MAX_PER_PASS:
                break
            state, sid = _state_and_session(pid)
            if state != _ZOMBIE:
                continue
            if sid == pid and pid not in self._seen:
                leaders.add(pid)
                continue
            try:
                reaped += os.waitpid(pid, os.WNOHANG)[0] == pid
            except OSError:
                continue  # reaped meanwhile
        self._seen = leaders
        return reaped

    async def run(self, clock: Clock) -> None:
        """Reap until cancelled."""
        while True:
            await clock.sleep(EVERY_S)
            self.reap()


def _children() -> Iterator[int]:
    try:
        for task in os.listdir(_TASKS):
            try:
                yield from map(int, (_TASKS / task / "children").read_text().split())
            except FileNotFoundError:
                continue  # that thread has ended
    except OSError:
        return


def _state_and_session(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[3])
    except (OSError, IndexError, ValueError):
        return "", 0
