"""The output of many workers as one stream: it follows them from node to node, and tells what is missing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from msgspec import Struct, field

from ..clock import Clock, wait_or_sleep
from ..connection.link import Message
from ..decode import read
from ..errors import BusError, BusOfflineError, CallTimeoutError
from ..messages import LogChunk
from ..topics import Topics
from .statuses import StatusUpdate, StatusWatch
from .subscriptions import Subscriptions, Watch

LEASE_MS: Final = 60_000
"""How long a node keeps sending without being asked again."""
RENEW_S: Final = 25.0
"""Seconds after which it is asked again, which also tells whether something was lost on the way."""
ANSWER_S: Final = 2.0
"""Seconds in which a node answers; then it is asked again."""
TRIES: Final = 5
"""Requests without an answer, after which that is told."""
FRESH_S: Final = 5.0
"""Of a worker that comes to a node, output of so many seconds before is new too."""
FRESH_LINES: Final = 1000
"""Lines of it."""
ITEMS: Final = 10_000
"""Lines that were not read yet; beyond it the oldest are dropped, and told as a gap."""
ABREAST: Final = 16
"""Requests under way at once."""
NODES: Final = 4
"""Nodes of one worker whose last lines are still taken, after it has moved."""
_TOLD: Final = frozenset({"UNKNOWN", "PENDING", "BACKOFF", "STOPPED"})
"""Statuses in which a worker is silent: told with their reason."""


class LogLine(Struct, frozen=True):
    """A line of a worker's output. `worker` is `cluster/name`."""

    worker: str
    node: str
    text: str


class LogNote(Struct, frozen=True):
    """Something between the lines of a worker, in words: a move, a stop, or a gap (`missing`).

    `lines` is how many lines the gap has at least; None: it is not known.
    """

    worker: str
    node: str | None
    text: str
    missing: bool = False
    lines: int | None = None


LogItem = LogLine | LogNote


class Wanted(Struct, frozen=True):
    """A request to the manager for a worker's output."""

    oid: str
    lines: int
    since_ms: int | None
    reader: str


Ask = Callable[[Wanted], Awaitable[str]]
"""Sends it; returns the node that the worker is on."""


class _Stream(Struct):
    """What comes from one node for one worker."""

    stream: str | None = None
    number: int = 0
    answered: bool = False


class _Followed(Struct):
    """One worker."""

    name: str
    oid: str
    node: str | None
    lines: int
    """Past lines that are wanted still."""
    since: float | None
    """Only those written after this moment, on the monotonic clock."""
    due: float
    """When to ask (again)."""
    tries: int = 0
    unasked: int = 0
    """Requests in a row that did not come to the node."""
    status: str = ""
    streams: dict[str, _Stream] = field(default_factory=dict)


