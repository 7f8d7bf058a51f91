"""How the workers of a node that is to be emptied leave it, one per group at a time. Pure.

As with updates there is no memory: a draining node takes no new worker, and whatever is on it is to go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from busbar.bus.states import NodeStatus, WorkerState

from . import rolling
from .liveness import Fleet
from .model import Action, GroupView, NoteDrain, WorkerView

DRAINED: Final = "drained"
"""The note of a node on which nothing is left."""


def leaving(nodes: Collection[str], steady: Iterable[WorkerView]) -> list[WorkerView]:
    """The workers that are to leave these nodes, those that serve nobody first.

    `steady` are those whose nodes can be heard. One that is UNKNOWN is left alone until its node has said how
    it is.
    """
    found = (w for w in steady if w.node_oid in nodes and w.state is not WorkerState.UNKNOWN)
    return sorted(found, key=lambda w: (w.state is WorkerState.RUNNING, w.ordinal))


def against(group: GroupView, steady: Iterable[WorkerView], worker: WorkerView) -> str | None:
    """What is to be said against its leaving now, as far as its group goes; None when nothing is.

    Another is on its way already, or the group would have more than one ready worker too few.
    """
    counted = rolling.slots(group)
    moving = [w for w in group.workers if w.state is WorkerState.STOPPING and w.ordinal <= counted]
    if moving:
        return f"{moving[0].name} is leaving"
    ready = sum(1 for w in steady if w.state is WorkerState.RUNNING and w.ordinal <= counted)
    if worker.state is WorkerState.RUNNING and ready < group.scale:
        return f"{ready} of {group.scale} workers of group {group.name} are ready"
    return None


def notes(fleet: Fleet, left: Mapping[str, int], stays: Mapping[str, Sequence[str]]) -> list[Action]:
    """What is to be told anew of the draining nodes: how many workers are `left`, and why the first stays."""
    actions: list[Action] = []
    draining = (node for node in fleet.nodes.values() if node.draining)
    for node in sorted(draining, key=lambda node: node.name):
        note = _note(left.get(node.oid, 0), stays.get(node.oid, ()))
        if note == DRAINED and not (node.applied and fleet.status[node.oid] is NodeStatus.ONLINE):
            note = "nothing is assigned to it; it has not confirmed that"
        if note != node.drain_note:
            actions.append(NoteDrain(node.oid, note, note))
    return actions


def _note(left: int, stays: Sequence[str]) -> str:
    if not left:
        return DRAINED
    count = "1 worker is to move" if left == 1 else f"{left} workers are to move"
    return f"{count}; {stays[0]}" if stays else count
