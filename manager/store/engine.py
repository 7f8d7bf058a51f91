"""One thread owns the write connection. Requests waiting together share one durable commit; each has its own
savepoint, and each is answered only after the commit.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sqlite_utils import Database

from bus.clock import Clock
from bus.errors import BusError
from bus.topics import Topics
from manager.store import files, sql
from manager.store.backup import SEQUENCE, refuse_backup
from manager.store.changes import MONITOR, Cause, Changes
from manager.store.reads import Reads
from manager.store.tx import Frame, Tx

T = TypeVar("T")
log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 4_096
"""Waiting writes; beyond it callers are told `busy`."""
GROUP_LIMIT: Final = 128
"""Writes that share one commit: some 20 ms of work, so that nobody waits long for the commit."""
FORGET_LIMIT: Final = 2_000
"""Acknowledged outbox rows deleted in one commit."""
RETRY_MS: Final = 500
CLOSE_S: Final = 10.0


class _Job(NamedTuple):
    fn: Callable[[Tx], Any]
    done: Callable[[Any], None]
    cause: Cause


def _no_fault(point: str) -> None:
    """Where tests let the writer die or fail: `before_commit`, `after_commit`."""


class Store:
    """The manager's state: `submit` and `write` change it, `reads` asks it, `on_commit` tells what changed.

    All methods belong to the event loop's thread. `trouble` says why the last commit failed, if it did.
    """

    def __init__(
        self, db: Database, path: Path, clock: Clock, frame: Frame, reads: Reads | None = None
    ) -> None:
        self.path = path
        self.reads = reads or Reads(files.connect(path, readonly=True))
        self.trouble: str | None = None
        self.fault: Callable[[str], None] = _no_fault
        self._db = db
        self._clock = clock
        self._frame = frame
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Callable[[Changes], None]] = []
        self._acknowledged: deque[int] = deque()
        self._thread = self._start()

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock,
        new_oid: Callable[[], str],
        topics: Topics | None = None,
    ) -> Store:
        """Open or make the database, bring its schema up to date and raise the epoch. Blocks.

        Raises:
            StoreRefusedError: it is damaged, newer, locked, not private, or a backup that may not speak yet.
        """
        db = files.open_writer(path)
        frame = Frame("", 0, topics or Topics("default"), new_oid)
        try:
            refuse_backup(db, path)
            _take_office(db, frame)
            # Into the file itself: were the log lost or cut, neither store nor epoch could go back.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except files.StoreRefusedError:
            db.close()
            raise
        except sqlite3.Error as error:
            db.close()
            raise files.StoreRefusedError(f"can't write to {path}: {error}") from error
        return cls(db, path, clock, frame)

    @property
    def id(self) -> str:
        """The store's short random name, made once."""
        return self._frame.store

    @property
    def epoch(self) -> int:
        """Raised at every opening, before anything is published."""
        return self._frame.epoch

    @property
    def topics(self) -> Topics:
        return self._frame.topics

    @property
    def waiting(self) -> int:
        """Writes submitted and not yet answered."""
        return self._waiting

    def on_commit(self, listener: Callable[[Changes], None]) -> None:
        """Have `listener` called on the loop after each commit that changed anything."""
        self._listeners.append(listener)

    def submit(
        self, fn: Callable[[Tx], T], done: Callable[[T | Exception], None], cause: Cause = MONITOR
    ) -> None:
        """Run `fn` in the writer's thread; `done` gets its result or exception on the loop, after the commit.

        `fn` must depend on nothing but its transaction and values: it runs in another thread. Another
        program's lock comes back as BusError `busy`; any other failure of the commit as the sqlite3.Error.

        Raises:
            BusError: `busy`: too many writes are waiting, or the store is closing.
        """
        if self._closed or self._waiting >= QUEUE_LIMIT:
            raise _busy("the manager is shutting down" if self._closed else "too many changes are waiting")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._waiting += 1
        self._queue.put(_Job(fn, done, cause))

    async def write(self, fn: Callable[[Tx], T], cause: Cause = MONITOR) -> T:
        """As `submit`, returning the result or raising the exception."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(outcome: T | Exception) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.submit(fn, done, cause)
        return await future

    def acknowledge(self, rows: Iterable[int]) -> None:
        """The broker has taken these outbox rows over: delete them with one of the next commits."""
        self._acknowledged.extend(rows)

    @property
    def acknowledged(self) -> int:
        """Outbox rows that wait for a commit to be deleted."""
        return len(self._acknowledged)

    def close(self) -> None:
        """Finish the waiting writes and close the file. Blocks for up to 10 s. Answers no longer arrive."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        self.reads.db.close()

    # --- the writer's thread

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._write_forever, name="busbar-store", daemon=True)
        thread.start()
        return thread

    def _write_forever(self) -> None:
        while jobs := self._next_group():
            self._commit_group(jobs)
        try:
            if self._acknowledged:
                self._commit_group([])
            self._db.close()
        except sqlite3.Error:
            log.exception("closing the database failed")

    def _next_group(self) -> list[_Job]:
        """Wait for one write, and take along those that wait behind it; empty when it is time to end."""
        job = self._queue.get()
        jobs: list[_Job] = []
        while job is not None:
            jobs.append(job)
            if len(jobs) >= GROUP_LIMIT:
                return jobs
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs
        if jobs:
            self._queue.put(None)
        return jobs

    def _commit_group(self, jobs: list[_Job]) -> None:
        """One transaction for all: each outcome is told after the commit, or the failure to everybody."""
        sequence, forgetting = self._frame.sequence, self._to_forget()
        changes = Changes(forgotten=set(forgetting))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.conn.executemany(sql.OUTBOX_DROP, [(row,) for row in forgetting])
            outcomes = [self._run(job, changes) for job in jobs]
            self.fault("before_commit")
            self._db.execute("COMMIT")
            self.trouble = None
        except Exception as error:
            self._frame.sequence = sequence
            self._acknowledged.extendleft(reversed(forgetting))
            failure = self._failed(error)
            outcomes, changes = [failure] * len(jobs), Changes()
        self.fault("after_commit")
        self._tell(jobs, outcomes, changes)

    def _run(self, job: _Job, changes: Changes) -> Any:
        """One write in its savepoint: its result, or the exception that undid it (it alone)."""
        tx = Tx(self._db, self._frame, self._clock.time_ns(), job.cause)
        sequence = self._frame.sequence
        self._db.execute("SAVEPOINT job")
        try:
            result = job.fn(tx)
        except Exception as error:
            if not self._db.conn.in_transaction:
                raise  # a full disk or an I/O error has undone the whole group
            self._frame.sequence = sequence
            self._db.execute("ROLLBACK TO job")
            self._db.execute("RELEASE job")
            return error
        self._db.execute("RELEASE job")
        changes.merge(tx.changes)
        return result

    def _to_forget(self) -> list[int]:
        count = min(len(self._acknowledged), FORGET_LIMIT)
        return [self._acknowledged.popleft() for _ in range(count)]

    def _failed(self, error: Exception) -> Exception:
        """Undo the group, keep the reason, and say what its callers are told."""
        try:
            self._db.rollback()
        except sqlite3.Error:
            log.exception("rolling back failed")
        if files.is_locked(error):
            self.trouble = "the database is locked by another program"
            return _busy(self.trouble)
        self.trouble = f"the database can't be written: {error}"
        log.error("a group of writes failed", exc_info=error)
        return error

    def _tell(self, jobs: list[_Job], outcomes: list[Any], changes: Changes) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver, jobs, outcomes, changes)
        except RuntimeError:
            log.info("%d answers have no loop to go to", len(jobs))

    # --- the loop's thread

    def _deliver(self, jobs: list[_Job], outcomes: list[Any], changes: Changes) -> None:
        self._waiting -= len(jobs)
        if changes:
            for listener in self._listeners:
                _call(listener, changes)
        for job, outcome in zip(jobs, outcomes, strict=True):
            _call(job.done, outcome)


def _call(fn: Callable[[Any], None], value: Any) -> None:
    try:
        fn(value)
    except Exception:
        log.exception("a callback after a commit failed")


def _busy(detail: str) -> BusError:
    return BusError("busy", detail, retry_after_ms=RETRY_MS)


def _take_office(db: Database, frame: Frame) -> None:
    """Read or make the store's id, raise the epoch, find the last sequence."""
    db.execute("BEGIN IMMEDIATE")
    try:
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        frame.store = meta.get("store") or "s" + frame.new_oid().replace("-", "")[:7]
        frame.epoch = int(meta.get("epoch", 0)) + 1
        last = int(db.execute(sql.LAST_SEQUENCE).fetchall()[0][0])
        frame.sequence = max(last, int(meta.get(SEQUENCE, 0)))
        for key, value in (("store", frame.store), ("epoch", str(frame.epoch))):
            db.execute(sql.META_SET, (key, value))
    except BaseException:
        db.rollback()
        raise
    db.execute("COMMIT")
