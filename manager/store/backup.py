"""Backup and restore of the database file. A manager refuses a restored one until `take_over`
(docs/decisions/0008).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from busbar.bus.system.files import rename, replacing

from . import files, sql
from .files import StoreRefusedError
from .sqlite import Database

BACKUP: Final = "backup"
"""`meta` key: when this copy was made, as text. A manager refuses a store that has it."""
SEQUENCE: Final = "sequence"
"""`meta` key: events are numbered above this."""
RESTORED: Final = "restored"
"""`meta` key: the reason in the event that reports the take-over; empty once it is recorded."""
REALM: Final = "realm"
"""The prefix of the topics that this store serves; absent before its first start."""
ANY_REALM: Final = "*"
"""The value for a store that served before this was recorded: whichever realm it serves next is its own."""
SEQUENCE_STEP: Final = 1_000_000


def backup(source: Path, target: Path, when: str) -> None:
    """Copy a database, even while a manager writes to it, into a single file of mode 0600.

    The copy is a consistent snapshot. It is marked as a backup of `when` and verified before it replaces the
    target.

    Raises:
        StoreRefusedError: the source can't be read, is damaged, or the target can't be written.
    """
    if not source.is_file():
        raise StoreRefusedError(f"there is no database {source}")
    with _in_place_of(target) as new:
        _copy(source, new)
        _refuse_foreign(new)
        _mark(new, when)
        _verify(new)


def restore(source: Path, target: Path, when: str) -> Path | None:
    """Replace the database with a copy of a backup; the caller holds the manager's lock.

    The present database is kept under another name, which is returned. The restored store stays marked: a
    manager refuses it until `take_over`.

    Raises:
        StoreRefusedError: the backup can't be read or is damaged; the present database stays as it is.
    """
    if not source.is_file():
        raise StoreRefusedError(f"there is no backup {source}")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _in_place_of(target) as new:
        _copy(source, new)
        _refuse_foreign(new)  # before a statement of ours could run what it holds
        if not backup_time(new):
            _mark(new, f"unknown time, restored {when}")
        _verify(new)
        aside = _put_aside(target, when)
    return aside


def backup_time(path: Path) -> str:
    """When this backup was made; empty when the file is not a backup.

    Raises:
        StoreRefusedError: it is no manager's database.
    """
    try:
        with closing(files.connect(path, readonly=True)) as db:
            return backup_time_of(db)
    except sqlite3.Error as error:
        raise StoreRefusedError(f"that is no database of a manager: {error}") from error


def backup_time_of(db: Database) -> str:
    """The same for an open database."""
    found = db.execute(sql.META_GET, (BACKUP,)).fetchone()
    return str(found[0]) if found else ""


def refuse_backup(db: Database, path: Path) -> None:
    """Raises StoreRefusedError for a backup that has not taken over."""
    when = backup_time_of(db)
    if when:
        raise StoreRefusedError(
            f"{path} is a backup ({when}): what happened since is not in it. If the original is gone for"
            f" good, run 'busbar manager take-over --state {path.parent}': this one is used from then on"
        )


def take_over(path: Path, epoch: int, sequence: int, reason: str) -> int:
    """Let managers start on a restored store; returns the least epoch of the next start.

    Epochs continue above `epoch` and the store's own. Sequences continue well above the last one: the lost
    store may have used the next ones.

    Raises:
        StoreRefusedError: the file can't be used.
    """
    with closing(files.open_writer(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            last = int(db.execute(sql.LAST_SEQUENCE).fetchall()[0][0])
            db.execute(sql.EPOCH_FLOOR, (str(epoch),))
            db.execute(sql.META_SET, (SEQUENCE, str(max(last + SEQUENCE_STEP, sequence))))
            db.execute(sql.META_SET, (RESTORED, reason))
            db.execute(sql.META_DROP, (BACKUP,))
            # Another store may have taken the realm over since: the next start looks again.
            db.execute(sql.META_DROP, (REALM,))
            floor = int(db.execute(sql.META_GET, ("epoch",)).fetchall()[0][0])
        except BaseException:
            db.rollback()
            raise
        db.execute("COMMIT")
    return floor + 1


# --- helpers ------------------------------------------------------------------------------------------------


def _copy(source: Path, target: Path) -> None:
    """SQLite's online backup in one step: one read transaction, which blocks no writer."""
    try:
        with closing(files.connect(source, readonly=True)) as db, closing(sqlite3.connect(target)) as copy:
            db.conn.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StoreRefusedError(f"{source} can't be copied: {error}") from error


def _mark(path: Path, when: str) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute(sql.META_SET, (BACKUP, when))
    except sqlite3.Error as error:
        raise StoreRefusedError(f"that is no database of a manager: {error}") from error


def _refuse_foreign(path: Path) -> None:
    faults = files.check_schema(path)
    if faults:
        raise StoreRefusedError(f"{faults[0]}")


def _verify(path: Path) -> None:
    faults = files.check(path, pending_is_fault=False)
    if faults:
        raise StoreRefusedError(f"the copy failed verification: {faults[0]}")


@contextmanager
def _in_place_of(target: Path) -> Iterator[Path]:
    """A private file to be filled, which then takes the target's name, durably."""
    try:
        with replacing(target) as new:
            try:
                yield new
            finally:
                for side in ("-journal", "-wal", "-shm"):
                    with suppress(OSError):
                        Path(f"{new}{side}").unlink(missing_ok=True)
    except OSError as error:
        raise StoreRefusedError(f"{target}: {error.strerror or error}") from error


def _put_aside(path: Path, when: str) -> Path | None:
    """Link the present database to another name too, and empty its write-ahead log.

    SQLite would apply a log that stayed behind to the new file.
    """
    if not path.exists():
        return None
    with suppress(sqlite3.Error, StoreRefusedError), closing(files.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    aside = path.with_name(f"{path.name}.before-{''.join(c for c in when if c.isalnum())}")
    aside.unlink(missing_ok=True)
    os.link(path, aside)
    for side in ("-wal", "-shm"):
        log = Path(f"{path}{side}")
        if log.exists():  # it could not be checkpointed: it belongs to the damaged one
            rename(log, Path(f"{aside}{side}"))
    return aside
