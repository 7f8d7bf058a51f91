"""Replies that the broker takes: without what may be large, and with errors of a bounded size. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError

MAX_TEXT: Final = 1_024
"""Characters of an error's detail and of each pointer."""
_LARGE: Final[Mapping[str, object]] = {
    **dict.fromkeys(("transport", "placement", "description", "label", "tags", "labels", "capacity")),
    "runtime_details": None,
    "conditions": [],
    "moves": [],
}
"""Members of an object that may be large, and what stands for them in a reply that has no room."""


def without_texts(result: object) -> object:
    """A change's result without the members that may be large."""
    if not isinstance(result, msgspec.Struct):
        return result
    left_out = {name: empty for name, empty in _LARGE.items() if getattr(result, name, None)}
    return msgspec.structs.replace(result, **left_out) if left_out else result


def too_large(op: str, size: int, room: int) -> str:
    """Why a reply is not sent, and how to get it."""
    row = OPERATIONS.get(op)
    how = ": ask for less at a time (limit, after)" if row and row.pages else ""
    return f"the reply has {size} bytes; the broker takes {room}{how}"


def truncate(error: BusError) -> BusError:
    """Bound the texts of an error: they may repeat the caller's input."""
    if len(error.detail) <= MAX_TEXT and all(len(pointer) <= MAX_TEXT for pointer in error.pointers):
        return error
    pointers = [pointer[:MAX_TEXT] for pointer in error.pointers]
    return BusError(error.code, error.detail[:MAX_TEXT], pointers)
