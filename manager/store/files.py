"""The database file: private, durable, checked; a damaged one is refused with the way to restore it."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from . import schema
from .migrations import migrations
from .sqlite import Database

BUSY_MS: Final = 1_000
"""How long writes wait in the store's thread for another program's lock before callers get `busy`."""
READ_BUSY_MS: Final = 50
"""The same for reads, which block the event loop."""
OPEN_BUSY_MS: Final = 15_000
"""The same at start, when several processes may migrate at once."""
WAL_LIMIT: Final = 64 * 1024 * 1024
"""Bytes to which the write-ahead log is truncated after a checkpoint."""


class StoreRefusedError(Exception):
    """The database can't be used; the message says why and what to do."""


def connect(path: Path, *, readonly: bool = False) -> Database:
    """A connection with Busbar's settings: WAL, every commit synced, foreign keys enforced.

    Transactions are begun explicitly. The connection is used by one thread at a time.
    """
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    db = Database(conn)
    db.execute(f"PRAGMA busy_timeout = {READ_BUSY_MS if readonly else OPEN_BUSY_MS}")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA trusted_schema = OFF")
    if readonly:
        db.execute("PRAGMA query_only = ON")
        return db
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    return db


def open_writer(path: Path) -> Database:
    """Create or open the file, migrate its schema, and return the write connection.

    Several processes may do so at once: the schema steps run under one write lock.

    Raises:
        StoreRefusedError: the file is damaged, of a newer Busbar, locked, or its folder is not private.
    """
    make_private(path)
    db: Database | None = None
    try:
        db = connect(path)
        _refuse_damage(db, path)
        _refuse_foreign(db, path)
        db.enable_wal()
        migrate(db)
        db.execute("PRAGMA busy_timeout = 0")
    except StoreRefusedError:
        raise
    except sqlite3.DatabaseError as error:
        raise _refused(path, error) from error
    return db


def migrate(db: Database) -> None:
    """Apply the pending schema steps in one transaction.

    Raises:
        StoreRefusedError: the file has steps that this version does not know.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        unknown = schema.unknown_steps(db)
        if unknown:
            raise StoreRefusedError(f"the database is of a newer Busbar ({unknown}): update this one")
        migrations.apply(db)
    except BaseException:
        db.rollback()
        raise
    db.execute("COMMIT")


def make_private(path: Path) -> None:
    """Create the folder (0700) and the file (0600); SQLite gives its side files the same mode.

    Raises:
        StoreRefusedError: the folder can't be created, or is open to other users and has other files in it.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            _tighten(folder, path)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        for side in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if side.exists():
                side.chmod(0o600)
    except OSError as error:
        raise StoreRefusedError(f"can't use {path}: {error.strerror or error}") from error


def check(path: Path, *, pending_is_fault: bool = True) -> list[str]:
    """Verify a database file without changing it; returns its faults.

    `pending_is_fault`: whether schema steps that the manager applies at its start count as one.
    """
    if not path.is_file():
        return [f"{path} does not exist"]
    try:
        db = connect(path, readonly=True)
        try:
            return _damage(db, "integrity_check") + _schema_faults(db, pending_is_fault)
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        return [f"{path}: {error}"]


def check_schema(path: Path) -> list[str]:
    """What makes a file no database of a manager, whatever its content: before anything is asked of it."""
    try:
        db = connect(path, readonly=True)
        try:
            return _schema_faults(db, pending_is_fault=False)
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        return [f"that is no database of a manager: {error}"]


def is_locked(error: BaseException) -> bool:
    """Whether SQLite failed because another connection holds the lock."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def disk_failure(error: BaseException) -> str | None:
    """What a client may know of a disk that SQLite could not write, or read; None for any other error."""
    primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return "the disk of the manager's state is full"
    return f"the disk of the manager's state fails ({error})" if primary == sqlite3.SQLITE_IOERR else None


def _tighten(folder: Path, path: Path) -> None:
    foreign = [entry.name for entry in folder.iterdir() if not entry.name.startswith((path.name, "lock"))]
    if foreign:
        raise StoreRefusedError(
            f"{folder} is open to other users and holds other files ({foreign[0]}): "
            f"give the manager a folder of its own, or run chmod 700 {folder}"
        )
    folder.chmod(0o700)


def _damage(db: Database, check_name: str) -> list[str]:
    rows = [str(row[0]) for row in db.execute(f"PRAGMA {check_name}(10)").fetchall()]
    return [] if rows == ["ok"] else rows


def _refuse_damage(db: Database, path: Path) -> None:
    faults = _damage(db, "quick_check")
    if faults:
        raise _refused(path, sqlite3.DatabaseError(faults[0]))


def _refuse_foreign(db: Database, path: Path) -> None:
    """Before anything is written, which foreign triggers would see."""
    foreign = "" if schema.unknown_steps(db) else schema.foreign_objects(db)
    if foreign:
        raise StoreRefusedError(f"{path} has not the schema of a manager's database: {foreign}")


def _schema_faults(db: Database, pending_is_fault: bool) -> list[str]:
    faults = [
        f"table {row[0]}: row {row[1]} refers to a missing row of {row[2]}"
        for row in db.execute("PRAGMA foreign_key_check").fetchmany(10)
    ]
    pending = [step.name for step in migrations.pending(db)]
    unknown = schema.unknown_steps(db)
    foreign = "" if unknown else schema.foreign_objects(db)
    if foreign:
        faults.append(f"not the schema of a manager's database: {foreign}")
    if pending and pending_is_fault:
        faults.append(f"schema steps not applied: {', '.join(pending)} (the manager does it at its start)")
    if unknown:
        faults.append(f"schema steps of a newer Busbar: {unknown}")
    return faults


def _refused(path: Path, error: sqlite3.DatabaseError) -> StoreRefusedError:
    if is_locked(error):
        return StoreRefusedError(f"{path} is locked by another program: {error}")
    return StoreRefusedError(
        f"{path} is damaged or no database ({error}). To restore: stop the manager, run "
        f"'busbar restore FILE --state {path.parent}' with your last backup, which keeps the present file "
        f"beside it, and then 'busbar manager take-over'"
    )
