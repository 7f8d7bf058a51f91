"""Whether the kernel has killed a worker for memory, by the counters that it keeps.

Those of a worker's own cgroup are certain. Without them (no memory controller) there is only the counter of
the agent's unit, or of the host: a kill of the last seconds, when the worker ended by SIGKILL, may have been
of another process.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from . import cgroups
from .process_limits import data_limit

VMSTAT: Final = Path("/proc/vmstat")
_FAILED: Final = re.compile(r"MemoryError|bad_alloc|[Oo]ut of memory|Cannot allocate memory|ENOMEM")
"""What programs say when the kernel refuses them memory."""
_UNITS: Final = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


class HostKills:
    """Counts what the kernel has killed on this host since a moment ago; `tick` it every few seconds."""

    def __init__(self) -> None:
        now = _host_kills()
        self._before, self._last = now, now

    def tick(self) -> None:
        """The moment moves: to the tick before this one."""
        self._before, self._last = self._last, _host_kills()

    def recent(self) -> bool:
        """Whether there was one since the last tick but one."""
        before, now = self._before, _host_kills()
        return before is not None and now is not None and now > before


def explain(code: int | None, folders: Collection[Path], host: HostKills) -> str | None:
    """Why a process ended, as text, if it was for memory; None where nothing says so.

    `folders` are the worker's cgroups; `code` is as in `Exit`.
    """
    killed = code == -signal.SIGKILL
    for folder in folders:
        events = _counters(folder / "memory.events")
        if not events.get("oom_kill"):
            continue
        limit = _limit(folder) if events.get("oom") else None
        why = f"it used all of its {limit} (limits.memory)" if limit else "there was none left outside of it"
        if killed or code is None:
            return f"killed for memory: {why}"
        return f"exit code {code}, after a process of it was killed for memory: {why}"
    if killed and host.recent():
        return "killed by SIGKILL, while the kernel killed on this host for lack of memory"
    return None


def after_allocation(argv: Sequence[str], lines: Collection[str]) -> str | None:
    """What a failed allocation in a worker's last lines may be due to: its own limit per process."""
    limit = data_limit(argv)
    if limit is None or not any(_FAILED.search(line) for line in lines):
        return None
    return f"each of its processes may use {as_text(limit)} (limits.memory)"


def as_text(size: int) -> str:
    """A number of bytes as `limits.memory` has it: 512M."""
    return next((f"{size // unit}{name}" for unit, name in _UNITS if size % unit == 0), str(size))


def _limit(folder: Path) -> str | None:
    try:
        text = (folder / "memory.max").read_text().strip()
    except OSError:
        return None
    return as_text(int(text)) if text.isdigit() else None


def _host_kills() -> int | None:
    """None where the kernel does not count them (before Linux 4.13)."""
    above = cgroups.parent()
    of_unit = _counters(above / "memory.events") if above is not None else {}
    return of_unit.get("oom_kill", _counters(VMSTAT).get("oom_kill"))


def _counters(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
