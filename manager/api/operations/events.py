"""Stored events, for consumers that saw a gap in the sequence."""

from __future__ import annotations

from typing import Final

import msgspec
from busbar.bus import params as p

from .base import ChangeHandler, ReadContext, ReadHandler


def get_events(ctx: ReadContext, params: p.GetEvents) -> list[msgspec.Raw]:
    """Events after `since`, oldest first, at most `limit` of those still stored."""
    return [msgspec.Raw(payload) for payload in ctx.reads.events(int(params.since), params.limit)]


READS: Final[dict[str, ReadHandler]] = {"get_events": get_events}
CHANGES: Final[dict[str, ChangeHandler]] = {}
