"""What the page shows of statuses and events: plain values, every text of others made printable. Pure."""

from __future__ import annotations

from typing import Any, Final

from busbar.bus.messages import Event, MeshSeen, Status
from busbar.bus.printable import printable
from msgspec import UNSET

Row = dict[str, Any]

REASON: Final = 1000
"""Characters of a reason or condition."""
CONDITIONS: Final = 20
"""Conditions of one object."""
_PLAIN: Final = (
    "status", "oid", "version", "scale", "ready", "workergroup", "node", "address", "pid", "restarts",
    "generation", "reason", "revision", "updated", "draining", "drained", "cordoned", "time",
)  # fmt: skip
EVENT_DATA: Final = (
    "reason",
    "status",
    "node",
    "cluster",
    "cluster_oid",
    "scale",
    "revision",
    "caller",
    "name",
)
"""Members of an event's data that its line has."""


def shown(value: Any) -> Any:
    """A plain value with its texts printable and short; numbers and null as they are."""
    if isinstance(value, str):
        return printable(value if len(value) <= REASON else f"{value[:REASON]}…")
    if isinstance(value, dict):
        return {shown(str(name)): shown(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown(inner) for inner in value[:CONDITIONS]]
    return value


def key_of(kind: str, cluster: str | None, name: str) -> str:
    """`worker/edge/web-1`, `routercluster/edge`, `node/n1`: by which the page finds the row."""
    cluster = None if kind == "routercluster" else cluster
    return "/".join((kind, *(part for part in (cluster, name) if part is not None)))


def row_of(kind: str, cluster: str | None, name: str, status: Status) -> Row:
    """An object's row."""
    row: Row = {"kind": kind, "cluster": cluster, "name": name}
    row |= {member: shown(value) for member, value in _members(status)}
    row["conditions"] = shown(status.conditions)
    if isinstance(status.mesh, MeshSeen):
        seen = status.mesh
        row["mesh"] = {"of": seen.of, "connected": seen.connected, "missing": shown(seen.missing)}
    return row


def _members(status: Status) -> list[tuple[str, Any]]:
    found = ((member, getattr(status, member)) for member in _PLAIN)
    return [(member, value) for member, value in found if value is not UNSET]


def line_of(event: Event) -> Row:
    """An event's line: its number, its time, what happened to what, and why."""
    data = {member: event.data[member] for member in EVENT_DATA if event.data.get(member) not in (None, "")}
    verb = event.type.removeprefix("busbar.on_")
    return {
        "sequence": shown(event.sequence),
        "time": shown(event.time),
        "type": shown(verb),
        "subject": shown(event.subject),
        "data": shown(data),
    }
