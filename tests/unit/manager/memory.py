"""A transaction on a store in memory, whose schema is made once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from busbar.bus.topics import Topics
from busbar.manager.store import Tx
from busbar.manager.store.migrations import migrations
from busbar.manager.store.tx import StoreContext
from sqlite_utils import Database

TOPICS = Topics("lab")
_stores: list[Database] = []


@contextmanager
def transaction() -> Iterator[Tx]:
    """One on an empty store, rolled back at the end; new oids count from one."""
    if not _stores:
        db = Database(memory=True)
        migrations.apply(db)
        db.conn.isolation_level = None
        _stores.append(db)
    (db,) = _stores
    ids = count(1)
    db.execute("BEGIN")
    db.execute("SAVEPOINT job")
    try:
        yield Tx(db, StoreContext("s1", 3, TOPICS, lambda: f"00000000-0000-4000-8000-{next(ids):012d}"), 5)
    finally:
        db.execute("ROLLBACK")
