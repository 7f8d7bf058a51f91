"""Backup, restore and take-over of a manager's state folder, without a broker.

A copy is marked as a backup. A manager refuses to start on one until `take_over`: it lacks what happened
since, and the original may still be running.
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
    """Copy the database of a state folder, even while its manager runs; `when` is the time as text.

    Raises:
        StoreRefusedError: it can't be read, is damaged, or the target can't be written.
    """
    copies.backup(database(state), target, when)


def restore(state: Path, source: Path, when: str) -> Path | None:
    """Replace the database with a backup; returns where the present one is kept, if there was one.

    Raises:
        StoreRefusedError: the backup can't be used, or a manager holds the database.
    """
    with _locked(state):
        return copies.restore(source, database(state), when)


def take_over(state: Path, epoch: int, sequence: int = 0, reason: str = "told to take over") -> int:
    """Let managers start on a restored store; returns the least epoch of the next start.

    It exceeds `epoch` and the store's own; a fenced manager logs the epoch to exceed. Sequences continue
    above `sequence`; the event that reports the take-over has the `reason`.

    Raises:
        StoreRefusedError: there is no database, it can't be used, or a manager holds it.
    """
    if not database(state).is_file():
        raise StoreRefusedError(f"there is no database {database(state)}")
    with _locked(state):
        return copies.take_over(database(state), epoch, sequence, reason)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Hold the manager's lock.

    Raises:
        StoreRefusedError: a manager holds it, or the folder can't be used.
    """
    lock = Lock(state / "lock")
    try:
        if not lock.take():
            raise StoreRefusedError(f"{state} is in use by a running manager: stop it first")
        yield
    except OSError as error:
        raise StoreRefusedError(f"can't use {state}: {error.strerror or error}") from error
    finally:
        lock.release()
