"""A copy of the state in memory, to try changes on: nothing that is done to it is ever stored or sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .files import READ_BUSY_MS
from .reads import Reads
from .sqlite import Database
from .tx import SAVEPOINT

TABLES: Final = (
    "meta", "principals", "former_principals", "nodes", "clusters", "members", "workergroups",
    "group_revisions", "workers", "runtime_schemas", "node_schemas",
)  # fmt: skip
"""What decisions are made from; requests, audit, events and the outbox are not."""
_SCHEMA: Final = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC"


class Scratch(Reads):
    """Queries on the copy. It is one transaction from its beginning, whose changes are seen at once."""

    @contextmanager
    def consistent(self) -> Iterator[Reads]:
        yield self

    def undo(self) -> None:
        """As it was copied."""
        self.db.execute(f"ROLLBACK TO {SAVEPOINT}")


def copy_of(reads: Reads) -> Scratch:
    """The present state. The caller closes `db`."""
    db = Database(memory=True)
    db.conn.isolation_level = None
    with reads.consistent():
        for table in TABLES:
            for (statement,) in reads.db.execute(_SCHEMA, (table,)).fetchall():
                db.execute(statement)
    if reads.file:
        _copy_file(db, reads.file)
    else:
        _copy_rows(db, reads)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("BEGIN")
    db.execute(f"SAVEPOINT {SAVEPOINT}")
    return Scratch(db)


def _copy_file(db: Database, file: str) -> None:
    """SQLite copies the rows itself, eight times as fast as through Python: the event loop waits for it."""
    db.execute(f"PRAGMA busy_timeout = {READ_BUSY_MS}")
    db.execute("ATTACH ? AS source", (file,))
    db.execute("BEGIN")
    for table in TABLES:
        db.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")
    db.execute("COMMIT")
    db.execute("DETACH source")


def _copy_rows(db: Database, reads: Reads) -> None:
    """Of a store that is in memory, as in simulations."""
    with reads.consistent():
        for table in TABLES:
            rows = reads.db.execute(f"SELECT * FROM {table}").fetchall()
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                db.conn.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
