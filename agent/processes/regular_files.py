"""Opens files that an operator names without waiting for what is none."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path) -> int:
    """A descriptor to read a regular file; a FIFO would keep the agent waiting for its writer.

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file")
    return descriptor


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Its inode, size and time of change (ns), by which another file is told; None where it can't be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
