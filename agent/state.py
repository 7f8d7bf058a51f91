"""The agent's state folder: lock, stored assignment, one record per worker. A torn file is no error.

lock                held by the agent that uses the folder
folder_id           random; part of every token, so that workers of this folder are recognised
owner.json          node, host and place that the folder was made for
joined.json         how its node connects, with `secret` and `ca.crt`: `busbar agent join` writes them
assignment.json     the applied assignment
records/OID.json    a worker's record, written before its process is forked
workers/OID/        a worker's working directory; logs/OID.log its output
www/                root of `static` paths with a relative directory
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from busbar.bus.assignments import expanded, shared
from busbar.bus.decode import MAX_REPORT
from busbar.bus.errors import BusError
from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import AssignedWorker, Assignment, WorkerName
from busbar.bus.system import files
from busbar.bus.system.files import FileLock
from busbar.bus.system.regular_files import read_regular
from msgspec import Struct

from .owner import FolderOwner, why_foreign

log = logging.getLogger("busbar.agent.state")

_OID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_FOLDER_ID: Final = re.compile(r"[0-9a-f]{8,64}")
JOINED: Final = ("joined.json", "secret", "ca.crt")
"""A node's access to its broker, which a copy of the folder must not keep."""
_MAX_FILE: Final = 64 << 20
"""Bytes of a file that is read; none of ours is half as large."""
T = TypeVar("T")


class StateError(Exception):
    """The folder can't be used; the text gives the cause and the fix."""


class RecordedListener(Struct, frozen=True):
    """Where a listener of a worker is."""

    port: int
    address: str = ""


class WorkerRecord(Struct, frozen=True, kw_only=True):
    """The stored record of a worker's instance. `pid` is 0 until after the fork; `stopped`: its agent stopped
    it, so its exit is no failure. `start`: the digest of what it was started with; empty when unknown.
    `port` and `address` are the primary listener's; `listeners` has all by name, empty where none has a
    name."""

    oid: str
    worker: WorkerName
    cluster: str
    generation: int
    digest: str
    token: str
    pid: int = 0
    boot_id: str = ""
    start_ticks: int = 0
    pid_namespace: int = 0
    """The inode of the agent's PID namespace; 0: an earlier version did not say."""
    log_from: int = 0
    log_inode: int = 0
    """Of the log that its processes hold, see `processes.logs`; 0: they are not known to hold one."""
    port: int = 0
    address: str = ""
    listeners: dict[str, RecordedListener] = {}
    restarts: int = 0
    ready: bool = False
    stopped: bool = False
    stop_signal: int = 15
    grace_s: float = 5.0
    start: str = ""
    peers: str = ""
    """The digest of the peers that its process was told of."""
    files: dict[str, tuple[int, int, int] | None] = {}
    """The files of the node that it has read, by the pointer that names each; see `planner.file_watch`."""
    kept: AssignedWorker | None = None
    """With what the worker was ready last, as this instance or one before it; None if it is not known."""

    @property
    def full_name(self) -> str:
        """As commands have it: two clusters may have workers of one name."""
        return f"{self.cluster}/{self.worker}"

    @property
    def ports(self) -> dict[str, int]:
        """The port of each listener by name; none where it listens on none."""
        if self.listeners:
            return {name: each.port for name, each in self.listeners.items()}
        return {DEFAULT: self.port} if self.port else {}


