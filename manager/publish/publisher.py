"""The only one that speaks state outward: replies and events from the outbox, statuses and assignments as
they are now.

Outbox rows come with the commit, are sent in order, and are deleted once the broker has them; what a broken
connection swallows is read from the table again. Statuses and assignments are levels: only the newest counts,
so they are rendered when there is room to send them, and all of them on every connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Done, Link, Properties
from busbar.bus.errors import BusOfflineError
from busbar.bus.topics import Kind

from ..store import Changes, Store
from ..store.rows import OutboxRow
from .mqtt5 import properties_from_text
from .statuses import Key, Outward, Publication

log = logging.getLogger("busbar.publisher")

WINDOW: Final = 256
"""Publications in flight, beside replies (which the callers' own bounds limit)."""
TURN: Final = 32
"""Publications until the loop may do something else (some 5 ms): requests wait no longer than that."""
QUEUE_LIMIT: Final = 5_000
"""Outbox rows held in memory; the rest is read from the table."""
PAGE: Final = 500
FLUSH_S: Final = 1.0
"""How long acknowledged rows may wait for a commit that takes them along."""
RETRY_S: Final = 0.5
BUSY: Final = 16
"""So many waiting writes make events and statuses give way to them …"""
HOLD_S: Final = 0.1
"""… for so long at most, until all that was held back has been sent."""


class Publisher:
    """Drains the outbox and keeps every retained topic true. `run` lasts until cancelled and never fails.

    `published` holds what every retained topic should say: the last status or assignment that was sent.
    """

    def __init__(self, store: Store, link: Link, outward: Outward, clock: Clock) -> None:
        self.published: dict[str, bytes] = {}
        self._store = store
        self._link = link
        self._outward = outward
        self._clock = clock
        self._is_response = store.topics.is_response
        self._wake = asyncio.Event()
        self._queue: deque[OutboxRow] = deque()
        self._cursor = 0
        self._behind = False
        self._begun: int | None = None
        self._sending: set[int] = set()
        self._settled: set[int] = set()
        self._statuses: dict[Key, None] = {}
        self._assignments: dict[str, None] = {}
        self._round = 0
        self._flying = 0
        self._turn = 0
        self._held_since: float | None = None
        store.on_commit(self._on_commit)

    # --- what others tell it

    def reply(self, topic: str, payload: bytes, properties: Properties) -> None:
        """Send a reply that no transaction holds; without a connection it is dropped, and asked for again."""
        if not self._link.post(topic, payload, qos=1, properties=properties):
            log.debug("a reply to %s was dropped", topic)

    async def begin(self) -> None:
        """A new connection: everything is said anew."""
        self._round += 1
        self._flying = 0
        self._queue.clear()
        self._sending.clear()
        self._cursor, self._behind, self._begun = 0, True, self._link.conn
        self.published.clear()
        self.refresh()

    def refresh(self) -> None:
        """Send every status and assignment anew."""
        self._assignments.update(dict.fromkeys(self._outward.node_oids()))
        self._statuses.update(dict.fromkeys(self._outward.keys()))
        self._wake.set()

    def stop(self) -> None:
        """Speak no more: a newer manager has taken over."""
        self._begun = None
        self._queue.clear()
        self._statuses.clear()
        self._assignments.clear()

    @property
    def speaks(self) -> bool:
        """Whether this connection was begun: before that a newer manager may be at work, unheard yet.

        What is said sooner would also overtake what the last connection did not get to the broker.
        """
        return self._link.connected and self._begun == self._link.conn

    @property
    def idle(self) -> bool:
        """True when everything known has been handed to the broker and confirmed."""
        return self.speaks and not self._waits and not self._flying and not self._sending

    # --- from the store

    def _on_commit(self, changes: Changes) -> None:
        self._settled -= changes.forgotten
        self._assignments.update(dict.fromkeys(sorted(changes.assignments)))
        for kind, oids in _kinds(changes):
            self._statuses.update({(kind, oid): None for oid in sorted(oids)})
        if self.speaks:
            for row in changes.outbox:
                self._take(row)
        self._wake.set()

    def _take(self, row: OutboxRow) -> None:
        """Replies go at once; the rest waits in order, in the table when memory has enough of it."""
        if self._is_response(row.topic):
            self._send_row(row)
        elif not self._behind:
            self._queue.append(row)
            self._cursor = row.id
            self._behind = len(self._queue) >= QUEUE_LIMIT

    # --- the loop

    async def run(self) -> None:
        """Send whatever waits, in this order: assignments, events, statuses."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._flush_forever(), name="publisher-flush")
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    self._turn = TURN
                    self._pump()
                    await asyncio.sleep(0)
                except Exception:
                    log.exception("publishing failed; trying again")
                    await self._clock.sleep(RETRY_S)
                    self._wake.set()

    def _pump(self) -> None:
        """Send while there is room in the window; finished publications wake the loop again."""
        if not self.speaks:
            return
        while self._assignments and self._room():
            oid = next(iter(self._assignments))
            del self._assignments[oid]
            self._send_level(self._outward.assignment(oid), partial(self._assignments.setdefault, oid))
        if self._gives_way():
            return
        self._pump_outbox()
        if not self._statuses or not self._room():
            return
        stamp = self._outward.stamp()
        while self._statuses and self._room():
            key = next(iter(self._statuses))
            del self._statuses[key]
            self._send_level(self._outward.status(key, stamp), partial(self._statuses.setdefault, key))

    def _gives_way(self) -> bool:
        """Whether events and statuses leave the loop to waiting writes for now; replies never do.

        The statuses of an object that changes on meanwhile are folded into one.
        """
        if self._store.waiting < BUSY or not (self._queue or self._statuses or self._behind):
            self._held_since = None
            return False
        now = self._clock.monotonic()
        if self._held_since is None:
            self._held_since = now
        left = self._held_since + HOLD_S - now
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._wake.set)
        return left > 0

    def _pump_outbox(self) -> None:
        while self._room() and (self._queue or self._behind):
            if not self._queue:
                self._read_page()
                continue
            self._send_row(self._queue.popleft(), counted=True)

    def _read_page(self) -> None:
        """Rows from the table; those on their way or settled already are passed over."""
        rows = self._store.reads.outbox(self._cursor, PAGE)
        if not rows:
            self._behind = False
            return
        self._cursor = rows[-1].id
        known = self._sending | self._settled
        self._queue.extend(row for row in rows if row.id not in known)

    def _room(self) -> bool:
        """Whether one more may be sent: not too many in flight, and the loop not held for too long."""
        if self._turn <= 0:
            self._wake.set()
            return False
        return self._flying < WINDOW

    # --- sending

    def _send_row(self, row: OutboxRow, counted: bool = False) -> None:
        self._sending.add(row.id)
        if row.retain:
            self.published.pop(row.topic, None)
        landed = partial(self._row_landed, self._round, row.id, counted)
        self._start(row.topic, row.payload, landed, counted, row.retain, row.properties)

    def _row_landed(self, began: int, row_id: int, counted: bool, error: BusOfflineError | None) -> None:
        if not self._landed(began, counted):
            return
        self._sending.discard(row_id)
        if error is not None:
            self._retry_outbox()
            return
        self._settled.add(row_id)
        self._store.acknowledge((row_id,))

    def _send_level(self, publication: Publication | None, again: Callable[[], object]) -> None:
        if publication is None:
            return
        topic, payload = publication
        self.published[topic] = payload
        self._start(topic, payload, partial(self._level_landed, self._round, again), True, True)

    def _level_landed(self, began: int, again: Callable[[], object], error: BusOfflineError | None) -> None:
        if self._landed(began, True) and error is not None:
            again()
            self._retry_later()

    def _start(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        counted: bool,
        retain: bool,
        properties: str | None = None,
    ) -> None:
        self._turn -= 1
        try:
            extra = properties_from_text(properties)
            self._link.send(topic, payload, done, retain=retain, properties=extra)
            self._flying += counted
        except Exception:
            log.exception("a publication failed")

    def _landed(self, began: int, counted: bool) -> bool:
        """False for what belonged to a connection that is gone: all of that is said anew."""
        if began != self._round:
            return False
        if counted:
            self._flying -= 1
            if self._waits:
                self._wake.set()
        return True

    @property
    def _waits(self) -> bool:
        """Whether there is anything that more room would have sent."""
        return bool(self._queue or self._statuses or self._assignments or self._behind)

    def _retry_outbox(self) -> None:
        """A row was not taken: read the table again from its beginning, so that order and rows are kept."""
        self._queue.clear()
        self._cursor, self._behind = 0, True
        self._retry_later()

    def _retry_later(self) -> None:
        """With the connection gone, the next one begins anew; else the broker's bound was hit: soon."""
        if self._link.connected:
            asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)

    async def _flush_forever(self) -> None:
        """Delete acknowledged rows even when nothing else is committed."""
        while True:
            await self._clock.sleep(FLUSH_S)
            if self._store.acknowledged:
                try:
                    await self._store.write(lambda tx: None)
                except Exception as error:
                    log.debug("acknowledged rows stay for now: %s", error)


def _kinds(changes: Changes) -> tuple[tuple[Kind, set[str]], ...]:
    return (
        ("node", changes.nodes),
        ("routercluster", changes.clusters),
        ("workergroup", changes.groups),
        ("worker", changes.workers),
    )
