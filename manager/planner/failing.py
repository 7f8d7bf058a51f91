"""Workers that can't start where they are: tried elsewhere, and their node is avoided for a while. Pure.

One at a time per group, and never to a node where a worker of the group fails too: a definition that fails
everywhere stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from busbar.bus.states import WorkerState

from . import rolling
from .model import GroupView, WorkerView

TRY_S: Final = 15.0
"""Seconds of failed starts on one node until another is tried: an agent starts it some seven times."""
AVOID_S: Final = 600.0
"""Seconds for which the group's workers go to that node only where no other has room."""


def to_move(group: GroupView, reachable: Iterable[WorkerView], now: float) -> WorkerView | None:
    """The worker to be tried elsewhere; None when there is none, or another of its group is leaving a node.

    During a rollout only if a worker is ready with the new revision: otherwise that is the likelier cause.
    """
    counted = [w for w in reachable if w.ordinal <= rolling.slots(group)]
    if any(w.state is WorkerState.STOPPING for w in group.workers):
        return None
    if rolling.updating(group) and not any(
        w.state is WorkerState.RUNNING and w.revision == group.revision for w in counted
    ):
        return None
    return next((w for w in sorted(counted, key=lambda w: w.ordinal) if _given_up(w, now)), None)


def unfit(group: GroupView, now: float) -> frozenset[str]:
    """The nodes on which a worker of the group fails to start now."""
    return frozenset(
        w.node_oid
        for w in group.workers
        if w.node_oid and w.failing_since is not None and w.failing_since <= now
    )


def _given_up(worker: WorkerView, now: float) -> bool:
    since = worker.failing_since
    return worker.state is WorkerState.BACKOFF and since is not None and now - since >= TRY_S
