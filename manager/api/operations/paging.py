"""Pages of a list: at most `limit` entries, those behind the entry `after`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from busbar.bus.errors import BusError

from .base import ReadContext, ReadHandler

T = TypeVar("T")


def page(entries: Sequence[T], limit: int | None, after: str | None, key: Callable[[T], str]) -> list[T]:
    """Raises BusError `invalid_argument`: no entry is `after` (any more)."""
    start = 0
    if after is not None:
        start = next((index + 1 for index, entry in enumerate(entries) if key(entry) == after), 0)
        if not start:
            raise BusError(
                "invalid_argument", f"no entry '{after}' in the list: begin again", ["/params/after"]
            )
    return list(entries[start : None if limit is None else start + limit])


def paged(handler: Callable[[ReadContext, Any], Sequence[Any]]) -> ReadHandler:
    """A handler that returns one page of what `handler` lists."""

    def one_page(ctx: ReadContext, params: Any) -> list[Any]:
        return page(handler(ctx, params), params.limit, params.after, _key)

    return one_page


def _key(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry.oid)
