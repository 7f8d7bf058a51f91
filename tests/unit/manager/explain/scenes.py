"""Scenes for explanations, from the planner's views: each gets the row that it would have been made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from busbar.manager.explain.scene import Past, Scene
from busbar.manager.planner.model import Snapshot
from busbar.manager.store.rows import ClusterRow, GroupRow, NodeRow, WorkerRow
from msgspec.structs import fields

from tests.unit.manager.planner.fleets import NOW

R = TypeVar("R", bound=msgspec.Struct)
DEFAULTS: dict[str, Any] = {
    "conditions": [],
    "version": 1,
    "changed": 0,
    "listeners": None,
    "runtime_details": None,
    "restarts": 0,
}


def row_of(row: type[R], view: Any, **more: Any) -> R:
    """The row of a view; what the view does not have is None, or as in `DEFAULTS`."""
    facts: dict[str, Any] = dict.fromkeys(row.__struct_fields__) | DEFAULTS
    facts |= {each.name: getattr(view, each.name) for each in fields(view)} | more
    return row(**{name: facts[name] for name in row.__struct_fields__})


def scene_of(
    snapshot: Snapshot,
    *,
    group: str = "web",
    worker: str | None = None,
    cluster: str = "edge",
    node: str | None = None,
    events: Mapping[str, Sequence[Past]] | None = None,
    facts: Mapping[str, Any] | None = None,
    **more: Any,
) -> Scene:
    """What is asked about one of a snapshot's objects; `facts` are columns of the worker's row (of the node's
    where a node is asked about)."""
    view = snapshot.clusters[cluster]
    groups = {each.oid: each for each in view.groups}
    rows = [row_of(WorkerRow, each) for of in view.groups for each in of.workers]
    of_group = groups.get(group)
    found = next((row for row in rows if row.oid == worker), None)
    nodes = {oid: row_of(NodeRow, each, draining="for a test" if each.draining else None)
             for oid, each in snapshot.nodes.items()}  # fmt: skip
    if found is not None and facts:
        found = msgspec.structs.replace(found, **facts)
    if node is not None and facts:
        nodes[node] = msgspec.structs.replace(nodes[node], **facts)
    return Scene(
        snapshot,
        NOW,
        cluster=row_of(ClusterRow, view),
        group=row_of(GroupRow, of_group) if of_group else None,
        worker=found,
        node=nodes.get(node or ""),
        nodes=nodes,
        groups=[row_of(GroupRow, each) for each in view.groups],
        workers=[row for row in rows if worker or node or row.group_oid == group or group == ""],
        events=events or {},
        **more,
    )
