"""Decides whether a recorded worker may live where this agent sees no process of it. No I/O.

In another PID namespace its pid is another number, or none. That it has ended is known from its log there,
which its processes hold (`processes.logs`), and from nothing else: it must never run twice.
"""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from typing import Final

from busbar.bus.messages import QUEUED
from msgspec import Struct

from ..processes.logs import LogHold
from ..state import WorkerRecord

HELD: Final = f"{QUEUED}not started a second time"
"""Why it is not started, before what `reason` says."""


class Here(Struct, frozen=True):
    """Where an agent looks for processes; `pid_namespace` is 0 when unknown."""

    boot_id: str
    pid_namespace: int


class Fate(Enum):
    """What is known of a worker of which no process was found."""

    GONE = auto()
    LIVES = auto()
    UNKNOWN = auto()


def fate(record: WorkerRecord, here: Here, log: LogHold | None) -> Fate:
    """What became of it. In its own namespace, and after another boot, what is not found is gone.

    `log` is None where there is no log, or nobody can tell who holds it.
    """
    seen = record.pid_namespace in (0, here.pid_namespace)
    if seen or record.stopped or record.boot_id != here.boot_id:
        return Fate.GONE
    if log is not None and log.held:
        return Fate.LIVES
    # A free lock proves its end only on the log that it held. A record without a pid was stored just before
    # the fork: what was forked, if anything, holds the log that is there.
    proven = not record.pid or (log is not None and log.inode == record.log_inode)
    return Fate.GONE if proven else Fate.UNKNOWN


def reason(record: WorkerRecord, found: Fate, path: Path) -> str:
    """Why it can't be taken for ended, and what to do; `path` is that of its record."""
    where = "in another PID namespace" + (f" (as process {record.pid} there)" if record.pid else "")
    again = "run the agent there again"
    if found is Fate.LIVES:
        return f"it runs {where}, out of this agent's reach: {again}, or end it there"
    return (
        f"it may run {where}, out of this agent's sight: {again}, or make sure that it has ended there and"
        f" then remove {path}"
    )
