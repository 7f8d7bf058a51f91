"""Moves that were ordered: one worker of a group at a time, as in a drain. Pure.

The order is stored with the worker, and ends when the worker is placed, or when its node can't take it.
"""

from __future__ import annotations

from collections.abc import Iterable

from busbar.bus.states import WorkerState

from . import draining, rolling
from .model import GroupView, WorkerView


def to_move(reachable: Iterable[WorkerView]) -> list[WorkerView]:
    """The workers that are ordered elsewhere, in order. An UNKNOWN one waits until its node has reported it.

    `reachable` are those whose nodes can be heard.
    """
    found = [w for w in reachable if w.move is not None and w.state is not WorkerState.UNKNOWN]
    return sorted(found, key=lambda w: w.move.order if w.move else 0)


def blocker(group: GroupView, reachable: Iterable[WorkerView], worker: WorkerView) -> str | None:
    """Why the group can't do without this worker now; None when it can."""
    if rolling.updating(group):
        return f"group {group.name} is being updated"
    return draining.blocker(group, reachable, worker)
