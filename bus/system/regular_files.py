"""Opens files without waiting for what is none: others may have put a FIFO or a device in their place."""

from __future__ import annotations

import errno
import os
import select
import stat
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final

PIPE_S: Final = 5.0
"""Seconds for which a pipe is waited for while nothing is written to it."""
_CHUNK: Final = 64 * 1024


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


def read_bounded(file: BinaryIO | FileIO, most: int) -> bytes:
    """What is left of a file. Raises OSError where that is more than `most` bytes."""
    found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes")
    return found


def read_given(path: Path, most: int) -> bytes:
    """The content of a file that a user names, which may be a pipe, as in `<(command)`, or a device.

    Raises:
        OSError: it can't be opened, has more than `most` bytes, or is a pipe to which nothing is written for
            `PIPE_S` seconds, and whose writers do not end either.
    """
    with FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return read_bounded(file, most)
        return _read_to_end(file, path, most)


def _read_to_end(file: FileIO, path: Path, most: int) -> bytes:
    found, happened = bytearray(), 0
    # Until its first writer comes, a pipe that has a name looks as if the last one had gone.
    is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    named = is_pipe and not os.readlink(f"/proc/self/fd/{file.fileno()}").startswith("pipe:")
    poll = select.poll()
    poll.register(file, select.POLLIN)
    while len(found) <= most:
        part = file.read(_CHUNK)  # None: there is a writer, who has written nothing more
        if part:
            found += part
        elif part is not None and (found or not named or happened & select.POLLHUP):
            return bytes(found)
        elif not (happened := sum(events for _, events in poll.poll(PIPE_S * 1000))):
            raise OSError(errno.ETIMEDOUT, f"nothing was written to this pipe for {PIPE_S:g} s", str(path))
    raise OSError(errno.EFBIG, f"more than {most} bytes")


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "no regular file", str(path))


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Its inode, size and time of change (ns), by which another file is told; None where it can't be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
