"""Errors of a bounded size, and why a reply is too large for the broker. Pure."""

from __future__ import annotations

from typing import Final

from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError

MAX_TEXT: Final = 1_024
"""Characters of an error's detail and of each pointer."""
_LESS: Final = {
    "limit": "less at a time (limit, after)",
    "brief": "it without what is large (brief)",
    "clusters": "fewer clusters at a time (clusters)",
}
"""By a parameter of a read what makes its reply smaller."""


def too_large(op: str, size: int, room: int) -> str:
    """Why a reply is not sent, and how to get it."""
    row = OPERATIONS.get(op)
    asked = row.params.__struct_fields__ if row is not None and not row.change else ()
    how = next((f": ask for {less}" for name, less in _LESS.items() if name in asked), "")
    return f"the reply has {size} bytes; the broker takes {room}{how}"


def truncate(error: BusError) -> BusError:
    """Bound the texts of an error: they may repeat the caller's input."""
    if len(error.detail) <= MAX_TEXT and all(len(pointer) <= MAX_TEXT for pointer in error.pointers):
        return error
    pointers = [pointer[:MAX_TEXT] for pointer in error.pointers]
    return BusError(error.code, error.detail[:MAX_TEXT], pointers)
