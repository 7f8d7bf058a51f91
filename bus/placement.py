"""On which nodes a worker group's workers may be, by the nodes' labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from .messages import Name
from .topics import is_name

MAX_LABELS: Final = 64
"""Labels of one node."""
MAX_VALUE: Final = 256
"""Characters of a label's value."""
Value = Annotated[str, Meta(max_length=MAX_VALUE)]
Values = Annotated[list[Value], Meta(min_length=1, max_length=64)]
Required = Annotated[dict[Name, Value | Values], Meta(max_length=16)]


class Placement(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`require`: the labels that a node must have to be given a worker, each with that value or one of
    several. `spread`: the label over whose values workers are spread evenly; nodes without it count as one
    more value."""

    require: Required = msgspec.field(default_factory=dict)
    spread: Name | None = None


def label_fault(name: str, value: str) -> str | None:
    """Why no node can have this label, as a predicate; None where one can."""
    if not is_name(name):
        return "is no name: use [a-z0-9][a-z0-9_-]{0,63}"
    return f"has a value above {MAX_VALUE} characters" if len(value) > MAX_VALUE else None


def normal_placement(found: Placement | None) -> Placement | None:
    """The one form that is stored and compared; None where it says nothing."""
    if found is None or not (found.require or found.spread):
        return None
    return Placement({name: _normal(found.require[name]) for name in sorted(found.require)}, found.spread)


def _normal(values: str | list[str]) -> str | list[str]:
    several = sorted({values} if isinstance(values, str) else set(values))
    return several[0] if len(several) == 1 else several


def unmet(placement: Placement | None, labels: Mapping[str, str] | None) -> str | None:
    """What a node lacks of the required labels, as a predicate: `has no label zone (zone=a is required)`;
    None when it lacks nothing."""
    own = labels or {}
    for name, values in placement.require.items() if placement else ():
        if name not in own:
            return f"has no label {name} ({_wanted(name, values)} is required)"
        if own[name] not in ([values] if isinstance(values, str) else values):
            return f"has label {name}={own[name]} ({_wanted(name, values)} is required)"
    return None


def required(placement: Placement) -> str:
    """The required labels, for people: `disk=ssd, zone=a or b`."""
    return ", ".join(_wanted(name, values) for name, values in placement.require.items())


def _wanted(name: str, values: str | list[str]) -> str:
    return f"{name}={values if isinstance(values, str) else ' or '.join(values)}"


def one_way(placement: Placement) -> list[str]:
    """Labels that would do, one value each: `disk=ssd`, `zone=a`."""
    first = ((n, v if isinstance(v, str) else v[0]) for n, v in placement.require.items())
    return [f"{name}={value}" for name, value in first]
