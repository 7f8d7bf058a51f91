"""A database that was made or changed by somebody else runs nothing of theirs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from busbar.manager.leader.state_folder import backup, database, restore
from busbar.manager.store import Store, StoreRefusedError, check, files
from busbar.manager.store.migrations import migrations

from tests.integration.manager.fixtures import CLOCK, new_id, open_store

WHEN = "2026-11-23T01:02:03Z"
FOREIGN = {
    "trigger": "CREATE TRIGGER evil AFTER INSERT ON meta BEGIN UPDATE principals SET role = 'owner'; END",
    "trigger on our bookkeeping": "CREATE TRIGGER evil AFTER INSERT ON _sqlite_migrations BEGIN"
    " DELETE FROM principals; END",
    "view": "CREATE VIEW evil AS SELECT * FROM principals",
    "table": "CREATE TABLE evil (x)",
    "index": "CREATE INDEX evil ON principals(role)",
    "virtual table": "CREATE VIRTUAL TABLE evil USING fts5(x)",
    "column": "ALTER TABLE principals ADD COLUMN evil TEXT",
    "generated column": "ALTER TABLE nodes ADD COLUMN evil TEXT AS (hex(zeroblob(1000000)))",
    "missing table": "DROP TABLE audit",
    "missing index": "DROP INDEX requests_created",
    "view in place of a table": "ALTER TABLE refusals RENAME TO r; CREATE VIEW refusals AS SELECT * FROM r",
}


def planted(path: Path, statements: str) -> None:
    with sqlite3.connect(path) as conn:
        conn.executescript(statements)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.fault(89, "P L")
def test_a_foreign_schema_is_refused_before_anything_runs(tmp_path: Path, kind: str) -> None:
    state, copy, target = tmp_path / "manager", tmp_path / "copy", tmp_path / "target"
    open_store(state).close()
    open_store(target).close()
    backup(state, copy, WHEN)
    planted(copy, FOREIGN[kind])
    before = copy.read_bytes()
    assert any("schema" in fault for fault in check(copy))
    for folder in (target, tmp_path / "new"):
        with pytest.raises(StoreRefusedError, match="schema"):
            restore(folder, copy, WHEN)
    assert copy.read_bytes() == before and not database(tmp_path / "new").exists()
    open_store(target).close()
    planted(database(state), FOREIGN[kind])
    with pytest.raises(StoreRefusedError, match="schema"):
        Store.open(database(state), CLOCK, new_id)
    with pytest.raises(StoreRefusedError, match="schema"):
        backup(state, tmp_path / "second", WHEN)


def names() -> list[str]:
    db = files.Database(memory=True)
    found = [step.name for step in migrations.pending(db)]
    db.close()
    return found


@pytest.mark.parametrize("stop", names()[1:])
@pytest.mark.fault(89, "P L")
def test_every_older_schema_of_ours_is_ours(tmp_path: Path, stop: str) -> None:
    """Each step that an older version stopped at, restored and then migrated by the manager."""
    state, copy, target = tmp_path / "manager", tmp_path / "copy", tmp_path / "target"
    state.mkdir(mode=0o700)
    db = files.connect(database(state))
    migrations.apply(db, stop_before=stop)
    db.close()
    backup(state, copy, WHEN)
    restore(target, copy, WHEN)
    assert check(database(target)) != []  # steps not applied
    Store.open(database(state), CLOCK, new_id).close()
    assert check(database(state)) == []
