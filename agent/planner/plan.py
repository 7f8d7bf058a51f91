"""Reconciles a node's workers with its assignment: reconcile(desired, workers, now) gives the steps. Pure.

Every plan keeps these invariants: a worker never has two instances at once; none is stopped because an
assignment is missing; a worker that differs from its assignment is retried however often it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from busbar.bus.messages import AssignedWorker, Assignment
from msgspec import Struct

from . import lifecycle, limits
from .lifecycle import NEVER, AfterStop, Phase, Worker, WorkerTiming
from .restart import STABLE_S

MAX_ADVANCE: Final = 2**32
"""By how much an assignment's epoch or version may exceed the applied one. More is a forgery that would use
up the range of the numbers, so that no manager could ever supersede it."""


class AdmitWorker(Struct, frozen=True):
    """A newly assigned worker: it waits for its start from now on."""

    oid: str
    reason: str


class StartWorker(Struct, frozen=True):
    """Start an instance; there is none. `kept`: with what it ran before, as its definition is bad."""

    oid: str
    reason: str
    kept: bool = False


class HoldWorker(Struct, frozen=True):
    """Do not start it, for `held`; None: that no longer holds."""

    oid: str
    held: str | None
    reason: str


class CheckWorker(Struct, frozen=True):
    """Look at the definition that is to replace the one of the running instance."""

    oid: str
    reason: str


class StopWorker(Struct, frozen=True):
    """Stop the instance, by SIGKILL if need be."""

    oid: str
    after: AfterStop
    reason: str


class ProbeWorker(Struct, frozen=True):
    """Run its readiness probe, or (`live`) its liveness probe."""

    oid: str
    live: bool
    reason: str


class TellPeers(Struct, frozen=True):
    """Tell its process of its present peers; it goes on."""

    oid: str
    reason: str


class ResetBackoff(Struct, frozen=True):
    """It has been ready long enough: reset its failure count."""

    oid: str
    reason: str


Step = (
    AdmitWorker | StartWorker | HoldWorker | CheckWorker | StopWorker | ProbeWorker | TellPeers | ResetBackoff
)


def desired_workers(assignment: Assignment | None) -> dict[str, AssignedWorker] | None:
    """The workers to run, by oid; None without an assignment: then nothing is known.

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


def reconcile(
    desired: Mapping[str, AssignedWorker] | None,
    workers: Mapping[str, Worker],
    now: float,
    timing: WorkerTiming,
    max_workers: int | None = None,
) -> list[Step]:
    """The steps to take now, each with its reason.

    At most `timing.starting_limit` workers are starting at once; those that have waited longest go first.
    None is started beyond `max_workers`; those that run are not stopped for it.
    """
    out: list[Step] = []
    for worker in workers.values():
        if not worker.busy:
            out += _steps_for(desired, worker, now, timing)
    if desired is not None:
        out += [AdmitWorker(oid, "assigned") for oid in desired if oid not in workers]
        held = limits.without_room(desired, workers, max_workers)
        out += _holds(workers.values(), held, max_workers or 0)
        startable = [worker for worker in workers.values() if worker.oid not in held]
        out += _starts(desired, startable, now, timing)
    return out


def _holds(workers: Iterable[Worker], held: set[str], max_workers: int) -> Iterator[HoldWorker]:
    reason = limits.no_room(max_workers)
    for worker in workers:
        if worker.oid in held and worker.held != reason:
            yield HoldWorker(worker.oid, reason, reason)
        elif worker.held is not None and worker.oid not in held:
            yield HoldWorker(worker.oid, None, "there is room for it")


def _steps_for(
    desired: Mapping[str, AssignedWorker] | None, worker: Worker, now: float, timing: WorkerTiming
) -> Iterator[Step]:
    if worker.phase is Phase.STOPPED:
        return
    if worker.phase is Phase.STOPPING:
        if worker.next_start <= now:
            yield StopWorker(worker.oid, worker.after_stop, worker.stop_reason or "stopping")
        return
    stop = _stop_if_not_desired(desired, worker) or _stop_if_unhealthy(desired, worker, now, timing)
    if stop is not None:
        yield stop
    elif worker.alive:
        yield from _check_steps(desired, worker, now)
        yield from _peer_steps(desired, worker, now)
        yield from _health_steps(worker, now)


def _check_steps(
    desired: Mapping[str, AssignedWorker] | None, worker: Worker, now: float
) -> Iterator[CheckWorker]:
    definition = (desired or {}).get(worker.oid)
    if definition is None or worker.checking or worker.matches(definition.generation, definition.digest):
        return
    if worker.rejected != (definition.generation, definition.digest) or worker.next_check <= now:
        yield CheckWorker(worker.oid, f"generation {definition.generation} is to replace {worker.generation}")


def _stop_if_not_desired(desired: Mapping[str, AssignedWorker] | None, worker: Worker) -> StopWorker | None:
    """An assignment stops it by lacking it or by defining it differently; no assignment never does.

    One that was ready, or has fallen back, is stopped only for a definition that was found good.
    """
    if desired is None:
        return None
    definition = desired.get(worker.oid)
    if definition is None:
        return StopWorker(worker.oid, AfterStop.FORGET, "no longer assigned to this node")
    if worker.alive and not worker.matches(definition.generation, definition.digest):
        key = definition.generation, definition.digest
        serves = worker.phase is Phase.RUNNING or worker.by_liveness
        if worker.rejected == key or (serves and worker.checked != key):
            return None
        change = f"generation {definition.generation} replaces {worker.generation}"
        return StopWorker(worker.oid, AfterStop.REPLACE, f"new definition: {change}")
    return None


