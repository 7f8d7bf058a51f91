"""Whether a database has exactly our schema: a foreign trigger or view would run with our statements."""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Final

from .migrations import migrations
from .sqlite import Database

_OURS: Final = frozenset({migrations.migrations_table, "sqlite_sequence"})
"""Tables that libraries make, whose text differs with their version; no trigger may be on them."""
_STATISTICS: Final = "sqlite_stat"
SHOWN: Final = 4

Object = tuple[str, str, str, str]
"""Type, name, table, and definition in one line."""


def unknown_steps(db: Database) -> str:
    """The applied schema steps that this version does not have, as text."""
    return ", ".join(sorted({step.name for step in migrations.applied(db)} - _known_steps()))


def foreign_objects(db: Database) -> str:
    """What the database has beyond its applied steps, or lacks, or has otherwise; empty when nothing."""
    steps = tuple(step.name for step in migrations.applied(db))
    found, wanted = _objects(db), _wanted(steps)
    more = [f"{kind} '{name}' on '{table}'" for kind, name, table, _ in sorted(found - wanted)]
    less = [f"{kind} '{name}' is missing" for kind, name, *_ in sorted(wanted - found)]
    text = more + [each for each in less if not more]
    rest = len(text) - SHOWN
    return ", ".join(text[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _objects(db: Database) -> set[Object]:
    rows = db.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_master").fetchall()
    return {
        (kind, name, table, " ".join((text or "").split()))
        for kind, name, table, text in rows
        if not (kind in ("table", "index") and (table in _OURS or table.startswith(_STATISTICS)))
    }


@cache
def _known_steps() -> frozenset[str]:
    db = Database(memory=True)
    try:
        return frozenset(step.name for step in migrations.pending(db))
    finally:
        db.close()


@cache
def _wanted(steps: tuple[str, ...]) -> frozenset[Object]:
    """The objects of a database to which just these steps were applied, in this order."""
    db = Database(memory=True)
    try:
        ours = {step.name: step for step in migrations.pending(db)}
        for name in steps:
            ours[name].fn(db)
        return frozenset(_objects(db))
    except sqlite3.DatabaseError:
        return frozenset()  # no order in which ours were ever applied
    finally:
        db.close()
