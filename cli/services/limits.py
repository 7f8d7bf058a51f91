"""`busbar broker limits`: the broker's limits, and what the accounts use of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from busbar.bus.broker.limits import LIMITS, USE_FILE, table
from busbar.bus.clock import SystemClock

from ..printing.numbers import duration, seconds, size
from ..printing.output import dump, note, output_format, print_table, say

_OLD_S: Final = 15.0
"""A broker writes its use every 5 s; an older report is of one that has ended or is stuck."""
_USED: Final = ("connections", "filters", "filter_bytes", "retained", "retained_bytes", "held_bytes")


def show_limits(folder: Path) -> None:
    """Print the limits, and the use that the broker of this folder reported last."""
    report = _report(folder / USE_FILE)
    in_force: Mapping[str, int] = report.get("limits") or {name: value for name, value, _ in table(LIMITS)}
    if output_format() != "table":
        return dump({**report, "limits": dict(in_force)})
    print_table(
        ["LIMIT", "VALUE", "MEANING"],
        [[name, _shown(name, in_force[name]), why] for name, _, why in table(LIMITS) if name in in_force],
    )
    if not report:
        return note(f"no use is known: no broker has run in {folder}")
    age_s = SystemClock().time_ns() / 1e9 - report["at"]
    if age_s > _OLD_S:
        note(f"the use below is {duration(age_s * 1000)} old: the broker is not running")
    say("")
    print_table(
        ["ACCOUNT", "KIND", *(name.upper().replace("_", " ") for name in _USED)],
        [
            [row["account"], row["kind"], *(_shown(name, row[name]) for name in _USED)]
            for row in report["accounts"]
        ],
    )
    say(f"connections not logged in: {report['silent_connections']}")


def _shown(name: str, value: int) -> str:
    """A number for people, its unit as its name says."""
    if name.endswith("bytes"):
        return size(value)
    return seconds(value) if name.endswith("_s") and not name.endswith("_per_s") else str(value)


def _report(path: Path) -> dict[str, Any]:
    """The broker's last report; empty without one that can be read."""
    try:
        found = json.loads(path.read_bytes())
        return found if {"at", "limits", "silent_connections", "accounts"} <= found.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}
