"""What became of a request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from busbar.bus.results import Statement

from ..store.rows import AuditRow, RefusalRow
from .scene import Past, Told, plural

CALLS: Final = 8
"""Requests of different callers with one id that are told."""
EVENTS: Final = 40
PARAMS: Final = 300


def explain_request(
    request_id: str,
    changes: Sequence[AuditRow],
    refusals: Sequence[RefusalRow],
    details: Mapping[int, str],
    events: Sequence[Past],
) -> list[Statement]:
    """What was asked with an id, what came of it, and the events that it caused.

    `changes` and `refusals` are those with that id; `details` says by a change's id why it failed; `events`
    are those that name the request, oldest first.
    """
    told = Told()
    for row in changes[:CALLS]:
        asked = f"{row.caller} ({row.role}) asked for {row.op} {row.params[:PARAMS]}"
        told.say("request", asked, _at(row.time))
        if row.outcome == "ok":
            told.say("request", f"{row.op} was carried out")
        else:
            why = details.get(row.id)
            told.say("refused", f"{row.op} failed: {row.outcome}{f': {why}' if why else ''}")
    for refusal in refusals[:CALLS]:
        asked = f"{refusal.op} of {refusal.caller} was refused: {refusal.outcome}: {refusal.detail}"
        told.say("refused", asked, _at(refusal.last))
    for past in events[:EVENTS]:
        name = past.data.get("name")
        where = past.data.get("cluster")
        title = f"{where}/{name}" if where and where != name else name
        told.say("history", f"it caused {past.subject} {title} {past.verb}", past)
    if len(events) > EVENTS:
        told.say("more", f"{plural(len(events) - EVENTS, 'more event')} are left out")
    return told.all(f"request {request_id} was carried out", as_said=True)


def _at(time_ns: int) -> Past:
    """A moment without an event."""
    return Past("", time_ns // 1_000_000, "", "")
