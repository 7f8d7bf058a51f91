"""Backups of a manager's store, as its state folder sees them, and how a restored one comes back to work.

All of it works on the folder alone: no broker is asked. A copy is marked as a backup; a manager refuses to
start on one until `take_over`: what happened after it is not in it, and its original may still be at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..store import StoreRefusedError
from ..store import backup as copies
from .fencing import Lock

DATABASE: Final = "busbar.db"


def database(state: Path) -> Path:
    """The database file in a manager's state folder."""
    return state / DATABASE


def backup(state: Path, target: Path, when: str) -> None:
    """Copy the database of a state folder, also while its manager runs; `when` is the time, in words.

    Raises:
        StoreRefusedError: it can't be read, is damaged, or the target can't be written.
    """
    copies.backup(database(state), target, when)


def restore(state: Path, source: Path, when: str) -> Path | None:
    """Put a backup in the place of the database; returns where the present one is kept, if there was one.

    Raises:
        StoreRefusedError: the backup can't be used, or a manager holds the database.
    """
    with _held(state):
        return copies.restore(source, database(state), when)


def take_over(state: Path, epoch: int, sequence: int = 0, told: str = "told to take over") -> int:
    """Let a restored store speak; returns the least epoch of its next start.

    That is above `epoch` and above its own; the log of a manager that is fenced names the one to exceed.
    Events are numbered on above `sequence`; `told` reaches the event that tells of it.

    Raises:
        StoreRefusedError: there is no database, it can't be used, or a manager holds it.
    """
    if not database(state).is_file():
        raise StoreRefusedError(f"there is no database {database(state)}")
    with _held(state):
        return copies.take_over(database(state), epoch, sequence, told)


@contextmanager
def _held(state: Path) -> Iterator[None]:
    """The manager's lock: it must be stopped."""
    lock = Lock(state / "lock")
    try:
        if not lock.take():
            raise StoreRefusedError(f"a manager holds {state}: stop it first")
        yield
    except OSError as error:
        raise StoreRefusedError(f"can't use {state}: {error.strerror or error}") from error
    finally:
        lock.release()
