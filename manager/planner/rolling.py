"""How a group's workers are renewed a few at a time, when what they run has changed. Pure.

There is no memory of an update: a worker whose revision is not its group's is outdated, and that is all that
counts. So an update may be interrupted anywhere, halted by workers that do not become ready, or superseded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from busbar.bus.states import ASSIGNED, WorkerState

from .model import GroupView, WorkerView

_W = WorkerState


class Revised(Protocol):
    """A group, as a view or as a row of the store: how many workers it has, and which revision they run."""

    @property
    def scale(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def settled(self) -> int: ...
    @property
    def max_unavailable(self) -> int: ...
    @property
    def max_surge(self) -> int: ...


class Assignable(Protocol):
    """A worker, as a view or as a row of the store."""

    @property
    def state(self) -> WorkerState: ...
    @property
    def revision(self) -> int: ...


def updating(group: Revised) -> bool:
    """Whether its workers have not all been ready with its present revision yet."""
    return group.revision != group.settled


def outdated(group: Revised, worker: Assignable) -> bool:
    """Whether it is assigned an older revision of what its group runs."""
    return worker.state in ASSIGNED and worker.revision != group.revision


def max_slots(group: Revised) -> int:
    """The highest ordinal that a worker of the group may have: the scale and, during an update, the surge."""
    return group.scale + (group.max_surge if updating(group) else 0)


def least_ready(group: Revised) -> int:
    """How many workers are to stay ready during an update."""
    return max(0, group.scale - group.max_unavailable)


def slots(group: GroupView) -> int:
    """How many workers there are to be now: the scale, and the surge that an update under way may use.

    The surge is opened only beside outdated workers, and what was opened stays until all others are ready.
    """
    most = max_slots(group)
    if most == group.scale:
        return most
    old = sum(1 for w in group.workers if w.ordinal <= group.scale and outdated(group, w))
    opened = (w.ordinal for w in group.workers if w.ordinal <= most and w.state is not _W.STOPPED)
    return max(group.scale + min(group.max_surge, old), *opened, group.scale)


def ready_of(group: GroupView) -> int:
    """How many of the workers asked for are ready; surplus ones count only where an update's surge serves."""
    counted = slots(group)
    return sum(1 for w in group.workers if w.state is _W.RUNNING and w.ordinal <= counted)


def progress(revision: int, updated: int, scale: int) -> str:
    """How far an update is, in words."""
    return f"update to revision {revision}: {updated} of {scale} workers"


def updated(group: GroupView) -> int:
    """How many of the workers asked for are assigned the present revision."""
    wanted = (w for w in group.workers if w.ordinal <= group.scale and w.state in ASSIGNED)
    return sum(1 for w in wanted if w.revision == group.revision)


def settled(group: GroupView, steady: Iterable[WorkerView]) -> bool:
    """Whether every worker that is asked for is ready with the present revision; `steady` as in `balance`."""
    ready = (w for w in steady if w.ordinal <= group.scale and w.state is _W.RUNNING)
    return sum(1 for w in ready if w.revision == group.revision) == group.scale


@dataclass(slots=True)
class Balance:
    """What a group can spare now; `spend` keeps it up to date within one pass."""

    ready: int
    least: int
    """So many are to stay ready."""
    in_flight: int
    """Workers on their way to being ready with the present revision, or from one node to another."""
    most: int

    def spares(self, worker: WorkerView) -> bool:
        """Whether this one may be taken down now: what is not ready costs nothing, but not all at once."""
        if self.in_flight >= self.most:
            return False
        return worker.state is not _W.RUNNING or self.ready > self.least

    def spend(self, worker: WorkerView) -> None:
        """It is taken down, to come back."""
        self.in_flight += 1
        self.ready -= worker.state is _W.RUNNING


def balance(group: GroupView, steady: Iterable[WorkerView]) -> Balance:
    """What a group may do without during an update.

    `steady` are its workers on nodes that can be heard: whatever the others were last called, they count as
    not ready.
    """
    counted = slots(group)
    ready = {w.oid for w in steady if w.state is _W.RUNNING and w.ordinal <= counted}
    others = [w for w in group.workers if w.ordinal <= counted and w.oid not in ready]
    in_flight = sum(1 for w in others if _in_flight(group, w))
    return Balance(len(ready), least_ready(group), in_flight, group.max_unavailable + group.max_surge)


def _in_flight(group: GroupView, worker: WorkerView) -> bool:
    if worker.state is _W.STOPPING:
        return True
    return worker.state in ASSIGNED and worker.revision == group.revision


def yields(
    group: GroupView, steady: Iterable[WorkerView], waiting: Iterable[WorkerView], spare: Balance
) -> WorkerView | None:
    """The surge worker that makes room for one asked for, which no node can take; None where there is none.

    Only when nothing is left to be renewed: before that, the surge is needed. `steady` as in `balance`.
    """
    if not any(w.ordinal <= group.scale for w in waiting) or any(outdated(group, w) for w in group.workers):
        return None
    surge = (w for w in steady if w.ordinal > group.scale)
    return next((w for w in surge if w.state is not _W.RUNNING or spare.ready > spare.least), None)


def order(group: GroupView, workers: Iterable[WorkerView]) -> list[WorkerView]:
    """The workers to be renewed among these, those that serve nobody first.

    One that is UNKNOWN is left alone: its node is heard again, and will say how it is. Surplus ones end with
    the update anyway.
    """
    wanted = (w for w in workers if w.ordinal <= group.scale and w.state is not _W.UNKNOWN)
    found = [w for w in wanted if outdated(group, w)]
    return sorted(found, key=lambda w: (w.state is _W.RUNNING, w.ordinal))
