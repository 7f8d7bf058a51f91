"""Rows that are only ever added: events, the outbox, replies that are kept, the audit.

They are gathered while a group of writes runs and go into the database with one call per table just before
its commit: a third of the cost of a statement for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import sql
from .rows import OutboxRow, SeenRow
from .sqlite import Database

Cells = tuple[Any, ...]


class Mark(NamedTuple):
    """A moment to which `cut` goes back."""

    events: int
    outbox: int
    requests: int
    audit: int
    sequence: int
    outbox_id: int


@dataclass(slots=True)
class Appended:
    """`sequence` is that of the last event and `outbox_id` that of the last outbox row, committed or not."""

    sequence: int = 0
    outbox_id: int = 0
    events: list[Cells] = field(default_factory=list)
    outbox: list[Cells] = field(default_factory=list)
    requests: list[Cells] = field(default_factory=list)
    audit: list[Cells] = field(default_factory=list)
    seen: dict[tuple[str, str], SeenRow] = field(default_factory=dict)
    """The replies in `requests`, by caller and id."""

    def event(self, time_ns: int, topic: str, payload: bytes) -> None:
        """The event with the present `sequence`."""
        self.events.append((self.sequence, time_ns, topic, payload))

    def send(self, topic: str, payload: bytes, retain: bool, properties: str | None) -> OutboxRow:
        """A message to be published after the commit."""
        self.outbox_id += 1
        self.outbox.append((self.outbox_id, topic, payload, int(retain), properties))
        return OutboxRow(self.outbox_id, topic, payload, retain, properties)

    def remember(self, caller: str, request_id: str, digest: str, reply: bytes, time_ns: int) -> None:
        """The reply to a request."""
        self.requests.append((caller, request_id, digest, reply, time_ns))
        self.seen[caller, request_id] = SeenRow(digest, reply)

    def mark(self) -> Mark:
        """The present moment."""
        lengths = (len(self.events), len(self.outbox), len(self.requests), len(self.audit))
        return Mark(*lengths, self.sequence, self.outbox_id)

    def cut(self, mark: Mark) -> None:
        """Take back all that came after `mark`, its numbers included."""
        del self.events[mark.events :], self.outbox[mark.outbox :], self.audit[mark.audit :]
        for caller, request_id, *_ in self.requests[mark.requests :]:
            self.seen.pop((caller, request_id), None)
        del self.requests[mark.requests :]
        self.sequence, self.outbox_id = mark.sequence, mark.outbox_id

    def flush(self, db: Database) -> None:
        """Insert what was gathered."""
        for statement, rows in (
            (sql.EVENT_ADD, self.events),
            (sql.OUTBOX_ADD, self.outbox),
            (sql.SEEN_ADD, self.requests),
            (sql.AUDIT_ADD, self.audit),
        ):
            if rows:
                db.conn.executemany(statement, rows)

    def clear(self) -> None:
        """Begin the next group; the numbers go on."""
        for rows in (self.events, self.outbox, self.requests, self.audit, self.seen):
            rows.clear()
