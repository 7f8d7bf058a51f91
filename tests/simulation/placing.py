"""Where workers may be placed: cordons, labels and placements, and what must hold of them (K)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from busbar.bus.placement import unmet
from busbar.bus.states import WorkerState
from busbar.manager.store.rows import GroupRow, NodeRow, WorkerRow

from tests.simulation.mirror import Mirror

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch


def open_to(mirror: Mirror, group: GroupRow) -> bool:
    """Whether a node of its cluster takes a worker of the group: all of them are online, and have room."""
    members = (mirror.nodes[oid] for of, oid in mirror.members if of == group.cluster_oid)
    return any(takes(node, group) for node in members)


def takes(node: NodeRow, group: GroupRow) -> bool:
    return node.draining is None and node.cordoned is None and unmet(group.placement, node.labels) is None


def judge(watch: Watch, before: dict[str, WorkerRow], oids: set[str]) -> None:
    """After a commit: whoever came to a node was admitted there, and orders to move take one of a group at a
    time. A commit may hold both the placement and, before or after it, what would forbid it."""
    for oid in oids:
        new, old = watch.mirror.workers.get(oid), before.get(oid)
        if new is not None and new.node_oid is not None and (old is None or old.node_oid != new.node_oid):
            _judge_place(watch, new)
        if new is not None and new.state is WorkerState.STOPPING and new.move is not None:
            _judge_moves(watch, new)


def _judge_place(watch: Watch, row: WorkerRow) -> None:
    nodes = [rows[row.node_oid] for rows in (watch.nodes, watch.mirror.nodes) if row.node_oid in rows]
    groups = [rows[row.group_oid] for rows in (watch.groups, watch.mirror.groups) if row.group_oid in rows]
    name = nodes[-1].name if nodes else row.node_oid
    if nodes and all(node.cordoned is not None for node in nodes):
        watch._violation("K", f"{row.name} came to {name}, which is cordoned")
    lacks = [unmet(group.placement, node.labels) for node in nodes for group in groups]
    if lacks and all(lacks):
        watch._violation("K", f"{row.name} came to {name}, which {lacks[-1]}")


def _judge_moves(watch: Watch, row: WorkerRow) -> None:
    slots = [each for each in watch.mirror.workers.values() if each.group_oid == row.group_oid]
    leaving = [each.name for each in slots if each.state is WorkerState.STOPPING and each.move is not None]
    # One that was on its way when the group was scaled down ends as a surplus one, and another may follow.
    group = watch.mirror.groups.get(row.group_oid)
    surplus = max(0, len(slots) - group.scale) if group is not None else len(slots)
    if len(leaving) > 1 + surplus:
        watch._violation("K", f"{sorted(leaving)} leave their nodes at once, as ordered")


def may_move(watch: Watch, row: WorkerRow) -> bool:
    """Whether a rebalance has named the worker, or an update of its group finds it on the wrong node."""
    asked = (each for each in watch.world.history if each.op == "apply_rebalance")
    if any(row.oid in each.params["moves"] for each in asked):
        return True
    group, node = watch.mirror.groups[row.group_oid], watch.mirror.nodes[row.node_oid or ""]
    old_group, old_node = watch.groups.get(group.oid, group), watch.nodes.get(node.oid, node)
    updating = any(each.revision != each.settled for each in (group, old_group))
    ways = ((g, n) for g in (group, old_group) for n in (node, old_node))
    return updating and any(unmet(g.placement, n.labels) for g, n in ways)


class Told:
    """What the events make of nodes' cordons and labels."""

    def __init__(self) -> None:
        self.cordoned: set[str] = set()
        self.labels: dict[str, dict[str, str]] = {}

    def take(self, kind: str, name: str, data: dict[str, Any]) -> None:
        match kind:
            case "node_paired":
                self.labels[name] = {}
            case "node_unpaired" | "node_uncordoned":
                self.cordoned.discard(name)
            case "node_cordoned":
                self.cordoned.add(name)
            case "node_labelled":
                changed = {**self.labels.get(name, {}), **data["labels"]}
                self.labels[name] = {key: value for key, value in changed.items() if value is not None}

    def compare(self, watch: Watch) -> None:
        nodes = watch.mirror.nodes.values()
        cordoned = {row.name for row in nodes if row.cordoned is not None}
        labels = {row.name: row.labels or {} for row in nodes}
        if (cordoned, labels) != (self.cordoned, self.labels):
            told, stored = (self.cordoned, self.labels), (cordoned, labels)
            watch._violation("A", f"the events make cordons and labels {told}, the store has {stored}")
