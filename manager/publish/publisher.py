"""Publishes what the store holds: replies and events from the outbox, present statuses and assignments.

Outbox rows arrive with their commit, are sent in order, and are deleted once acknowledged; what a broken
connection loses is read from the table again. Of a status or an assignment only the newest counts: it is
rendered when the window has room for it, and all of them on every connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Done, Link, Properties
from busbar.bus.decode import encode
from busbar.bus.errors import BusOfflineError, MessageTooLargeError, MissingRightError
from busbar.bus.messages import Command
from busbar.bus.topics import StatusKind

from ..log_throttle import LogThrottle
from ..store import Changes, Store
from ..store.rows import OutboxRow
from .mqtt5 import properties_from_text
from .reply_queue import Reply, ReplyQueueFullError, ReplyQueues
from .statuses import ObjectKey, StatusBuilder, TopicPayload

log = logging.getLogger("busbar.publisher")
Key = TypeVar("Key")

WINDOW: Final = 256
"""Publications in flight, not counting replies (`reply_queue` bounds those)."""
BATCH: Final = 32
"""Publications per turn of the event loop (about 5 ms), which bounds the latency of requests."""
QUEUE_LIMIT: Final = 5_000
"""Outbox rows in memory; the rest is read from the table."""
PAGE: Final = 500
FLUSH_S: Final = 1.0
"""How long acknowledged rows wait for another commit to delete them."""
RETRY_S: Final = 0.5
MAX_HELD_BACK: Final = 1_000
"""Topics remembered with a message too large; the oldest are forgotten first."""
YIELD_WRITES: Final = 16
"""Events and statuses yield to so many waiting writes."""
YIELD_S: Final = 0.1
"""Longest time that they yield."""


class Publisher:
    """Drains the outbox and keeps retained topics up to date. `run` lasts until cancelled and never fails.

    `published` maps each retained topic to the last status or assignment sent on it. A message above the
    broker's packet limit is held back: it never reaches the connection, and the others go on.
    """

    def __init__(self, store: Store, link: Link, builder: StatusBuilder, clock: Clock) -> None:
        self.published: dict[str, bytes] = {}
        self._store = store
        self._link = link
        self._builder = builder
        self._clock = clock
        self._is_response = store.topics.is_response
        self._wake = asyncio.Event()
        self._queue: deque[OutboxRow] = deque()
        self._cursor = 0
        self._table_has_more = False
        self._active_conn: int | None = None
        self._unacked: set[int] = set()
        self._acked: set[int] = set()
        self._dirty_statuses: dict[ObjectKey, None] = {}
        self._dirty_assignments: dict[str, None] = {}
        self._session = 0
        self._denied: dict[str, Callable[[], object]] = {}
        self._replies, self._replies_conn = ReplyQueues(), 0
        self._throttle = LogThrottle(clock)
        self._in_flight = 0
        self._batch_left = 0
        self._yielding_since: float | None = None
        self._timer: asyncio.Future[None] | None = None
        self._timer_at = 0.0
        store.on_commit(self._on_commit)

    # --- called by others

    @property
    def max_packet(self) -> int:
        """Bytes of the largest packet that the broker takes."""
        return self._link.max_packet

    @property
    def held_back(self) -> dict[str, MessageTooLargeError | MissingRightError]:
        """By topic: what is not sent: the right is missing or, of retained messages, it is too large."""
        return self._builder.held_back

    def reply(self, caller: str, topic: str, payload: bytes, properties: Properties) -> None:
        """Send a reply without the outbox, in the caller's turn.

        It is dropped without a connection, and where too many of this caller's wait: the caller resends.
        """
        if not self._link.connected:
            log.debug("a reply to %s was dropped", topic)
            return
        if self._replies_conn != self._link.conn:
            self._replies, self._replies_conn = ReplyQueues(), self._link.conn
        try:
            reply = self._replies.add(caller, Reply(topic, payload, properties))
        except ReplyQueueFullError:
            said = f"replies to '{caller}' are dropped: it asks for more than the broker takes"
            if self._throttle.allows(said):
                log.warning("%s", said)
            return
        if reply is not None:
            self._send_reply(caller, reply)

    def command(self, node: str, command: Command) -> None:
        """Send a node a command, at most once: dropped without a connection."""
        self._link.post(self._store.topics.node(node, "command"), encode(command))

    async def start_session(self) -> None:
        """Publish everything again on a new connection."""
        self._session += 1
        self._in_flight = 0
        self._queue.clear()
        self._unacked.clear()
        self._cursor, self._table_has_more, self._active_conn = 0, True, self._link.conn
        self.published.clear()
        self.held_back.clear()
        self._denied.clear()
        self.publish_all()

    def publish_all(self) -> None:
        """Send every status and assignment again."""
        self._dirty_assignments.update(dict.fromkeys(self._builder.node_oids()))
        self._dirty_statuses.update(dict.fromkeys(self._builder.keys()))
        self._wake.set()

    def stop(self) -> None:
        """Publish nothing more: this manager is fenced."""
        self._active_conn = None
        self._queue.clear()
        self._replies = ReplyQueues()
        self._dirty_statuses.clear()
        self._dirty_assignments.clear()

    @property
    def active(self) -> bool:
        """Whether `start_session` was called on this connection.

        Before that a newer manager may be at work, and new rows would overtake those that the last connection
        did not deliver.
        """
        return self._link.connected and self._active_conn == self._link.conn

    @property
    def idle(self) -> bool:
        """True when the broker has acknowledged everything."""
        return self.active and not self._has_pending and not self._in_flight and not self._unacked

    # --- from the store

    def _on_commit(self, changes: Changes) -> None:
        self._acked -= changes.deleted_outbox
        if changes.withdrawn:
            self._queue = deque(row for row in self._queue if not changes.is_withdrawn(row))
        self._dirty_assignments.update(dict.fromkeys(sorted(changes.assignments)))
        for kind, oids in _kinds(changes):
            self._dirty_statuses.update({(kind, oid): None for oid in sorted(oids)})
        if self.active:
            for row in changes.outbox:
                if not changes.is_withdrawn(row):
                    self._enqueue(row)
        self._wake.set()

    def _enqueue(self, row: OutboxRow) -> None:
        """Replies are sent at once; other rows in order, beyond `QUEUE_LIMIT` from the table."""
        if self._is_response(row.topic):
            self._send_row(row)
        elif not self._table_has_more:
            self._queue.append(row)
            self._cursor = row.id
            self._table_has_more = len(self._queue) >= QUEUE_LIMIT

    # --- the loop

    async def run(self) -> None:
        """Send what is pending, in this order: assignments, events, statuses."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flush_forever(), name="publisher-flush")
                await self._pump_forever()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _pump_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                self._batch_left = BATCH
                self._pump()
                await asyncio.sleep(0)
            except Exception:
                log.exception("publishing failed; trying again")
                await self._clock.sleep(RETRY_S)
                self._wake.set()

    def _wake_after(self, seconds: float) -> None:
        """Wake the loop after a time, unless a pending timer does so sooner."""
        at = self._clock.monotonic() + seconds
        if self._timer is not None and not self._timer.done():
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = asyncio.ensure_future(self._clock.sleep(seconds)), at
        self._timer.add_done_callback(lambda _: self._wake.set())

    def _pump(self) -> None:
        """Send while the window has room; acknowledgements wake the loop again."""
        if not self.active:
            return
        self._pump_retained(self._dirty_assignments, self._builder.assignment)
        if self._yields_to_writes():
            return
        self._pump_outbox()
        if not self._dirty_statuses or not self._may_send():
            return
        stamp = self._builder.stamp()
        self._pump_retained(self._dirty_statuses, lambda key: self._builder.status(key, stamp))

    def _pump_retained(self, dirty: dict[Key, None], build: Callable[[Key], TopicPayload | None]) -> None:
        """Send the newest of each. One that can't be rendered goes to the end: it holds up no other."""
        while dirty and self._may_send():
            key = next(iter(dirty))
            del dirty[key]
            try:
                publication = build(key)
            except Exception:
                dirty[key] = None
                raise
            self._send_retained(publication, partial(dirty.setdefault, key))

    def _yields_to_writes(self) -> bool:
        """Whether events and statuses leave the event loop to waiting writes for now; replies never do.

        Statuses of an object that changes meanwhile are merged into one.
        """
        if self._store.waiting < YIELD_WRITES or not (
            self._queue or self._dirty_statuses or self._table_has_more
        ):
            self._yielding_since = None
            return False
        now = self._clock.monotonic()
        if self._yielding_since is None:
            self._yielding_since = now
        left = self._yielding_since + YIELD_S - now
        if left > 0:
            self._wake_after(left)
        return left > 0

    def _pump_outbox(self) -> None:
        while self._may_send() and (self._queue or self._table_has_more):
            if not self._queue:
                self._read_page()
                continue
            self._send_row(self._queue.popleft(), in_window=True)

    def _read_page(self) -> None:
        """Queue rows from the table, except those in flight or acknowledged."""
        rows = self._store.reads.outbox(self._cursor, PAGE)
        if not rows:
            self._table_has_more = False
            return
        self._cursor = rows[-1].id
        known = self._unacked | self._acked
        self._queue.extend(row for row in rows if row.id not in known)

    def _may_send(self) -> bool:
        """Whether the window and this turn of the event loop have room for one more."""
        if self._batch_left <= 0:
            self._wake.set()
            return False
        return self._in_flight < WINDOW

    # --- sending

    def _send_reply(self, caller: str, reply: Reply) -> None:
        done = partial(self._reply_done, self._replies, caller, len(reply.payload))
        self._link.send(reply.topic, reply.payload, done, properties=reply.properties)

    def _reply_done(self, queues: ReplyQueues, caller: str, size: int, _: BusOfflineError | None) -> None:
        following = queues.done(caller, size)
        if queues is self._replies and self._link.connected:
            for reply in following:
                self._send_reply(caller, reply)

    def _send_row(self, row: OutboxRow, in_window: bool = False) -> None:
        self._unacked.add(row.id)
        if row.retain:
            self.published.pop(row.topic, None)
        done = partial(self._row_done, self._session, row.id, row.topic, in_window)
        if not self._send(row.topic, row.payload, done, in_window, row.retain, row.properties):
            # It would fail again: it is given up, as what is too large is.
            self._unacked.discard(row.id)
            self._acked.add(row.id)
            self._store.acknowledge((row.id,))

    def _row_done(
        self, session: int, row_id: int, topic: str, in_window: bool, error: BusOfflineError | None
    ) -> None:
        if not self._count_done(session, in_window):
            return
        self._unacked.discard(row_id)
        # What can't be sent later either is given up: a caller asks again, a consumer sees a gap. That one
        # message was too large is over with it, and no condition.
        if isinstance(error, MissingRightError):
            self._hold_back(topic, error)
        elif error is not None and not isinstance(error, MessageTooLargeError):
            self._retry_outbox()
            return
        self._acked.add(row_id)
        self._store.acknowledge((row_id,))

    def _send_retained(self, publication: TopicPayload | None, again: Callable[[], object]) -> None:
        if publication is None:
            return
        topic, payload = publication
        self.published[topic] = payload
        self._send(topic, payload, partial(self._retained_done, self._session, topic, again), True, True)

    def _retained_done(
        self, session: int, topic: str, again: Callable[[], object], error: BusOfflineError | None
    ) -> None:
        if not self._count_done(session, True):
            return
        if error is None:
            if self.held_back.pop(topic, None):
                self._node_changed(topic)
        elif isinstance(error, (MessageTooLargeError, MissingRightError)):
            self._hold_back(topic, error)
            if isinstance(error, MissingRightError):
                self._denied[topic] = again
        else:
            again()
            self._retry_later()

    def retry_denied(self) -> None:
        """Publish again what the broker had not let this manager write: the right may be there now."""
        denied, self._denied = self._denied, {}
        for again in denied.values():
            again()
        self._wake.set()

    def _hold_back(self, topic: str, error: MessageTooLargeError | MissingRightError) -> None:
        known = self.held_back.pop(topic, None)
        if known is None and len(self.held_back) >= MAX_HELD_BACK:
            del self.held_back[next(iter(self.held_back))]
        self.held_back[topic] = error
        if known is None or str(known) != str(error):
            self._node_changed(topic)

    def _node_changed(self, topic: str) -> None:
        """An assignment is held back, or no longer: its node's status says so."""
        oid = self._builder.assigned_node(topic)
        if oid is not None:
            self._dirty_statuses[("node", oid)] = None
            self._wake.set()

    def _send(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        in_window: bool,
        retain: bool,
        properties: str | None = None,
    ) -> bool:
        """Hand one message to the link; False when it can't be sent at all: `done` is not called then."""
        self._batch_left -= 1
        try:
            extra = properties_from_text(properties)
            self._link.send(topic, payload, done, retain=retain, properties=extra)
        except Exception:
            log.exception("a message on %s can't be sent", topic)
            return False
        self._in_flight += in_window
        return True

    def _count_done(self, session: int, in_window: bool) -> bool:
        """Count a completed publication; False for one of an earlier connection, which was sent again."""
        if session != self._session:
            return False
        if in_window:
            self._in_flight -= 1
            if self._has_pending:
                self._wake.set()
        return True

    @property
    def _has_pending(self) -> bool:
        """Whether anything waits for room in the window."""
        return bool(self._queue or self._dirty_statuses or self._dirty_assignments or self._table_has_more)

    def _retry_outbox(self) -> None:
        """A row was not acknowledged: read the table from its beginning, which keeps the order."""
        self._queue.clear()
        self._cursor, self._table_has_more = 0, True
        self._retry_later()

    def _retry_later(self) -> None:
        """Retry where the connection is up (a bound was hit); a new one publishes everything anyway."""
        if self._link.connected:
            self._wake_after(RETRY_S)

    async def _flush_forever(self) -> None:
        """Delete acknowledged rows even when nothing else is committed."""
        while True:
            await self._clock.sleep(FLUSH_S)
            if self._store.acknowledged:
                try:
                    await self._store.write(lambda tx: None)
                except Exception as error:
                    log.debug("deleting acknowledged rows failed; trying again: %s", error)


def _kinds(changes: Changes) -> tuple[tuple[StatusKind, set[str]], ...]:
    return (
        ("node", changes.nodes),
        ("routercluster", changes.clusters),
        ("workergroup", changes.groups),
        ("worker", changes.workers),
    )
