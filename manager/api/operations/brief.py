"""Answers without what may be large, for a broker that takes small packets only. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from busbar.bus.decode import encode
from msgspec import Struct, to_builtins
from msgspec.structs import replace

T = TypeVar("T", bound=Struct)

_LARGE: Final[Mapping[str, object]] = {
    **dict.fromkeys(("transport", "placement", "description", "label", "tags", "labels", "capacity")),
    "runtime_details": None,
    "conditions": [],
    "moves": [],
}
"""Members of an object that may be large, and what stands for them in a reply that has no room."""
_REPORTED: Final[Mapping[str, object]] = {"runtimes": [], "refused_by": [], "listeners": {}}
"""Those that a brief answer is without as well: they grow with what nodes report."""
_SMALL: Final = 128
"""Bytes of such a member from which on a brief answer is without it."""
_SHORTENED: Final = ("conditions", "reason", "draining", "cordoned")
_CONDITIONS: Final = 4
_SHORT: Final = 80
"""Conditions of a brief answer, and characters of each text that is shortened."""


def without_texts(result: object) -> object:
    """A change's result without the members that may be large."""
    if not isinstance(result, Struct):
        return result
    return _without(result, {name: empty for name, empty in _LARGE.items() if getattr(result, name, None)})


def brief(found: T, wanted: bool = True) -> T:
    """An object without those of its members that are large, which `left_out` names; texts of its present
    state are shortened."""
    if not wanted:
        return found
    members = {**_LARGE, **_REPORTED, **dict.fromkeys(_SHORTENED)}
    return _without(
        found,
        {
            name: _short(getattr(found, name)) if name in _SHORTENED else empty
            for name, empty in members.items()
            if _size(found, name) > _SMALL
        },
    )


def shortened(result: object) -> object:
    """A result in plain values, each text in it of at most `_SHORT` characters."""
    return _cut(to_builtins(result))


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cut(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_cut(member) for member in value]
    return f"{value[: _SHORT - 1]}…" if isinstance(value, str) and len(value) > _SHORT else value


def _short(texts: Any) -> Any:
    return [text[:_SHORT] for text in texts[:_CONDITIONS]] if isinstance(texts, list) else texts[:_SHORT]


def _size(found: Struct, name: str) -> int:
    return len(encode(value)) if (value := getattr(found, name, None)) else 0


def _without(found: T, members: Mapping[str, object]) -> T:
    if not members:
        return found
    told: dict[str, Any] = {"left_out": sorted(members)} if hasattr(found, "left_out") else {}
    return replace(found, **members, **told)
