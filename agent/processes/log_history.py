"""Workers' output as one sequence of bytes each, although logs are rotated; and when it was written.

A position counts the bytes that were written to a log since the agent began to look at it, and those that
it held then. Rotation moves bytes to the newest copy and changes no position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct, field

from . import logs

TIMES: Final = 512
"""Moments that are remembered of a log. Beyond it, every other one of the older half is forgotten."""
LOGS: Final = 4096
"""Logs that are remembered; of those beyond, the one is forgotten that was looked at longest ago."""


class Output(NamedTuple):
    """Bytes of a log, and the position behind the last. `missing`: some that were asked for are gone, or more
    than what was to be read at most."""

    data: bytes
    end: int
    missing: bool


class _Log(Struct):
    base: int = 0
    """The position of the present file's first byte."""
    copy_base: int = 0
    """That of the newest copy's first byte; `base` where there is none to rely on."""
    times: list[tuple[float, int]] = field(default_factory=list)
    """When the log was seen to end where."""


class LogHistory:
    """What is known of workers' logs besides their content. Times are the wall clock's, in seconds."""

    def __init__(self) -> None:
        self._logs: OrderedDict[Path, _Log] = OrderedDict()

    def rotate(self, path: Path) -> bool:
        """As `logs.rotate_if_needed`; positions stay valid."""
        known = self._known(path)
        if not known.times:
            known.times.append((_written(path) or 0.0, known.base + _size(path)))
        moved = logs.rotate_if_needed(path)
        if moved is None:
            return False
        known.copy_base, known.base = known.base + moved.start, known.base + moved.end
        return True

    def note(self, path: Path, now: float) -> None:
        """Remember where the log ends now."""
        known = self._known(path)
        end = known.base + _size(path)
        if not known.times:
            written = _written(path)
            known.times.append((now if written is None else min(now, written), end))
        elif known.times[-1][1] != end:
            known.times.append((now, end))
        if len(known.times) > TIMES:
            half = len(known.times) // 2
            known.times[:half] = known.times[:half:2]

    def end(self, path: Path) -> int:
        """The position behind the last byte."""
        return self._known(path).base + _size(path)

    def since(self, path: Path, time: float) -> int | None:
        """The position of what was written after a time: exact to a look at the logs; what comes back may
        begin earlier. None: everything that is there may have been."""
        times = self._known(path).times
        place = bisect_right(times, time, key=lambda each: each[0])
        return times[place - 1][1] if place else None

    def read(self, path: Path, start: int, limit: int, before: int | None = None) -> Output:
        """The last `limit` bytes from a position on (and before another), out of the newest copy too."""
        known = self._known(path)
        end = known.base + _size(path)
        end = end if before is None else min(end, before)
        if end < start:  # truncated by somebody else: what it holds now is new
            start = known.base
        first = max(start, end - limit, known.copy_base)
        kept = b""
        if first < known.base:
            kept = _read(logs.newest_copy(path), first - known.copy_base, min(end, known.base) - first)
        at = min(end, max(first, known.base))
        rest = _read(path, at - known.base, end - at)
        return Output(kept + rest, at + len(rest), first > start)

    def _known(self, path: Path) -> _Log:
        known = self._logs.get(path)
        if known is None:
            copied = _size(logs.newest_copy(path))
            known = self._logs[path] = _Log(base=copied, copy_base=0)
            if len(self._logs) > LOGS:
                self._logs.popitem(last=False)
        self._logs.move_to_end(path)
        return known


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _read(path: Path, at: int, count: int) -> bytes:
    try:
        with logs.open_read(path) as file:
            file.seek(at)
            return file.read(count)
    except OSError:
        return b""