def _stop_if_unhealthy(
    desired: Mapping[str, AssignedWorker] | None, worker: Worker, now: float, timing: WorkerTiming
) -> StopWorker | None:
    if desired is None:
        # It could not be started again: an unresponsive worker is better than none.
        return None
    if worker.phase is Phase.STARTING and now >= worker.deadline:
        error = worker.probe_error or "not probed yet"
        return StopWorker(worker.oid, AfterStop.BACKOFF, f"not ready within {worker.deadline_s:g} s: {error}")
    if worker.phase is Phase.RUNNING and worker.failed_probes >= timing.live_misses:
        error = f"hung: {worker.failed_probes} probes unanswered, {worker.probe_error}"
        return StopWorker(worker.oid, AfterStop.BACKOFF, error)
    return None


def _peer_steps(
    desired: Mapping[str, AssignedWorker] | None, worker: Worker, now: float
) -> Iterator[TellPeers]:
    if worker.oid in (desired or {}) and worker.peers != worker.known_peers and worker.next_peers <= now:
        yield TellPeers(worker.oid, "its peers have changed")


def _health_steps(worker: Worker, now: float) -> Iterator[Step]:
    running = worker.phase is Phase.RUNNING
    if running and worker.last_failure and now - worker.since >= STABLE_S:
        yield ResetBackoff(worker.oid, f"ready for {STABLE_S:g} s")
    if worker.next_probe <= now and not worker.probing:
        live = running or worker.by_liveness
        yield ProbeWorker(worker.oid, live, "liveness" if live else "readiness")


def _starts(
    desired: Mapping[str, AssignedWorker], workers: Iterable[Worker], now: float, timing: WorkerTiming
) -> Iterator[StartWorker]:
    known = list(workers)
    slots = timing.starting_limit - sum(1 for worker in known if worker.phase is Phase.STARTING)
    due = [worker for worker in known if _start_due(desired, worker, now)]
    for worker in sorted(due, key=lambda each: each.next_start)[: max(0, slots)]:
        failure, definition = worker.last_failure, desired[worker.oid]
        kept = lifecycle.falls_back(worker, (definition.generation, definition.digest), now)
        yield StartWorker(worker.oid, f"restart after: {failure}" if failure else "assigned", kept)


def _start_due(desired: Mapping[str, AssignedWorker], worker: Worker, now: float) -> bool:
    definition = desired.get(worker.oid)
    if definition is None or worker.busy or worker.phase is not Phase.WAITING:
        return False
    key = definition.generation, definition.digest
    changed = not worker.matches(*key) and worker.rejected != key
    return changed or worker.next_start <= now


def next_due(workers: Iterable[Worker], now: float) -> float:
    """When, without any event, `reconcile` may next give a step (monotonic seconds)."""
    return min((_due(worker, now) for worker in workers if not worker.busy), default=NEVER)


def _due(worker: Worker, now: float) -> float:
    match worker.phase:
        case Phase.WAITING:
            # Overdue, it waits for a free start slot, not for time to pass.
            return worker.next_start if worker.next_start > now else NEVER
        case Phase.STOPPING:
            return worker.next_start
        case Phase.STARTING:
            return min(worker.deadline, worker.next_probe, _check_due(worker), _peers_due(worker))
        case Phase.RUNNING:
            stable = worker.since + STABLE_S if worker.last_failure else NEVER
            return min(worker.next_probe, stable, _check_due(worker), _peers_due(worker))
        case Phase.STOPPED:
            return NEVER


def _check_due(worker: Worker) -> float:
    return worker.next_check if worker.rejected and not worker.checking else NEVER


def _peers_due(worker: Worker) -> float:
    return worker.next_peers if worker.peers != worker.known_peers else NEVER


# --- which assignment counts -------------------------------------------------------------------------------


def is_redelivery(applied: Assignment | None, new: Assignment) -> bool:
    """Whether this is the applied assignment again, or an older one of the same manager that came late.

    Such duplicates are ignored without an error.
    """
    if applied is None or applied.store != new.store or applied.epoch != new.epoch:
        return False
    return new == applied or new.version < applied.version


def refusal(applied: Assignment | None, new: Assignment, *, adopt_store: bool) -> str | None:
    """Why an assignment is refused; None when it is to be applied (the contract's rule, section 7).

    It must come from the same store (any, when none is applied) with a greater (epoch, version).
    """
    if applied is None:
        return None
    if new.store != applied.store:
        if adopt_store:
            return None
        return (
            f"assignment of store '{new.store}' refused: this node belongs to store '{applied.store}' "
            "(start the agent once with --adopt-store to move it)"
        )
    have, got = f"{applied.epoch}/{applied.version}", f"{new.epoch}/{new.version}"
    if _advance(applied, new) > MAX_ADVANCE:
        return f"assignment {got} (epoch/version) refused: too far ahead of {have}"
    if (new.epoch, new.version) <= (applied.epoch, applied.version):
        return f"assignment {got} (epoch/version) refused: {have} is applied"
    return None


def _advance(applied: Assignment, new: Assignment) -> int:
    """How far an assignment is ahead of the applied one."""
    return new.epoch - applied.epoch or new.version - applied.version
