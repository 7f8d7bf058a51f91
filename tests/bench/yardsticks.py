"""What the measurements are held against: the bare bus and the bare database, in the same run."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from tests.bench.pump import INBOX
from tests.bench.report import Row
from tests.bench.setting import REALM, USER, Bench, child, folder, spread

COMMITS = 1_000
BATCH = 32


def echo(at: Path, port: int, size: int = 0) -> Any:
    """The bare echo responder on the manager's topics; its replies have at least `size` bytes."""
    return child(at, "echo", port=port, realm=REALM, user=USER, inbox=INBOX, size=size)


async def measure(bench: Bench) -> None:
    """Raw SQLite commits with the manager's pragmas: one by one, and in batches."""
    single: list[float] = []
    batched: list[float] = []
    for _ in range(bench.runs):
        single.append(_commits(1))
        batched.append(_commits(BATCH))
    bench.results.yardsticks += [
        Row(
            "yardsticks",
            "raw SQLite, WAL and synchronous=FULL, one row a commit",
            spread(single, unit=" commits/s"),
            runs=bench.runs,
        ),
        Row(
            "yardsticks",
            f"raw SQLite, {BATCH} rows a commit",
            spread(batched, unit=" rows/s"),
            runs=bench.runs,
        ),
    ]


def _commits(batch: int) -> float:
    """Rows per second."""
    with folder() as at:
        conn = sqlite3.connect(at / "raw.db", isolation_level=None)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                conn.execute(f"PRAGMA {pragma}")
            conn.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT UNIQUE, payload BLOB)")
            began = time.perf_counter()
            for number in range(COMMITS):
                conn.execute("BEGIN IMMEDIATE")
                for item in range(batch):
                    name = f"row-{number}-{item}"
                    conn.execute("INSERT INTO rows (name, payload) VALUES (?, ?)", (name, b"x" * 300))
                conn.execute("COMMIT")
            return COMMITS * batch / (time.perf_counter() - began)
        finally:
            conn.close()
