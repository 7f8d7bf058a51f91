"""What a transaction changed, and who caused it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from .rows import OutboxRow


@dataclass(frozen=True, slots=True)
class Cause:
    """Who a change's events name, and the request it came from."""

    who: Mapping[str, str]
    request_id: str | None = None


MONITOR: Final = Cause({"authid": "manager", "authrole": "manager", "session": "monitor"})
"""The cause of what no request asked for."""


@dataclass(slots=True)
class Changes:
    """The oids whose statuses (and the nodes whose assignments) must be published anew after the commit.

    `outbox` holds the rows to be published, in order; `forgotten` the acknowledged ones now deleted.
    """

    nodes: set[str] = field(default_factory=set)
    clusters: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    assignments: set[str] = field(default_factory=set)
    principals: set[str] = field(default_factory=set)
    outbox: list[OutboxRow] = field(default_factory=list)
    forgotten: set[int] = field(default_factory=set)

    def merge(self, other: Changes) -> None:
        """Add what a later step changed."""
        for name in _SETS:
            mine: set[str] = getattr(self, name)
            mine |= getattr(other, name)
        self.outbox.extend(other.outbox)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _ALL)


_ALL: Final = tuple(column.name for column in fields(Changes))
_SETS: Final = tuple(name for name in _ALL if name != "outbox")
