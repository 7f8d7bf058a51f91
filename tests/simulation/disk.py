"""The manager's database in memory: it outlives every manager, and loses what was not committed.

One connection serves all schedules of this process, one after the other, so that its statements are prepared
once; writer and readers share it, since no one reads while a transaction is open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from busbar.bus.clock import Clock
from busbar.bus.topics import Topics
from busbar.manager.store import Reads, Store
from busbar.manager.store.engine import _claim_epoch
from busbar.manager.store.files import migrate
from busbar.manager.store.tx import StoreContext
from sqlite_utils import Database

Content = dict[str, list[Any]]
"""The rows of every table."""
_GONE = sqlite3.connect(":memory:")
_GONE.close()


class Disk:
    """What is durable."""

    def __init__(self) -> None:
        self._conn = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=512
        )
        db = Database(self._conn)
        db.execute("PRAGMA foreign_keys = ON")
        migrate(db)
        found = self._conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        self._tables = [name for (name,) in found if not name.startswith("_sqlite_migrations")]
        self._open: list[Database] = []
        self.empty = self.dump()

    def dump(self) -> Content:
        return {name: self._conn.execute(f"SELECT * FROM {name}").fetchall() for name in self._tables}

    def load(self, content: Content) -> None:
        """Hold this and nothing else."""
        self.crash()
        execute = self._conn.execute
        execute("PRAGMA foreign_keys = OFF")
        execute("BEGIN")
        for name, rows in content.items():
            execute(f"DELETE FROM {name}")
            if rows:
                marks = ",".join("?" * len(rows[0]))
                self._conn.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        execute("COMMIT")
        execute("PRAGMA foreign_keys = ON")

    def open(
        self, kind: type[Store], path: Path, clock: Clock, new_oid: Callable[[], str], topics: Topics
    ) -> Store:
        """As `Store.open` does it: the next epoch begins."""
        self.crash()
        db = Database(self._conn, recursive_triggers=False, execute_plugins=False)
        self._open.append(db)
        context = StoreContext("", 0, topics, new_oid)
        _claim_epoch(db, context)
        return kind(db, path, clock, context, Reads(db))

    def crash(self) -> None:
        """Undo what was not committed; whoever had the database open has it no more."""
        for db in self._open:
            db.conn = _GONE
        self._open.clear()
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")
