"""Draining: the workers of a node are moved away, one per group at a time. Pure.

Like a rollout, a drain keeps no state of its own: a draining node admits no worker, and all on it are to
move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from busbar.bus.states import NodeStatus, WorkerState

from . import rolling
from .liveness import Fleet
from .model import Action, GroupView, NoteDrain, WorkerView

DRAINED: Final = "drained"
"""The note of a node on which nothing is left."""


def to_move(nodes: Collection[str], reachable: Iterable[WorkerView]) -> list[WorkerView]:
    """The workers to be moved off these nodes, in order: those that are not ready first.

    `reachable` are those whose nodes can be heard. An UNKNOWN one waits until its node has reported it.
    """
    found = (w for w in reachable if w.node_oid in nodes and w.state is not WorkerState.UNKNOWN)
    return sorted(found, key=lambda w: (w.state is WorkerState.RUNNING, w.ordinal))


def blocker(group: GroupView, reachable: Iterable[WorkerView], worker: WorkerView) -> str | None:
    """Why the group can't do without this worker now; None when it can.

    Another is moving already, or the group would be short of more than one ready worker.
    """
    counted = rolling.slots(group)
    moving = [w for w in group.workers if w.state is WorkerState.STOPPING and w.ordinal <= counted]
    if moving:
        return f"{moving[0].name} is leaving"
    ready = sum(1 for w in reachable if w.state is WorkerState.RUNNING and w.ordinal <= counted)
    if worker.state is WorkerState.RUNNING and ready < group.scale:
        return f"{ready} of {group.scale} workers of group {group.name} are ready"
    return None


def notes(fleet: Fleet, left: Mapping[str, int], stays: Mapping[str, Mapping[str, str]]) -> list[Action]:
    """New notes of the draining nodes: how many workers are `left`, and why the first one `stays`."""
    actions: list[Action] = []
    draining = (node for node in fleet.nodes.values() if node.draining)
    for node in sorted(draining, key=lambda node: node.name):
        note = _note(left.get(node.oid, 0), stays.get(node.oid, {}))
        confirmed = node.applied and fleet.status[node.oid] is NodeStatus.ONLINE
        # Once confirmed it stays so: a later assignment, as for a mesh without workers here, assigns nothing.
        if note == DRAINED and node.drain_note != DRAINED and not confirmed:
            note = "nothing is assigned to it; it has not confirmed that"
        if note != node.drain_note:
            actions.append(NoteDrain(node.oid, note, note))
    return actions


def _note(left: int, stays: Mapping[str, str]) -> str:
    if not left:
        return DRAINED
    count = "1 worker is to move" if left == 1 else f"{left} workers are to move"
    worker = next(iter(stays), None)
    return f"{count}; {worker} stays: {stays[worker]}" if worker is not None else count
