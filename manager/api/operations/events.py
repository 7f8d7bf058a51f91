"""Stored events: for consumers that saw a gap in the sequence, and for people who look for something."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.events import EVENT_KINDS, EVENTS, event_type
from busbar.bus.topics import NO_CLUSTER

from ...store.event_query import EventsWanted
from .base import ChangeHandler, ReadContext, ReadHandler

_TYPES: Final = {
    event_type(subject, verb): (EVENT_KINDS[subject], verb)
    for subject, verbs in EVENTS.items()
    for verb in verbs
}
OID: Final = re.compile(p.UUID_PATTERN[1:])
_REALM_KINDS: Final = ("node", "principal", "manager")
"""The kinds whose events belong to no cluster."""


def get_events(ctx: ReadContext, params: p.GetEvents) -> list[msgspec.Raw]:
    """Events after `since` that match, oldest first, at most `limit` of those still stored."""
    types = _types(params)
    topics, below, oid = _places(ctx, params.object)
    wanted = EventsWanted(
        int(params.since),
        params.limit,
        before=None if params.before is None else int(params.before),
        newer_ns=None if params.within_ms is None else ctx.now_ns - params.within_ms * 1_000_000,
        topics=topics,
        below=below,
        types=types,
        oid=oid,
        last=params.last,
    )
    return [msgspec.Raw(payload) for payload in ctx.reads.events_wanted(wanted)]


def _types(params: p.GetEvents) -> list[str]:
    """Raises BusError `invalid_argument` for a type that the contract does not have."""
    found = [name if name.startswith("busbar.") else f"busbar.on_{name}" for name in params.types or ()]
    for number, name in enumerate(found):
        if name not in _TYPES:
            raise BusError(
                "invalid_argument", f"there is no event type '{name}'", [f"/params/types/{number}"]
            )
    return found


def _places(ctx: ReadContext, text: str | None) -> tuple[list[str], str | None, str | None]:
    """The topics of an object's events, the beginning of further ones, and its oid where that is given."""
    if text is None:
        return [], None, None
    if OID.fullmatch(text):
        return [], None, text
    cluster, slash, name = text.partition("/")
    if slash:
        return [ctx.topics.event(cluster, kind, name, verb) for kind, verb in _TYPES.values()], None, None
    own = [
        ctx.topics.event(NO_CLUSTER, kind, text, verb)
        for kind, verb in _TYPES.values()
        if kind in _REALM_KINDS
    ]
    return own, f"{ctx.topics.prefix}/event/{text}/", None


READS: Final[dict[str, ReadHandler]] = {"get_events": get_events}
CHANGES: Final[dict[str, ChangeHandler]] = {}
