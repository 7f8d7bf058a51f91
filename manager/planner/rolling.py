"""Rolling updates: a group's outdated workers are replaced a few at a time. Pure.

A rollout keeps no state of its own: a worker whose revision is not its group's is outdated. So it can be
interrupted anywhere, blocked by workers that do not become ready, or superseded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from busbar.bus.states import ASSIGNED, WorkerState
from msgspec import Struct

from .model import GroupView, WorkerView

_W = WorkerState


class Revised(Protocol):
    """A group, as a view or as a row of the store."""

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
    """Whether a rollout is under way: not all workers have been ready with the present revision yet."""
    return group.revision != group.settled


def outdated(group: Revised, worker: Assignable) -> bool:
    """Whether the worker is assigned another revision than its group's present one."""
    return worker.state in ASSIGNED and worker.revision != group.revision


def max_slots(group: Revised) -> int:
    """The highest ordinal that a worker of the group may have: the scale and, during a rollout, the surge."""
    return group.scale + (group.max_surge if updating(group) else 0)


def least_ready(group: Revised) -> int:
    """How many workers stay ready during a rollout."""
    return max(0, group.scale - group.max_unavailable)


def slots(group: GroupView) -> int:
    """How many workers the group has now: the scale and, during a rollout, the surge in use.

    Surge slots are opened only while workers are outdated, and stay open until the rollout is complete.
    """
    most = max_slots(group)
    if most == group.scale:
        return most
    old = sum(1 for w in group.workers if w.ordinal <= group.scale and outdated(group, w))
    opened = (w.ordinal for w in group.workers if w.ordinal <= most and w.state is not _W.STOPPED)
    return max(group.scale + min(group.max_surge, old), *opened, group.scale)


def ready_of(group: GroupView) -> int:
    """How many workers are ready; surplus ones count only as the surge of a rollout."""
    counted = slots(group)
    return sum(1 for w in group.workers if w.state is _W.RUNNING and w.ordinal <= counted)


def progress(revision: int, updated: int, scale: int) -> str:
    """The progress of a rollout, in words."""
    return f"update to revision {revision}: {updated} of {scale} workers"


def updated(group: GroupView) -> int:
    """How many workers within the scale are assigned the present revision."""
    wanted = (w for w in group.workers if w.ordinal <= group.scale and w.state in ASSIGNED)
    return sum(1 for w in wanted if w.revision == group.revision)


def is_complete(group: GroupView, reachable: Iterable[WorkerView]) -> bool:
    """Whether every worker within the scale is ready with the present revision.

    `reachable`, here and below, are the workers on nodes that can be heard; all others count as not ready.
    """
    ready = (w for w in reachable if w.ordinal <= group.scale and w.state is _W.RUNNING)
    return sum(1 for w in ready if w.revision == group.revision) == group.scale


class DisruptionBudget(Struct):
    """How many of a group's workers may be taken down now; `spend` keeps it up to date within one pass."""

    ready: int
    least: int
    """So many must stay ready."""
    in_flight: int
    """Workers that are becoming ready with the present revision, or moving."""
    most: int
    """So many may be in flight."""

    def allows(self, worker: WorkerView) -> bool:
        """Whether this worker may be taken down now. One that is not ready needs no budget but a place in
        flight."""
        if self.in_flight >= self.most:
            return False
        return worker.state is not _W.RUNNING or self.ready > self.least

    def spend(self, worker: WorkerView) -> None:
        """The worker is taken down, to come back."""
        self.in_flight += 1
        self.ready -= worker.state is _W.RUNNING


def disruption_budget(group: GroupView, reachable: Iterable[WorkerView]) -> DisruptionBudget:
    """The group's budget during a rollout, from `max_unavailable` and `max_surge`."""
    counted = slots(group)
    ready = {w.oid for w in reachable if w.state is _W.RUNNING and w.ordinal <= counted}
    others = [w for w in group.workers if w.ordinal <= counted and w.oid not in ready]
    in_flight = sum(1 for w in others if _in_flight(group, w))
    most = group.max_unavailable + group.max_surge
    return DisruptionBudget(len(ready), least_ready(group), in_flight, most)


def _in_flight(group: GroupView, worker: WorkerView) -> bool:
    if worker.state is _W.STOPPING:
        return True
    return worker.state in ASSIGNED and worker.revision == group.revision


def surge_to_release(
    group: GroupView,
    reachable: Iterable[WorkerView],
    unplaceable: Iterable[WorkerView],
    budget: DisruptionBudget,
) -> WorkerView | None:
    """The surge worker to stop so that a worker within the scale, which no node admits, finds room; or None.

    Only once nothing is outdated any more: until then the rollout needs its surge.
    """
    if not any(w.ordinal <= group.scale for w in unplaceable):
        return None
    if any(outdated(group, w) for w in group.workers):
        return None
    surge = (w for w in reachable if w.ordinal > group.scale)
    return next((w for w in surge if w.state is not _W.RUNNING or budget.ready > budget.least), None)


def order(group: GroupView, workers: Iterable[WorkerView]) -> list[WorkerView]:
    """The outdated ones among these workers in the order of replacement: those that are not ready first.

    An UNKNOWN one waits until its node has reported it; surplus ones go when the rollout is complete.
    """
    wanted = (w for w in workers if w.ordinal <= group.scale and w.state is not _W.UNKNOWN)
    found = [w for w in wanted if outdated(group, w)]
    return sorted(found, key=lambda w: (w.state is _W.RUNNING, w.ordinal))
