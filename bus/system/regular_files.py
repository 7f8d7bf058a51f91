"""Opens files without waiting for what is none: others may have put a FIFO or a device in their place."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, by default to read it; a FIFO would keep us waiting for its other end.

    What `flags` creates is private (mode 0600).

    Raises:
        OSError: it can't be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EISDIR):  # a FIFO without a reader, a socket; a folder
            raise
        raise _not_regular(path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as `open_regular`, or it has more than `most` bytes.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        return read_bounded(file, most)


def read_bounded(file: BinaryIO, most: int) -> bytes:
    """What is left of a file. Raises OSError where that is more than `most` bytes."""
    found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes")
    return found


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "no regular file", str(path))


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Its inode, size and time of change (ns), by which another file is told; None where it can't be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
