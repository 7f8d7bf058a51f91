"""What an agent does next: steps(assigned, workers, now). Pure.

Read this file and `lifecycle`, and you know the agent without having met a process. What holds of
every plan: a worker never has two instances at once; none is stopped for want of an assignment; a worker that
is not as assigned is brought there, however often it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from busbar.bus.messages import AssignedWorker, Assignment

from .lifecycle import NEVER, Phase, Then, Timing, Worker
from .restart import STABLE_S

LEAP: Final = 2**32
"""Starts of a manager, or assignments of one, that a node may have missed. A leap beyond it is a forgery that
would bring the numbers to the end of what can be counted, where no manager could put it right."""


@dataclass(frozen=True, slots=True)
class Admit:
    """A worker is assigned that was unknown: it waits for its start from now on."""

    oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start an instance; there is none."""

    oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the instance, whatever it takes."""

    oid: str
    then: Then
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask whether it is ready, or (`live`) whether it still answers."""

    oid: str
    live: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Forgive:
    """It has been ready long enough for its failures to be forgotten."""

    oid: str
    reason: str


Step = Admit | Start | Stop | Probe | Forgive


def wanted(assignment: Assignment | None) -> dict[str, AssignedWorker] | None:
    """Workers to run, by oid; None without an assignment, which means that nothing is known.

    Of two entries with one oid the higher generation counts: there is never more than one instance.
    """
    if assignment is None:
        return None
    by_oid: dict[str, AssignedWorker] = {}
    for worker in assignment.workers:
        other = by_oid.get(worker.oid)
        if worker.desired != "stopped" and (other is None or worker.generation > other.generation):
            by_oid[worker.oid] = worker
    return by_oid


def steps(
    assigned: Mapping[str, AssignedWorker] | None,
    workers: Mapping[str, Worker],
    now: float,
    timing: Timing,
) -> list[Step]:
    """What is to be done now, each step with its reason.

    At most `timing.starting_limit` workers are starting at once, those that have waited longest first.
    """
    out: list[Step] = []
    for worker in workers.values():
        if not worker.busy:
            out += _of_one(assigned, worker, now, timing)
    if assigned is not None:
        out += [Admit(oid, "assigned") for oid in assigned if oid not in workers]
        out += _starts(assigned, workers.values(), now, timing)
    return out


def _of_one(
    assigned: Mapping[str, AssignedWorker] | None, worker: Worker, now: float, timing: Timing
) -> Iterator[Step]:
    if worker.phase is Phase.STOPPED:
        return
    if worker.phase is Phase.STOPPING:
        if worker.next_start <= now:
            yield Stop(worker.oid, worker.then, worker.stop_reason or "stopping")
        return
    stop = _misplaced(assigned, worker) or _unwell(assigned, worker, now, timing)
    if stop is not None:
        yield stop
    elif worker.alive:
        yield from _watch(worker, now)


def _misplaced(assigned: Mapping[str, AssignedWorker] | None, worker: Worker) -> Stop | None:
    """Silence never means stop: only an assignment that lacks the worker, or defines it otherwise, does."""
    if assigned is None:
        return None
    definition = assigned.get(worker.oid)
    if definition is None:
        return Stop(worker.oid, Then.FORGET, "no longer assigned to this node")
    if worker.alive and not worker.is_defined_as(definition.generation, definition.digest):
        change = f"generation {worker.generation} gives way to {definition.generation}"
        return Stop(worker.oid, Then.REPLACE, f"new definition: {change}")
    return None


def _unwell(
    assigned: Mapping[str, AssignedWorker] | None, worker: Worker, now: float, timing: Timing
) -> Stop | None:
    if assigned is None:
        # It could not be started again: rather a worker that does not answer than none.
        return None
    if worker.phase is Phase.STARTING and now >= worker.deadline:
        why = worker.missed or "it was not asked yet"
        return Stop(worker.oid, Then.BACKOFF, f"not ready within {worker.deadline_s:g} s: {why}")
    if worker.phase is Phase.RUNNING and worker.misses >= timing.live_misses:
        return Stop(worker.oid, Then.BACKOFF, f"hung: {worker.misses} probes unanswered, {worker.missed}")
    return None


def _watch(worker: Worker, now: float) -> Iterator[Step]:
    running = worker.phase is Phase.RUNNING
    if running and worker.cause and now - worker.since >= STABLE_S:
        yield Forgive(worker.oid, f"ready for {STABLE_S:g} s")
    if worker.probe_at <= now and not worker.probing:
        live = running or worker.by_life
        yield Probe(worker.oid, live, "does it still answer" if live else "is it ready")


def _starts(
    assigned: Mapping[str, AssignedWorker], workers: Iterable[Worker], now: float, timing: Timing
) -> Iterator[Start]:
    known = list(workers)
    room = timing.starting_limit - sum(1 for worker in known if worker.phase is Phase.STARTING)
    due = [worker for worker in known if _start_due(assigned, worker, now)]
    for worker in sorted(due, key=lambda each: each.next_start)[: max(0, room)]:
        yield Start(worker.oid, f"again after: {worker.cause}" if worker.cause else "assigned")


def _start_due(assigned: Mapping[str, AssignedWorker], worker: Worker, now: float) -> bool:
    definition = assigned.get(worker.oid)
    if definition is None or worker.busy or worker.phase is not Phase.WAITING:
        return False
    changed = not worker.is_defined_as(definition.generation, definition.digest)
    return changed or worker.next_start <= now


def next_due(workers: Iterable[Worker], now: float) -> float:
    """When `steps` may next have something to say by the mere passing of time (monotonic seconds)."""
    return min((_due(worker, now) for worker in workers if not worker.busy), default=NEVER)


def _due(worker: Worker, now: float) -> float:
    match worker.phase:
        case Phase.WAITING:
            # Overdue, it waits for room among those starting: not for time.
            return worker.next_start if worker.next_start > now else NEVER
        case Phase.STOPPING:
            return worker.next_start
        case Phase.STARTING:
            return min(worker.deadline, worker.probe_at)
        case Phase.RUNNING:
            return min(worker.probe_at, worker.since + STABLE_S if worker.cause else NEVER)
        case Phase.STOPPED:
            return NEVER


def refusal(stored: Assignment | None, new: Assignment, *, adopt_store: bool) -> str | None:
    """Why an assignment is not to be applied, or None: the contract's rule (section 7).

    Applied is only what comes from the same store (any, when none is stored) with a greater (epoch, version).
    The same assignment once more, or an older one of the same manager that came late, is refused in an empty
    sentence: there is nothing to say about it.
    """
    if stored is None:
        return None
    if new.store != stored.store:
        if adopt_store:
            return None
        return (
            f"assignment of store '{new.store}' refused: this node belongs to store '{stored.store}' "
            "(start the agent once with --adopt-store to move it)"
        )
    if (new.epoch, new.version) > (stored.epoch, stored.version) and _leap(stored, new) <= LEAP:
        return None
    if new == stored or (new.epoch == stored.epoch and new.version < stored.version):
        return ""
    have, got = f"{stored.epoch}/{stored.version}", f"{new.epoch}/{new.version}"
    if _leap(stored, new) > LEAP:
        return f"assignment {got} (epoch/version) refused: no manager leaps so far from {have}"
    return f"assignment {got} (epoch/version) refused: {have} is applied"


def _leap(stored: Assignment, new: Assignment) -> int:
    """How far an assignment is ahead of the stored one."""
    return new.epoch - stored.epoch or new.version - stored.version
