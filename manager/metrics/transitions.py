"""How long workers and rollouts took, from what the store held before and holds now. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from busbar.bus.states import WorkerState
from msgspec import Struct


class Cause(StrEnum):
    """Why a worker was not ready before it was."""

    START = "start"
    """It was new, or had been stopped."""
    MOVE = "move"
    """It is on another node now."""
    UPDATE = "update"
    """It runs another revision on the same node."""
    RESTART = "restart"
    """It, its node or the way there failed."""


class WorkerNow(NamedTuple):
    """What counts of a worker's row."""

    state: WorkerState
    node: str | None
    revision: int


class _Worker(Struct):
    since: float
    """When it began not to be ready; meaningless while it is."""
    ready: bool = False
    served: tuple[str | None, int] | None = None
    """Node and revision when it was last ready; None: never since its start."""


class Transitions:
    """Remembers each worker and each rollout under way; both methods are told of every commit's changes.

    What happened before this was made is not known: a worker that is first seen ready adds nothing.
    """

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._rollouts: dict[str, float] = {}

    def worker(self, oid: str, now: WorkerNow | None, at: float) -> tuple[Cause, float] | None:
        """A worker's row at `at` (seconds; None: it is gone, or its group is stopped).

        Returns how long it was not ready, once it is: since it was wanted, or since it last was ready.
        """
        if now is None:
            self._workers.pop(oid, None)
            return None
        known = self._workers.get(oid)
        if known is None:
            known = self._workers[oid] = _Worker(at, now.state is WorkerState.RUNNING)
            if known.ready:
                known.served = now.node, now.revision
            return None
        if now.state is not WorkerState.RUNNING:
            if known.ready:
                known.ready, known.since = False, at
            return None
        took = None if known.ready else (_cause(known.served, now), at - known.since)
        known.ready, known.served = True, (now.node, now.revision)
        return took

    def rollout(self, group_oid: str, under_way: bool | None, at: float) -> float | None:
        """Whether a group's update is under way (None: the group is gone). Returns how long it took, once."""
        if under_way:
            self._rollouts.setdefault(group_oid, at)
            return None
        began = self._rollouts.pop(group_oid, None)
        return None if began is None or under_way is None else at - began


def _cause(served: tuple[str | None, int] | None, now: WorkerNow) -> Cause:
    if served is None:
        return Cause.START
    node, revision = served
    if node != now.node:
        return Cause.MOVE
    return Cause.UPDATE if revision != now.revision else Cause.RESTART
