"""Workers' logs: bounded, rotated by copy and truncate; their last lines explain a failure.

A worker holds its log for as long as one of its processes lives, which is seen from every PID namespace.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from busbar.bus.system.files import is_held, rename
from busbar.bus.system.regular_files import open_regular

MAX_BYTES: Final = 1 << 20
KEEP: Final = 3
_CHUNK: Final = 1 << 16
_LINE_CHARS: Final = 300
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Escape sequences and control characters except tab: output must not control a reader's terminal."""


def open_append(path: Path) -> int:
    """Open a log for a worker to write to; the caller closes the descriptor.

    Raises:
        OSError: it can't be opened, or is no regular file, such as a symbolic link.
    """
    descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
    os.set_blocking(descriptor, True)  # the worker inherits it
    return descriptor


class LogHold(NamedTuple):
    """A log's inode, by which one that was replaced is told, and whether a process of its worker holds it."""

    inode: int
    held: bool


def hold_of(path: Path) -> LogHold | None:
    """Who holds a log now; None where there is none, or that can't be told."""
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return LogHold(os.fstat(descriptor).st_ino, is_held(descriptor))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def held_in(folder: Path) -> list[Path]:
    """The logs of a folder that are held."""
    found = ((path, hold_of(path)) for path in sorted(folder.glob("*.log")))
    return [path for path, log in found if log is not None and log.held]


def open_read(path: Path) -> BinaryIO:
    """Open a log or its copy to read it; raises as `open_append`."""
    return os.fdopen(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


class Rotated(NamedTuple):
    """The bytes of the log that the copy begins with, and at which it was truncated."""

    start: int
    end: int


def rotate_if_needed(path: Path, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> Rotated | None:
    """Copy a large log to `.1` (older ones to `.2` … `.keep`) and truncate it; None where it need not be.

    The worker's file is open with O_APPEND, so its next write goes to the new end. Copied are the last
    three quarters of `max_bytes` and, within it, what is written meanwhile: a copy takes long on a busy
    machine, and a worker's last words may come then. What comes between the last read and the truncation
    is lost.
    Never raises: a log that can't be copied (disk full) is truncated all the same.
    One worker's logs take at most `max_bytes` * (`keep` + 1), and what it writes between two looks.
    """
    try:
        if path.lstat().st_size <= max_bytes:
            return None
        with os.fdopen(open_regular(path, os.O_RDWR | os.O_NOFOLLOW), "rb+") as log:
            start = _keep_copy(path, log, max_bytes, keep)
            end = os.fstat(log.fileno()).st_size
            os.ftruncate(log.fileno(), 0)
    except OSError:
        return None
    return Rotated(end if start is None else start, end)


def take_from_removed(path: Path, pid: int, max_bytes: int = MAX_BYTES) -> None:
    """Where somebody has removed a log that a process still writes to, put its output there again.

    Else it would fill the disk where nobody sees it. Never raises; what has no place is dropped.
    """
    for number in (1, 2):
        held = f"/proc/{pid}/fd/{number}"
        try:
            if os.readlink(held) != f"{path} (deleted)":
                continue
            with os.fdopen(open_regular(Path(held), os.O_RDWR), "rb+") as removed:
                _move_output(removed, path, max_bytes)
        except OSError:
            continue


def _move_output(removed: BinaryIO, path: Path, max_bytes: int) -> None:
    size = removed.seek(0, os.SEEK_END)
    if not size:
        return
    removed.seek(max(0, size - max_bytes))
    output = removed.read(max_bytes)
    os.ftruncate(removed.fileno(), 0)
    with os.fdopen(open_append(path), "ab") as log:
        log.write(output)


def rotate_all(folder: Path) -> None:
    """Rotate every large log of a folder, known or not. Never raises."""
    for path in folder.glob("*.log"):
        rotate_if_needed(path)


def newest_copy(path: Path) -> Path:
    """Where the last rotation of a log put its content."""
    return path.with_name(f"{path.name}.1")


def _keep_copy(path: Path, source: BinaryIO, max_bytes: int, keep: int) -> int | None:
    """The first byte that was copied; None where nothing was."""
    if keep < 1:
        return None
    try:
        for age in range(keep - 1, 0, -1):
            older = path.with_name(f"{path.name}.{age}")
            if os.path.lexists(older):
                rename(older, path.with_name(f"{path.name}.{age + 1}"))
        copy = newest_copy(path)
        copy.unlink(missing_ok=True)
        with os.fdopen(open_regular(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as target:
            start = source.seek(max(0, source.seek(0, os.SEEK_END) - max_bytes * 3 // 4))
            left = max_bytes
            while left > 0 and (chunk := source.read(min(left, _CHUNK))):
                left -= target.write(chunk)
                target.flush()
    except OSError:
        return None
    return start


def _last_bytes(path: Path, count: int, start: int = 0) -> bytes:
    with open_read(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - count, 0) if start <= size else max(size - count, 0))
        return file.read(count)


def read_since(path: Path, start: int, max_bytes: int = 256 * 1024) -> str:
    """Output after byte `start` (all of it if truncated since), at most the last `max_bytes`."""
    try:
        return _last_bytes(path, max_bytes, start).decode(errors="replace")
    except OSError:
        return ""


def tail(path: Path, lines: int = 5, max_bytes: int = 4096, start: int = 0) -> list[str]:
    """The last non-empty lines after byte `start`, safe to display.

    Control characters are removed and each line is cut to 300 characters. A missing file has none.
    """
    try:
        raw = _last_bytes(path, max_bytes, start)
    except OSError:
        return []
    clean = (_CONTROL.sub("", line).rstrip() for line in raw.decode(errors="replace").splitlines())
    return [line[:_LINE_CHARS] for line in clean if line.strip()][-lines:] if lines > 0 else []
