"""A copy of the state in memory, to try changes on: nothing that is done to it is ever stored or sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .reads import Reads
from .sqlite import Database
from .tx import SAVEPOINT

TABLES: Final = (
    "meta", "principals", "former_principals", "nodes", "clusters", "members", "workergroups",
    "group_revisions", "workers", "runtime_schemas", "node_schemas",
)  # fmt: skip
"""What decisions are made from; requests, audit, events and the outbox are not."""


class Scratch(Reads):
    """Queries on the copy. It is one transaction from its beginning, whose changes are seen at once."""

    @contextmanager
    def consistent(self) -> Iterator[Reads]:
        yield self


def copy_of(reads: Reads) -> Scratch:
    """The present state. The caller closes `db`."""
    db = Database(memory=True)
    db.conn.isolation_level = None
    with reads.consistent():
        for table in TABLES:
            where = (table,)
            text = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC"
            for (statement,) in reads.db.execute(text, where).fetchall():
                db.execute(statement)
            rows = reads.db.execute(f"SELECT * FROM {table}").fetchall()
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                db.conn.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("BEGIN")
    db.execute(f"SAVEPOINT {SAVEPOINT}")
    return Scratch(db)
