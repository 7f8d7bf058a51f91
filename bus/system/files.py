"""Files replaced whole, and locks between processes: the one place that renames, flushes and locks files.

Nothing here makes folders. What is written is private (mode 0600) before its content is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

_PRIVATE: Final = 0o600
_LOCK_PAUSE_S: Final = 0.02


def write_atomically(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Replace a file whole: a reader sees the old content or the new, never a part, also after a crash.

    The file has mode 0600; text is written as UTF-8. A symbolic link at `path` is replaced, not followed.
    `durable`: it survives a power loss once this returns; without it, the old or the new content does.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path, durable=durable) as new:
        descriptor = os.open(new, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """An empty private file beside `path`, to be filled; afterwards it takes the name `path`.

    When the block raises, the new file is removed and `path` is as it was. Raises OSError.
    """
    new = path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")
    try:
        _close_made(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE), path.parent)
    except OSError as error:
        error.filename = str(path)  # the new one's name says nothing, and is another each time
        raise
    try:
        yield new
        if durable:
            _fsync(new)
        rename(new, path, durable=durable)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def _close_made(descriptor: int, folder: Path) -> None:
    """Close a file that was just made. As root, give it to the owner of its folder: a service that runs as
    that user has to read what an administrator's command wrote."""
    try:
        if os.geteuid() == 0:
            owner = folder.stat()
            if owner.st_uid != 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> str | None:
    """The text of a private file that only we can have written; None when there is none.

    Raises:
        PermissionError: it is a link, no regular file, somebody else's, or open to others: it may be planted.
        OSError: it can't be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(error.errno, f"{path} is a symbolic link") from None
        raise
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder")
    with os.fdopen(descriptor, encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        for is_so, what in (
            (not stat.S_ISREG(found.st_mode), "is no regular file"),
            (found.st_uid != os.geteuid(), f"belongs to the user with id {found.st_uid}, not to this one"),
            (found.st_mode & 0o077, "is open to other users: chmod 600 it"),
            (found.st_nlink > 1, "has another name too (a hard link)"),
        ):
            if is_so:
                raise PermissionError(errno.EPERM, f"{path} {what}")
        return file.read()


def discard_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder in which nobody writes now. Raises OSError."""
    for left in folder.glob(".*.new"):
        left.unlink(missing_ok=True)


def rename(source: Path, target: Path, *, durable: bool = False) -> None:
    """Give a file another name in one step; a file that had it is gone. Raises OSError."""
    os.replace(source, target)
    if durable:
        fsync_folder(target.parent)


def fsync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder survive a power loss. Raises OSError.

    The folder may be a link to one, as what is renamed in it goes there too.
    """
    _fsync(folder, os.O_DIRECTORY)


def _fsync(path: Path, flags: int = os.O_NOFOLLOW) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLock:
    """An exclusive lock between processes on a file of its own, which is made (0600) where it is missing.

    The kernel frees it when its holder ends, however it ends. The file is never removed: a lock on a removed
    file protects nothing. `with` waits for it, at most `within_s` seconds.
    """

    def __init__(self, path: Path, *, within_s: float = 10.0) -> None:
        self.path = path
        self._within_s = within_s
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take the lock unless another process, or another FileLock, holds it; False when one does.

        Raises:
            OSError: the file can't be made or opened, or is a symbolic link.
        """
        if self._descriptor is not None:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(FileExistsError):
            _close_made(os.open(self.path, flags | os.O_EXCL, _PRIVATE), self.path.parent)
        descriptor = os.open(self.path, flags, _PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def is_in_place(self) -> bool:
        """Whether the file that was locked is still there, and another holder would be kept out."""
        try:
            return self._descriptor is not None and os.path.samestat(
                os.stat(self.path, follow_symlinks=False), os.fstat(self._descriptor)
            )
        except FileNotFoundError:
            return False
        except OSError:
            return self._descriptor is not None  # unknown

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def write_pid(self) -> None:
        """Write our process id into the file, for `holder`; only while the lock is held. Raises OSError."""
        if self._descriptor is None:
            raise RuntimeError(f"{self.path} is not locked by us")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def holder(self) -> str:
        """The process id that the holder wrote down; `unknown` when it wrote none. For messages only."""
        with suppress(OSError):
            return self.path.read_bytes()[:32].decode(errors="replace").strip() or "unknown"
        return "unknown"

    def __enter__(self) -> FileLock:
        """Wait for the lock, blocking this thread. Raises TimeoutError after `within_s`, and OSError."""
        pause = threading.Event()  # never set: a bounded wait between two tries
        for _ in range(max(1, round(self._within_s / _LOCK_PAUSE_S))):
            if self.take():
                return self
            pause.wait(_LOCK_PAUSE_S)
        raise TimeoutError(f"{self.path} is locked by another process")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def hold(descriptor: int) -> bool:
    """Hold an open file for as long as anybody has this descriptor, or one that was inherited from it.

    Several may hold one file. False: it can't be had here, such as on a file system without locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(descriptor: int) -> bool:
    """Whether somebody holds a file, in whatever PID namespace; `descriptor` is one that nobody inherited.

    Raises:
        OSError: that can't be told.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the FileLock of this file; False when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