class LogWatch(Watch[LogItem]):
    """Lines of each worker in their order, and notes. `async with` ends it; nothing else does.

    Args:
        reader: a name that no other reader has.
        workers: those to begin with: `cluster/name`, oid, node.
        statuses: the statuses of workers; those that `wants` accepts are followed too. None: past lines
            alone; the iteration ends when each node has answered, or can't.
        lines: past lines of each worker; with `since_ms` only those of so many milliseconds.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        topics: Topics,
        clock: Clock,
        ask: Ask,
        reader: str,
        workers: Iterable[tuple[str, str, str | None]],
        statuses: StatusWatch | None,
        wants: Callable[[StatusUpdate], bool],
        lines: int,
        since_ms: int | None,
    ) -> None:
        self._topics, self._clock, self._ask, self._reader = topics, clock, ask, reader
        self._statuses, self._wants = statuses, wants
        self._items: deque[LogItem] = deque()
        self._lost: dict[str, int] = {}
        """Lines that were dropped unread, by worker."""
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: Exception | None = None
        now = clock.monotonic()
        since = None if since_ms is None else now - since_ms / 1000
        self._workers = {name: _Followed(name, oid, node, lines, since, now) for name, oid, node in workers}
        only = next(iter(self._workers)).partition("/")[2] if len(self._workers) == 1 else "+"
        narrow = only if statuses is None else "+"
        super().__init__(subscriptions, topics.all_logs("+", narrow), 0)

    def close(self) -> None:
        """End the subscriptions and the iteration."""
        for task in self._tasks:
            task.cancel()
        if self._statuses is not None:
            self._statuses.close()
        super().close()

    # --- reading

    def take(self) -> LogItem | None:
        """The next item; first the gap before it, where lines were dropped."""
        if not self._items:
            return None
        lost = self._lost.pop(self._items[0].worker, 0)
        if lost:
            first = self._items[0]
            text = f"{_count(lost)} not shown: they came faster than they were read"
            return LogNote(first.worker, first.node, text, True, lost)
        return self._items.popleft()

    async def __anext__(self) -> LogItem:
        if not self._tasks and not self._closed:
            loops = [self._keep_asking()] + ([self._keep_watching()] if self._statuses else [])
            self._tasks = [asyncio.create_task(loop, name="follow logs") for loop in loops]
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            if self._failure is not None:
                raise self._failure from None
            raise

    def _add(self, item: LogItem) -> None:
        if len(self._items) >= ITEMS:
            oldest = self._items.popleft()
            lost = 1 if isinstance(oldest, LogLine) else (oldest.lines or 1) if oldest.missing else 0
            self._lost[oldest.worker] = self._lost.get(oldest.worker, 0) + lost
        self._items.append(item)
        self._news.set()

    def _gap(self, worker: _Followed, node: str, text: str, lines: int | None = None) -> None:
        self._add(LogNote(worker.name, node, text, True, lines))

    # --- chunks

    def note(self, message: Message) -> None:
        """Lines have come."""
        found = self._topics.parse_log(message.topic)
        try:
            chunk = read(message.payload, LogChunk)
        except BusError:
            return
        worker = self._workers.get(f"{chunk.cluster}/{chunk.worker}")
        if found is None or worker is None or chunk.reader not in (None, self._reader):
            return
        node = found[0]
        stream = worker.streams.get(node)
        if stream is None:
            return
        if chunk.reader is not None:
            self._answered(worker, node, stream, chunk)
        elif chunk.stream is None:  # of an agent that does not count
            stream.answered = True
        elif not stream.answered or (chunk.stream == stream.stream and chunk.number <= stream.number):
            return
        else:
            self._check_number(worker, node, stream, chunk, chunk.number - 1)
        if chunk.dropped:
            self._gap(worker, node, f"at least {_count(chunk.dropped)} missing", chunk.dropped)
        for line in chunk.lines:
            self._add(LogLine(worker.name, node, line))
        self._wake.set()

    def _answered(self, worker: _Followed, node: str, stream: _Stream, chunk: LogChunk) -> None:
        if stream.answered:
            self._check_number(worker, node, stream, chunk, chunk.number)
        stream.stream, stream.number, stream.answered = chunk.stream, chunk.number, True
        if node == worker.node:
            worker.lines, worker.since, worker.tries = 0, None, 0
            worker.due = self._clock.monotonic() + RENEW_S

    def _check_number(
        self, worker: _Followed, node: str, stream: _Stream, chunk: LogChunk, before: int
    ) -> None:
        """Tell a gap unless the last chunk that came is the one before."""
        if chunk.stream != stream.stream:
            self._gap(worker, node, f"lines may be missing: {node} had stopped sending")
        elif before != stream.number:
            lost = _count(before - stream.number, "message")
            self._gap(worker, node, f"lines are missing: {lost} lost on the way")
        stream.stream, stream.number = chunk.stream, chunk.number

    # --- asking

    def reconnected(self) -> None:
        """What was lost meanwhile is told by the answers."""
        for worker in self._workers.values():
            worker.due = self._clock.monotonic()
        self._wake.set()

    async def _keep_asking(self) -> None:
        gate = asyncio.Semaphore(ABREAST)

        async def one(worker: _Followed) -> None:
            async with gate:
                await self._ask_for(worker)

        try:
            while True:
                now = self._clock.monotonic()
                due = [w for w in self._workers.values() if w.node is not None and w.due <= now]
                await asyncio.gather(*map(one, due))
                if self._statuses is None and not any(map(_open, self._workers.values())):
                    break
                await self._pause()
        except Exception as error:
            self._failure = error
        self._closed = True
        self._news.set()

    async def _pause(self) -> None:
        """Until somebody is to be asked, or something has happened."""
        self._wake.clear()
        now = self._clock.monotonic()
        soonest = min((w.due for w in self._workers.values() if w.node is not None), default=now + RENEW_S)
        await wait_or_sleep(self._clock, self._wake, max(0.0, soonest - now))

    async def _ask_for(self, worker: _Followed) -> None:
        now, node = self._clock.monotonic(), worker.node or ""
        stream = worker.streams.setdefault(node, _Stream())
        worker.due = now + ANSWER_S
        worker.tries += 1
        if worker.tries > TRIES:
            return self._give_up(worker, node)
        lines = 0 if stream.answered else worker.lines
        since_ms = None if worker.since is None or not lines else int((now - worker.since) * 1000)
        try:
            where = await self._ask(Wanted(worker.oid, lines, since_ms, self._reader))
        except BusError as error:
            if error.row.retryable:
                return self._unreachable(worker, node, error)
            if error.code != "no_such_object":
                raise
            worker.due = now + RENEW_S
            if self._statuses is None:
                self._add(LogNote(worker.name, node, error.detail or "it is on no node"))
                worker.node = None
        except (CallTimeoutError, BusOfflineError) as error:
            return self._unreachable(worker, node, error)
        else:
            worker.unasked = 0
            if where != node and worker.node == node:
                self._move(worker, where)
        return None

    def _unreachable(self, worker: _Followed, node: str, error: Exception) -> None:
        """The request has not come to the node, which may go on sending meanwhile. Told once."""
        worker.tries, worker.unasked = max(0, worker.tries - 1), worker.unasked + 1
        worker.due = self._clock.monotonic() + min(ANSWER_S * worker.unasked, RENEW_S)
        if worker.unasked == 1:
            self._add(LogNote(worker.name, node, f"its output can't be asked for now: {error}"))
        if worker.unasked >= TRIES and self._statuses is None:
            self._gap(worker, node, f"its output could not be asked for: {error}")
            worker.node = None

    def _give_up(self, worker: _Followed, node: str) -> None:
        text = f"{node} does not send its output: its agent is away, or is sending as many as it may"
        self._gap(worker, node, text)
        worker.tries, worker.due = 0, self._clock.monotonic() + RENEW_S
        if self._statuses is None:
            worker.node = None

    # --- moves

    async def _keep_watching(self) -> None:
        assert self._statuses is not None
        async for update in self._statuses:
            if update.status is not None and self._wants(update):
                self._heed(update)
            elif update.status is None:
                self._workers.pop(f"{update.cluster}/{update.name}", None)

    def _heed(self, update: StatusUpdate) -> None:
        status, name = update.status, f"{update.cluster}/{update.name}"
        assert status is not None
        node = status.node if isinstance(status.node, str) else None
        oid = status.oid if isinstance(status.oid, str) else ""
        worker = self._workers.get(name)
        if worker is None or worker.oid != oid:
            now = self._clock.monotonic()
            worker = self._workers[name] = _Followed(name, oid, None, FRESH_LINES, now - FRESH_S, now)
        reason = status.reason if isinstance(status.reason, str) else ""
        if status.status != worker.status:
            if status.status in _TOLD and (worker.status or status.status != "STOPPED"):
                self._add(LogNote(name, node or worker.node, f"{status.status}: {reason}".rstrip(": ")))
            worker.status = status.status
        if node is not None and node != worker.node:
            self._move(worker, node)

    def _move(self, worker: _Followed, node: str) -> None:
        before, worker.node, worker.tries = worker.node, node, 0
        last = next(reversed(worker.streams), before)
        if last not in (None, node):
            self._add(LogNote(worker.name, node, f"it is on {node} now, before on {last}"))
        if last != node or not worker.streams[node].answered:
            worker.streams.pop(node, None)
            worker.streams[node] = _Stream()
            if last is not None or worker.lines == 0:
                worker.lines, worker.since = FRESH_LINES, self._clock.monotonic() - FRESH_S
            while len(worker.streams) > NODES:
                del worker.streams[next(iter(worker.streams))]
        worker.due = self._clock.monotonic()
        self._wake.set()


def _open(worker: _Followed) -> bool:
    """Whether an answer is awaited."""
    stream = worker.streams.get(worker.node or "")
    return worker.node is not None and (stream is None or not stream.answered)


def _count(number: int, what: str = "line") -> str:
    return f"1 {what} is" if number == 1 else f"{number} {what}s are"