class State:
    """An agent's folder, locked for as long as this object is open."""

    def __init__(self, folder: Path, lock: FileLock, folder_id: str) -> None:
        self.folder = folder
        self.folder_id = folder_id
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, new_id: str, here: FolderOwner | None = None) -> State:
        """Create the folder (0700) if it is missing, and lock it. `new_id` becomes its id if it has none.

        `here` is whom the folder must have been made for; None does not ask.

        Raises:
            StateError: another agent uses it, it was made for another, or it can't be written.
        """
        try:
            folder = folder.resolve()  # its workers are marked with it: one folder, one name
            for part in (folder, folder / "records", folder / "workers", folder / "logs", folder / "www"):
                part.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o066:  # else as `let_through` has left it, for the workers that run
                folder.chmod(0o700)
            lock = _lock(folder)
        except OSError as error:
            raise StateError(f"state folder {folder} can't be used: {_told(error, folder)}") from error
        try:
            for part in (folder, folder / "records"):
                files.discard_leftovers(part)
            folder_id = _folder_id(folder / "folder_id", new_id)
            if here is not None:
                _check_owner(folder, folder_id, here)
            return cls(folder, lock, folder_id)
        except StateError:
            lock.release()
            raise
        except OSError as error:
            lock.release()
            raise StateError(f"state folder {folder} can't be written: {_told(error, folder)}") from error

    def close(self) -> None:
        """Release the folder."""
        self._lock.release()

    def why_misplaced(self) -> str | None:
        """That the folder is not the one that was opened any more; None while it is."""
        if self._lock.is_in_place():
            return None
        return (
            f"state folder {self.folder} was removed or replaced while this agent uses it: restart the agent,"
            " which finds its running workers again"
        )

    def let_through(self, others: bool) -> None:
        """Whether workers that run as other users can pass the folder; they can list and read nothing in it.

        Raises:
            OSError: the modes can't be changed.
        """
        for part in (self.folder, self.folder / "workers", self.www):
            part.chmod(0o711 if others else 0o700)

    @property
    def www(self) -> Path:
        """Root of `static` paths with a relative directory."""
        return self.folder / "www"

    def worker_folder(self, oid: str) -> Path:
        """A worker's working directory.

        Raises:
            ValueError: not an object id, so not safe as a file name.
        """
        return self.folder / "workers" / _checked(oid)

    def log_path(self, oid: str) -> Path:
        """A worker's log; raises as `worker_folder`."""
        return self.folder / "logs" / f"{_checked(oid)}.log"

    @property
    def logs(self) -> Path:
        """Folder of the workers' logs."""
        return self.folder / "logs"

    def assignment(self) -> Assignment | None:
        """The stored assignment; None when there is none, or it is torn (then it is renamed)."""
        path = self.folder / "assignment.json"
        found = _read(path, Assignment)
        try:
            return None if found is None else expanded(found)
        except BusError as error:
            _set_aside(path, error.detail)
            return None

    def store_assignment(self, assignment: Assignment) -> None:
        """Store it durably: after a power loss, either it or the previous one is there, complete.

        Raises:
            OSError: it could not be written.
        """
        whole = msgspec.json.encode(assignment)
        # Expanded where that is small: an older agent that is put back here reads it.
        payload = whole if len(whole) <= MAX_REPORT else msgspec.json.encode(shared(assignment))
        files.write_atomically(self.folder / "assignment.json", payload)

    def records(self) -> list[WorkerRecord]:
        """Every readable record; torn ones are renamed (their processes are found by token)."""
        found = (_read(path, WorkerRecord) for path in sorted((self.folder / "records").glob("*.json")))
        return [record for record in found if record is not None and _OID.fullmatch(record.oid)]

    def write_record(self, record: WorkerRecord) -> None:
        """Write a record atomically, but not durably: a power loss ends its process as well.

        Raises:
            OSError: it could not be written.
            ValueError: not an object id.
        """
        files.write_atomically(self.record_path(record.oid), msgspec.json.encode(record), durable=False)

    def forget(self, oid: str) -> None:
        """Delete a worker's record, folder and logs. Never raises."""
        with contextlib.suppress(OSError, ValueError):
            self.record_path(oid).unlink(missing_ok=True)
            shutil.rmtree(self.worker_folder(oid), ignore_errors=True)
            for path in (self.folder / "logs").glob(f"{_checked(oid)}.log*"):
                path.unlink(missing_ok=True)

    def record_path(self, oid: str) -> Path:
        """A worker's record; raises as `worker_folder`."""
        return self.folder / "records" / f"{_checked(oid)}.json"


def is_locked(folder: Path) -> bool:
    """Whether a living agent holds that folder."""
    return files.is_locked(folder / "lock")


def may_run(folder: Path, oid: str, token: str) -> bool:
    """Whether an agent with that folder may attend to the process with this token: the folder has its id, or
    its record of the worker has the token. Another folder may have taken the place of a moved one."""
    try:
        if f":{_kept_id(folder)}:" in token:
            return True
        return token.encode() in read_regular(folder / "records" / f"{_checked(oid)}.json", _MAX_FILE)
    except (FileNotFoundError, ValueError):
        return False
    except OSError:
        return True  # unknown: somebody else's folder


