"""What a transaction changed, and who caused it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from .rows import ClusterRow, OutboxRow


@dataclass(frozen=True, slots=True)
class Cause:
    """Who the events of a change name, and the request that caused it."""

    who: Mapping[str, str]
    request_id: str | None = None


MONITOR: Final = Cause({"authid": "manager", "authrole": "manager", "session": "monitor"})
"""The cause of changes without a request."""


@dataclass(slots=True)
class Changes:
    """The oids whose statuses (or, for `assignments`, assignments) must be published after the commit.

    `outbox` holds the rows to publish, in order; `deleted_outbox` the ids of acknowledged rows now deleted;
    `withdrawn` the prefixes of topics of which no row up to an id is published any more. `bare` are
    the rows of new clusters while nothing else of them has been written, within the step that inserted them.
    """

    nodes: set[str] = field(default_factory=set)
    clusters: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    assignments: set[str] = field(default_factory=set)
    principals: set[str] = field(default_factory=set)
    outbox: list[OutboxRow] = field(default_factory=list)
    deleted_outbox: set[int] = field(default_factory=set)
    withdrawn: set[tuple[str, int]] = field(default_factory=set)
    bare: dict[str, ClusterRow] = field(default_factory=dict)

    def touch_clusters(self, oids: Iterable[str]) -> None:
        """Something of these clusters has been written."""
        for oid in oids:
            self.clusters.add(oid)
            self.bare.pop(oid, None)

    def merge(self, other: Changes) -> None:
        """Add the changes of a later step."""
        for name in _SETS:
            if more := getattr(other, name):
                getattr(self, name).update(more)
        self.outbox.extend(other.outbox)
        self.bare.clear()

    def is_withdrawn(self, row: OutboxRow) -> bool:
        """Whether this row must not be published any more."""
        return any(row.id <= last and row.topic.startswith(prefix) for prefix, last in self.withdrawn)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _ALL)


_ALL: Final = tuple(column.name for column in fields(Changes))
_SETS: Final = tuple(name for name in _ALL if name not in ("outbox", "bare"))
