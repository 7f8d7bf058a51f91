"""Which stored events are asked for, as a statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from .sql import NEWER_THAN, to_json

# No index: it would cost every event several times what its row costs, and this is asked by people.
_ON_TOPICS: Final = "(topic IN (SELECT value FROM json_each(?)) OR (topic >= ? AND topic < ?))"

_OF_TYPES: Final = "json_extract(CAST(payload AS TEXT), '$.type') IN (SELECT value FROM json_each(?))"
"""One look at each row, however many types are asked for."""


class EventsWanted(Struct, frozen=True):
    """Which stored events are wanted: all of what is given must hold.

    `since` and `before` are sequences, both excluded; `newer_ns` is a time. `topics` are whole ones, `below`
    is the beginning of others: an event is on one of these. `types` are whole, `oid` is its object's.
    `last`: the newest of them.
    """

    since: int
    limit: int
    before: int | None = None
    newer_ns: int | None = None
    topics: Sequence[str] = ()
    below: str | None = None
    types: Sequence[str] = ()
    oid: str | None = None
    last: bool = False

    def query(self) -> tuple[object, ...]:
        """The statement and its values."""
        where, values = ["sequence > ?"], list[object]((self.since,))
        if self.before is not None:
            where.append("sequence < ?")
            values.append(self.before)
        if self.newer_ns is not None:
            where.append(f"sequence > {NEWER_THAN.format('sequence', 'events', 'time', '?')}")
            values.append(self.newer_ns)
        if self.topics or self.below is not None:
            where.append(_ON_TOPICS)
            # `/` is followed by `0`
            below = self.below or ""
            values += [to_json(self.topics), below, f"{below[:-1]}0" if below else ""]
        if self.types:
            where.append(_OF_TYPES)
            values.append(to_json(self.types))
        if self.oid:
            where.append("instr(payload, ?)")
            values.append(f'"oid":"{self.oid}"'.encode())
        order = "DESC" if self.last else "ASC"
        text = f"SELECT payload FROM events WHERE {' AND '.join(where)} ORDER BY sequence {order} LIMIT ?"
        return (text, *values, self.limit)