def claim(folder_id: str) -> socket.socket:
    """Be the only agent of this host, or container, with a state folder of this id, until it is closed.

    The lock in a folder says nothing of a copy that was put in its place while its agent goes on.

    Raises:
        StateError: another one lives.
    """
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claimed.bind(f"\0busbar-agent-{folder_id}")
    except OSError as error:
        claimed.close()
        raise StateError(
            f"another agent on this host uses the state folder with id {folder_id}, of which this is a copy "
            "or the original: stop that agent, or give this one a folder of its own"
        ) from error
    return claimed


def _checked(oid: str) -> str:
    if not _OID.fullmatch(oid):
        raise ValueError(f"'{oid[:80]}' is not an object id")
    return oid


def _lock(folder: Path) -> FileLock:
    lock = FileLock(folder / "lock")
    if not lock.take():
        raise StateError(
            f"state folder {folder} is in use by another agent (pid {lock.holder()}): "
            "stop that one, or give this one a folder of its own"
        )
    with contextlib.suppress(OSError):  # a full disk: the pid is for messages only
        lock.write_pid()
    return lock


def _check_owner(folder: Path, folder_id: str, here: FolderOwner) -> None:
    path = folder / "owner.json"
    made_for = _read(path, FolderOwner)
    if made_for is not None:
        original = Path(made_for.path)
        reason = why_foreign(made_for, here, _is_other_folder(original, folder, folder_id))
        if reason is not None:
            raise StateError(f"state folder {folder} was {reason}")
    if made_for != here:
        try:
            files.write_atomically(path, msgspec.json.encode(here))
        except OSError as error:
            log.warning("%s not written: %s", path, error)


def _is_other_folder(original: Path, folder: Path, folder_id: str) -> bool:
    """Whether the folder was copied from there; one that was moved or mounted elsewhere was not."""
    try:
        return _kept_id(original) == folder_id and not original.samefile(folder)
    except OSError:
        return False


def reset(folder: Path, *, keep: bool) -> None:
    """Make a folder new: forget its id, assignment, records, workers and logs; `www` stays.

    `keep`: forget only whom it was made for, so that the next agent takes it over with all it holds.

    Raises:
        StateError: an agent uses it, it is no state folder, or it can't be written.
    """
    if not (folder / "folder_id").exists() and not (folder / "owner.json").exists():
        raise StateError(f"{folder} is no agent's state folder")
    try:
        lock = _lock(folder)
        try:
            names = ("owner.json",) if keep else ("assignment.json", "folder_id", "owner.json", *JOINED)
            for part in () if keep else ("records", "workers", "logs"):
                shutil.rmtree(folder / part, ignore_errors=True)
            for name in names:
                (folder / name).unlink(missing_ok=True)
        finally:
            lock.release()
    except OSError as error:
        raise StateError(f"state folder {folder} can't be reset: {error.strerror or error}") from error


def _folder_id(path: Path, new_id: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        kept = _kept_id(path.parent)
        if _FOLDER_ID.fullmatch(kept):
            return kept
        _set_aside(path, "not a folder id")
    files.write_atomically(path, new_id)
    return new_id


def _told(error: OSError, folder: Path) -> str:
    """What is wrong, and with which part of the folder."""
    what, name = error.strerror or str(error), str(error.filename or folder)
    what = what if name == str(folder) else f"{name}: {what}"
    if isinstance(error, PermissionError):
        with contextlib.suppress(OSError):
            owner, own = folder.stat().st_uid, os.geteuid()
            if owner != own:
                what += f"; it belongs to user id {owner}, and this agent runs as {own}"
    return what


def _kept_id(folder: Path) -> str:
    return read_regular(folder / "folder_id", 4096).decode(errors="replace").strip()


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(read_regular(path, _MAX_FILE), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        _set_aside(path, str(error))
        return None


def _set_aside(path: Path, why: str) -> None:
    log.warning("%s is not readable, renamed to .bad: %s", path, why)
    with contextlib.suppress(OSError):
        files.rename(path, path.with_name(f"{path.name}.bad"))
