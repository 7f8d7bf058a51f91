"""Writes that wait together share one durable commit; each has its own savepoint, and each is answered only
after the commit.

The statements run on the event loop, the waiting (for the disk, and for another program's lock) in a thread:
a writer that runs its statements beside the loop hands the interpreter's lock to and fro at each of them,
which cost more than the statements (docs/decisions/0013).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from busbar.bus.clock import Clock
from busbar.bus.errors import BusError
from busbar.bus.topics import Topics

from . import files, sql
from .append_buffer import Mark
from .backup import SEQUENCE, refuse_backup
from .changes import MONITOR, Cause, Changes
from .reads import Reads
from .sqlite import Database
from .tx import SAVEPOINT, Frame, Tx

T = TypeVar("T")
log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 4_096
"""Waiting writes; beyond it callers are told `busy`."""
GROUP_LIMIT: Final = 128
"""Writes that share one commit …"""
GROUP_S: Final = 0.01
"""… and when to stop taking more of them along: so long is the loop held at most, but for a single write."""
FORGET_LIMIT: Final = 2_000
"""Acknowledged outbox rows deleted in one commit."""
RETRY_MS: Final = 500
CLOSE_S: Final = 10.0


class _Job(NamedTuple):
    fn: Callable[[Tx], Any]
    done: Callable[[Any], None]
    cause: Cause


@dataclass(slots=True)
class _Group:
    """Writes that share one commit, and what becomes of them. `forgetting` are acknowledged outbox rows."""

    mark: Mark
    forgetting: list[int]
    changes: Changes
    jobs: list[_Job] = field(default_factory=list)
    outcomes: list[Any] = field(default_factory=list)


def _no_fault(point: str) -> None:
    """Where tests let the writer die or fail: `before_commit`, `after_commit`."""


class Store:
    """The manager's state: `submit` and `write` change it, `reads` asks it, `on_commit` tells what changed.

    All methods belong to the event loop's thread. `trouble` says why the last commit failed, if it did;
    `commits` counts them, before anybody is answered.
    """

    def __init__(
        self, db: Database, path: Path, clock: Clock, frame: Frame, reads: Reads | None = None
    ) -> None:
        self.path = path
        self.reads = reads or Reads(files.connect(path, readonly=True))
        self.trouble: str | None = None
        self.commits = 0
        self.fault: Callable[[str], None] = _no_fault
        self._db = db
        self._clock = clock
        self._frame = frame
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._due = False
        self._office = threading.Lock()
        """Held from a group's first statement to the end of its commit; never across a turn of the loop."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Callable[[Changes], None]] = []
        self._acknowledged: deque[int] = deque()
        self._thread = ThreadPoolExecutor(1, "busbar-store")

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
        """Run `fn` soon; `done` gets its result or exception on the loop, after the commit.

        `fn` must depend on nothing but its transaction and values: it may run in another thread. Another
        program's lock comes back as BusError `busy`; any other failure of the commit as the sqlite3.Error.

        Raises:
            BusError: `busy`: too many writes are waiting, or the store is closing.
        """
        if self._closed or self._waiting >= QUEUE_LIMIT:
            raise _busy("the manager is shutting down" if self._closed else "too many changes are waiting")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._waiting += 1
        self._jobs.append(_Job(fn, done, cause))
        self._kick()

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
        try:
            if self._office.acquire(timeout=CLOSE_S):
                while self._jobs or self._acknowledged:
                    group = self._new_group()
                    self._locked_out(group)
                    if self.trouble is not None:
                        break
                self._db.close()
        except sqlite3.Error:
            log.exception("closing the database failed")
        self._thread.shutdown(wait=False)
        self.reads.db.close()

    # --- a group, from its first statement to its commit

    def _kick(self) -> None:
        """Have the next group begin in the next turn of the loop, with all that comes in until then."""
        if self._jobs and not self._due and not self._office.locked() and self._loop is not None:
            self._due = True
            self._loop.call_soon(self._next_group)

    def _next_group(self) -> None:
        self._due = False
        if self._closed or not self._jobs or not self._office.acquire(blocking=False):
            return
        self._write_group(self._new_group())

    def _new_group(self) -> _Group:
        forgetting = self._to_forget()
        return _Group(self._frame.added.mark(), forgetting, Changes(forgotten=set(forgetting)))

    def _write_group(self, group: _Group) -> None:
        """Run the statements here and commit in the thread; all in the thread while others hold the lock."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._aside(lambda: self._locked_out(group), group)
            return
        try:
            self._perform(group)
        except Exception as error:
            self._end(group, error)
            self._office.release()
            self._settle(group)
            return
        self._aside(lambda: self._finish(group), group)

    def _aside(self, work: Callable[[], None], group: _Group) -> None:
        """Do what waits in the thread, then tell."""

        def run() -> None:
            try:
                work()
            except Exception:
                log.exception("a group of writes was cut off")
            self._office.release()
            try:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._settle, group)
            except RuntimeError:
                log.info("%d answers have no loop to go to", len(group.jobs))

        self._thread.submit(run)

    def _locked_out(self, group: _Group) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {files.BUSY_MS}")
        self._whole(group)
        self._db.execute("PRAGMA busy_timeout = 0")

    def _whole(self, group: _Group) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._perform(group)
        except Exception as error:
            self._take_along(group)
            self._end(group, error)
            return
        self._finish(group)

    def _perform(self, group: _Group) -> None:
        """All statements of the group; what a write raises is its outcome, a lost transaction is raised."""
        end = self._clock.monotonic() + GROUP_S
        if group.forgetting:
            self._db.conn.executemany(sql.OUTBOX_DROP, [(row,) for row in group.forgetting])
        while self._jobs and len(group.jobs) < GROUP_LIMIT:
            job = self._jobs.popleft()
            group.jobs.append(job)
            group.outcomes.append(self._run(job, group.changes))
            if self._clock.monotonic() > end:
                break
        self._frame.added.flush(self._db)

    def _take_along(self, group: _Group) -> None:
        """Those that would have been in the group share its failure."""
        while self._jobs and len(group.jobs) < GROUP_LIMIT:
            group.jobs.append(self._jobs.popleft())

    def _finish(self, group: _Group) -> None:
        """Commit: what lasts while the disk writes."""
        error: Exception | None = None
        try:
            self.fault("before_commit")
            self._db.execute("COMMIT")
            self.commits += 1
            self.trouble = None
        except Exception as raised:
            error = raised
        self.fault("after_commit")
        self._end(group, error)

    def _end(self, group: _Group, error: Exception | None) -> None:
        """Undo the group where it failed."""
        if error is not None:
            self._frame.added.cut(group.mark)
            self._acknowledged.extendleft(reversed(group.forgetting))
            failure = self._failed(error)
            group.outcomes, group.changes = [failure] * len(group.jobs), Changes()
        self._frame.added.clear()

    def _run(self, job: _Job, changes: Changes) -> Any:
        """One write in its savepoint: its result, or the exception that undid it (it alone)."""
        tx = Tx(self._db, self._frame, self._clock.time_ns(), job.cause)
        mark = self._frame.added.mark()
        self._db.execute(f"SAVEPOINT {SAVEPOINT}")
        try:
            result = job.fn(tx)
        except Exception as error:
            if not self._db.conn.in_transaction:
                raise  # a full disk or an I/O error has undone the whole group
            self._frame.added.cut(mark)
            self._db.execute(f"ROLLBACK TO {SAVEPOINT}")
            self._db.execute(f"RELEASE {SAVEPOINT}")
            return error
        self._db.execute(f"RELEASE {SAVEPOINT}")
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

    # --- what became of it

    def _settle(self, group: _Group) -> None:
        self._waiting -= len(group.jobs)
        self._kick()
        if group.changes:
            for listener in self._listeners:
                _call(listener, group.changes)
        for job, outcome in zip(group.jobs, group.outcomes, strict=True):
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
        frame.added.sequence = max(last, int(meta.get(SEQUENCE, 0)))
        frame.added.outbox_id = int(db.execute(sql.OUTBOX_LAST).fetchall()[0][0])
        for key, value in (("store", frame.store), ("epoch", str(frame.epoch))):
            db.execute(sql.META_SET, (key, value))
    except BaseException:
        db.rollback()
        raise
    db.execute("COMMIT")
