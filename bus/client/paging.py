"""Reads a result in pages where the broker does not take it as one message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..errors import BusError

FIRST: Final = 256
"""Entries of the first page; fewer where that is too large as well."""
TOO_LARGE: Final = "payload_too_large"

Ask = Callable[[dict[str, Any]], Awaitable[Any]]


async def read_pages(ask: Ask, params: dict[str, Any], *, events: bool = False) -> Any:
    """The whole result of a list (`after`: its last entry), of statistics (also of groups), or of events.

    What changes between two pages may be missing or stand twice; where an entry is gone, `ask` refuses.

    Raises:
        BusError: what `ask` raises; `payload_too_large` where not even one entry can be sent.
    """
    wanted, size, found = params.get("limit"), FIRST, list[Any]()
    first: dict[str, Any] | None = None
    while wanted is None or len(found) < wanted:
        limit = size if wanted is None else min(size, wanted - len(found))
        more = {"since" if events else "after": _mark(found[-1], events)} if found else {}
        try:
            answer = await ask({**params, **more, "limit": limit})
        except BusError as error:
            if error.code != TOO_LARGE or size == 1:
                raise
            size = max(1, size // 4)
            continue
        page = answer["workers"] if isinstance(answer, dict) else answer
        if isinstance(answer, dict):
            before = first or {**answer, "endpoints": []}
            both = before["endpoints"] + answer["endpoints"]
            first = {**answer, "conditions": before["conditions"], "endpoints": both}
        found += page
        if len(page) < limit:
            break
    if first is None:
        return found
    groups = first.get("workergroups", [])
    if wanted is None and len(groups) == limit:
        groups = groups + await _read_groups(ask, params, groups[-1]["oid"], limit)
    return {**first, "workers": found, "workergroups": groups}


async def _read_groups(ask: Ask, params: dict[str, Any], after: str, limit: int) -> list[Any]:
    """The groups of statistics that did not go with the last page of workers, which had room for `limit`."""
    found: list[Any] = []
    while True:
        page = (await ask({**params, "after": after, "limit": limit}))["workergroups"]
        found += page
        if len(page) < limit:
            return found
        after = page[-1]["oid"]


def _mark(entry: Any, events: bool) -> str:
    if isinstance(entry, str):
        return entry
    return str(entry["sequence"] if events else entry.get("oid") or entry["id"])
