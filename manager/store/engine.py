"""Group commit: writes that wait together share one durable commit. Each has its own savepoint and is
answered only after the commit.

Statements run on the event loop; waiting for the disk or for another program's lock happens in a thread. A
writer thread would contend for the GIL on every statement, which costs more than the statements
(docs/decisions/0013).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from busbar.bus.clock import Clock
from busbar.bus.errors import BusError
from busbar.bus.topics import Topics
from msgspec import Struct, field

from ..log_throttle import LogThrottle
from . import files, sql
from .append_buffer import Position
from .backup import SEQUENCE, refuse_backup
from .changes import MONITOR, Cause, Changes
from .reads import Reads
from .sqlite import Database
from .tx import SAVEPOINT, StoreContext, Tx

T = TypeVar("T")
log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 4_096
"""Waiting writes; beyond it callers get `busy`."""
GROUP_LIMIT: Final = 128
"""Writes per commit."""
GROUP_S: Final = 0.01
"""A group takes no further write after so many seconds: it blocks the event loop."""
DELETE_LIMIT: Final = 2_000
"""Acknowledged outbox rows deleted in one commit."""
RETRY_MS: Final = 500
_BEGIN_JOB: Final = f"SAVEPOINT {SAVEPOINT}"
_END_JOB: Final = f"RELEASE {SAVEPOINT}"
CLOSE_S: Final = 10.0


class _Job(NamedTuple):
    fn: Callable[[Tx], object]
    done: Callable[[Any], None]
    cause: Cause


class _CommitGroup(Struct):
    """Writes that share one commit, and their outcomes. `deleted_outbox` are acknowledged outbox rows."""

    start: Position
    deleted_outbox: list[int]
    changes: Changes
    jobs: list[_Job] = field(default_factory=list)
    outcomes: list[object] = field(default_factory=list)


def _no_fault(point: str) -> None:
    """Replaced by tests to crash or fail the writer at `before_commit` or `after_commit`."""


def _unmeasured(seconds: float) -> None:
    """Replaced where metrics are served."""


class Store:
    """The manager's state: `submit` and `write` change it, `reads` queries it, `on_commit` reports changes.

    All methods belong to the event loop's thread. `write_error` says why the last commit failed, if it did;
    `commits` counts commits and is raised before callers are answered.
    """

    def __init__(
        self, db: Database, path: Path, clock: Clock, context: StoreContext, reads: Reads | None = None
    ) -> None:
        self.path = path
        self.reads = reads or Reads(files.connect(path, readonly=True))
        self.write_error: str | None = None
        self.commits = 0
        self.fault: Callable[[str], None] = _no_fault
        self.committed: Callable[[float], None] = _unmeasured
        """Told how many seconds the disk took for each commit, in the thread that waited; set for metrics."""
        self._db = db
        self._clock = clock
        self._context = context
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._scheduled = False
        self._write_lock = threading.Lock()
        """Held from a group's first statement to the end of its commit."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Callable[[Changes], None]] = []
        self._acknowledged: deque[int] = deque()
        self._throttle = LogThrottle(clock)
        """For a disk that can't be written, which each small write that still fits ends for a moment."""
        self._logged_failure = False
        self._thread = ThreadPoolExecutor(1, "busbar-store")

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock,
        new_oid: Callable[[], str],
        topics: Topics | None = None,
    ) -> Store:
        """Open or create the database, migrate its schema and raise the epoch. Blocks.

        Raises:
            StoreRefusedError: it is damaged, newer, locked, not private, or a backup that has not taken over.
        """
        db = files.open_writer(path)
        context = StoreContext("", 0, topics or Topics("default"), new_oid)
        try:
            refuse_backup(db, path)
            _claim_epoch(db, context)
            # Into the database file: losing the write-ahead log must not undo the store's id or its epoch.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except files.StoreRefusedError:
            db.close()
            raise
        except sqlite3.Error as error:
            db.close()
            raise files.StoreRefusedError(f"can't write to {path}: {error}") from error
        return cls(db, path, clock, context)

    @property
    def id(self) -> str:
        """The store's short random name, generated once."""
        return self._context.store

    @property
    def max_packet(self) -> int:
        """Bytes of the largest packet that the broker takes."""
        return self._context.max_packet()

    def limit_packets(self, max_packet: Callable[[], int]) -> None:
        """From now on ask this for `max_packet`; it may be called in any thread."""
        self._context.max_packet = max_packet

    @property
    def epoch(self) -> int:
        """The fencing token: raised by every `open`, before anything is published."""
        return self._context.epoch

    @property
    def topics(self) -> Topics:
        return self._context.topics

    @property
    def waiting(self) -> int:
        """Writes submitted and not yet answered."""
        return self._waiting

    def on_commit(self, listener: Callable[[Changes], None]) -> None:
        """Call `listener` on the loop after each commit that changed anything."""
        self._listeners.append(listener)

    def submit(
        self, fn: Callable[[Tx], T], done: Callable[[T | Exception], None], cause: Cause = MONITOR
    ) -> None:
        """Run `fn` soon; `done` gets its result or exception on the loop, after the commit.

        `fn` must depend only on its transaction and on values: it may run in another thread. Another
        program's lock is reported as BusError `busy`, any other failure of the commit as its sqlite3.Error.

        Raises:
            BusError: `busy`: too many writes are waiting, or the store is closing.
        """
        if self._closed or self._waiting >= QUEUE_LIMIT:
            raise _busy("the manager is shutting down" if self._closed else "too many changes are waiting")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._waiting += 1
        self._jobs.append(_Job(fn, done, cause))
        self._schedule()

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
        """The broker has acknowledged these outbox rows: delete them with one of the next commits."""
        self._acknowledged.extend(rows)

    @property
    def acknowledged(self) -> int:
        """Acknowledged outbox rows that are not deleted yet."""
        return len(self._acknowledged)

    def close(self) -> None:
        """Finish the waiting writes and close the file. Blocks for up to 10 s. Calls no `done` any more."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._write_lock.acquire(timeout=CLOSE_S):
                while self._jobs or self._acknowledged:
                    group = self._new_group()
                    self._write_when_unlocked(group)
                    if self.write_error is not None:
                        break
                self._db.close()
        except sqlite3.Error:
            log.exception("closing the database failed")
        self._thread.shutdown(wait=False)
        self.reads.db.close()

    # --- a group, from its first statement to its commit

    def _schedule(self) -> None:
        """Start the next group in the next iteration of the loop, with all writes submitted until then."""
        if self._jobs and not self._scheduled and not self._write_lock.locked() and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._next_group)

    def _next_group(self) -> None:
        self._scheduled = False
        if self._closed or not self._jobs or not self._write_lock.acquire(blocking=False):
            return
        self._write_group(self._new_group())

    def _new_group(self) -> _CommitGroup:
        rows = self._take_acknowledged()
        return _CommitGroup(self._context.appends.position(), rows, Changes(deleted_outbox=set(rows)))

    def _write_group(self, group: _CommitGroup) -> None:
        """Run the statements here and commit in the thread; all in the thread while it is locked."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._run_in_thread(lambda: self._write_when_unlocked(group), group)
            return
        try:
            self._run_statements(group)
        except Exception as error:
            self._close_group(group, error)
            self._write_lock.release()
            self._deliver(group)
            return
        self._run_in_thread(lambda: self._finish(group), group)

    def _run_in_thread(self, work: Callable[[], None], group: _CommitGroup) -> None:
        """Do blocking work in the thread, then deliver the outcomes on the loop."""

        def run() -> None:
            try:
                work()
            except Exception:
                log.exception("a group commit was interrupted")
            self._write_lock.release()
            try:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._deliver, group)
            except RuntimeError:
                log.info("the loop has ended: %d outcomes were not delivered", len(group.jobs))

        self._thread.submit(run)

    def _write_when_unlocked(self, group: _CommitGroup) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {files.BUSY_MS}")
        self._write_group_whole(group)
        self._db.execute("PRAGMA busy_timeout = 0")

    def _write_group_whole(self, group: _CommitGroup) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._run_statements(group)
        except Exception as error:
            self._take_waiting(group)
            self._close_group(group, error)
            return
        self._finish(group)

    def _run_statements(self, group: _CommitGroup) -> None:
        """All statements of the group. A write's exception is its outcome; a lost transaction is raised."""
        end = self._clock.monotonic() + GROUP_S
        if group.deleted_outbox:
            self._db.conn.executemany(sql.OUTBOX_DROP, [(row,) for row in group.deleted_outbox])
        while self._jobs and len(group.jobs) < GROUP_LIMIT:
            job = self._jobs.popleft()
            group.jobs.append(job)
            group.outcomes.append(self._run(job, group.changes))
            if self._clock.monotonic() > end:
                break
        self._context.appends.flush(self._db)
        for withdrawn in group.changes.withdrawn:
            self._db.execute(sql.OUTBOX_WITHDRAW, withdrawn)

    def _take_waiting(self, group: _CommitGroup) -> None:
        """Add the waiting writes to a failed group, so that they fail with it."""
        while self._jobs and len(group.jobs) < GROUP_LIMIT:
            group.jobs.append(self._jobs.popleft())

    def _finish(self, group: _CommitGroup) -> None:
        """Commit: blocks until the disk has synced."""
        error: Exception | None = None
        began = self._clock.monotonic()
        try:
            self.fault("before_commit")
            self._db.execute("COMMIT")
            self.commits += 1
            self.write_error = None
            if self._logged_failure:
                self._logged_failure = False
                log.info("%s can be written again", self.path)
        except Exception as raised:
            error = raised
        self.fault("after_commit")
        self._close_group(group, error)
        if error is None:
            _call(self.committed, self._clock.monotonic() - began)

    def _close_group(self, group: _CommitGroup, error: Exception | None) -> None:
        """Clear the append buffer; roll the group back where it failed."""
        if error is not None:
            self._context.appends.truncate(group.start)
            self._acknowledged.extendleft(reversed(group.deleted_outbox))
            failure = self._roll_back(error)
            group.outcomes, group.changes = [failure] * len(group.jobs), Changes()
        self._context.appends.clear()

    def _run(self, job: _Job, changes: Changes) -> object:
        """One write in its savepoint: its result, or the exception that rolled back this write alone."""
        tx = Tx(self._db, self._context, self._clock.time_ns(), job.cause)
        start = self._context.appends.position()
        self._db.conn.execute(_BEGIN_JOB)
        try:
            result = job.fn(tx)
        except Exception as error:
            if not self._db.conn.in_transaction or files.disk_failure(error):
                raise  # a full disk or an I/O error, which mostly has rolled back the whole group
            self._context.appends.truncate(start)
            self._db.execute(f"ROLLBACK TO {SAVEPOINT}")
            self._db.execute(_END_JOB)
            return error
        self._db.conn.execute(_END_JOB)
        changes.merge(tx.changes)
        return result

    def _take_acknowledged(self) -> list[int]:
        count = min(len(self._acknowledged), DELETE_LIMIT)
        return [self._acknowledged.popleft() for _ in range(count)]

    def _roll_back(self, error: Exception) -> Exception:
        """Roll the group back, keep the reason, and return the exception for its callers."""
        try:
            self._db.rollback()
        except sqlite3.Error:
            log.exception("rolling back failed")
        if files.is_locked(error):
            self.write_error = "the database is locked by another program"
            return _busy(self.write_error)
        self.write_error = f"the database can't be written: {error}"
        failure = files.disk_failure(error)
        if failure is None:
            log.error("a group commit failed", exc_info=error)
        elif self._throttle.allows(failure):
            self._logged_failure = True
            log.error("%s can't be written: %s; changes are refused until it can be", self.path, error)
        return error

    # --- outcomes

    def _deliver(self, group: _CommitGroup) -> None:
        self._waiting -= len(group.jobs)
        self._schedule()
        if group.changes:
            for listener in self._listeners:
                _call(listener, group.changes)
        for job, outcome in zip(group.jobs, group.outcomes, strict=True):
            _call(job.done, outcome)


def _call(fn: Callable[[T], None], value: T) -> None:
    try:
        fn(value)
    except Exception:
        log.exception("a callback after a commit failed")


def _busy(detail: str) -> BusError:
    return BusError("busy", detail, retry_after_ms=RETRY_MS)


def _claim_epoch(db: Database, context: StoreContext) -> None:
    """Read or generate the store's id, raise the epoch, read the last sequence."""
    db.execute("BEGIN IMMEDIATE")
    try:
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        context.store = meta.get("store") or "s" + context.new_oid().replace("-", "")[-7:]
        context.epoch = int(meta.get("epoch", 0)) + 1
        last = int(db.execute(sql.LAST_SEQUENCE).fetchall()[0][0])
        context.appends.sequence = max(last, int(meta.get(SEQUENCE, 0)))
        context.appends.outbox_id = int(db.execute(sql.OUTBOX_LAST).fetchall()[0][0])
        for key, value in (("store", context.store), ("epoch", str(context.epoch))):
            db.execute(sql.META_SET, (key, value))
    except BaseException:
        db.rollback()
        raise
    db.execute("COMMIT")
