"""Options that say which nodes may run a group's workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from busbar.bus.params import Placement
from msgspec import UNSET, UnsetType

from ..errors import usage
from .completion import complete_label, complete_label_name

On = Annotated[
    list[str] | None,
    typer.Option(
        "--on",
        autocompletion=complete_label,
        help="Only on nodes with this label, zone=a; repeated: all of them, or one of a label's values.",
    ),
]
Spread = Annotated[
    str | None,
    typer.Option(
        "--spread",
        help="Spread evenly over the values of this label, such as zone.",
        autocompletion=complete_label_name,
    ),
]
Anywhere = Annotated[bool, typer.Option("--anywhere", help="Take away what --on and --spread said before.")]


def read_placement(found: dict[str, Any] | None) -> Placement | None:
    """The placement of a group as the manager answers it; what this version does not know is passed over."""
    return None if found is None else Placement(found.get("require", {}), found.get("spread"))


@dataclass(frozen=True)
class PlacementChange:
    """What was asked for; `of` makes it the placement."""

    on: Sequence[str]
    spread: str | None
    anywhere: bool = False

    def __bool__(self) -> bool:
        return bool(self.on) or self.spread is not None or self.anywhere

    def of(self, present: dict[str, Any] | None) -> Placement | None | UnsetType:
        """The new placement of a group with the present one; UNSET when it stays.

        Raises:
            CliError: an option can't be read.
        """
        if not self:
            return UNSET
        before = (None if self.anywhere else read_placement(present)) or Placement()
        required = _required(self.on) if self.on else before.require
        spread = before.spread if self.spread is None else self.spread
        return Placement(required, spread) if required or spread else None


def _required(on: Sequence[str]) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for item in on:
        key, mark, value = item.partition("=")
        if not key or not mark:
            raise usage(f"--on {item}: write label=value")
        found.setdefault(key, []).append(value)
    return {key: values if len(values) > 1 else values[0] for key, values in found.items()}
