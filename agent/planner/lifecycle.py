"""One worker as its agent knows it, and what each happening makes of it. Pure: a change is a new value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from busbar.bus.states import WorkerState

from . import restart

NEVER: Final = math.inf
MAX_REASON: Final = 2000
"""Characters of a reason; the contract allows 4,096."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals in seconds. A hung worker is noticed after `live_misses` probes, one each `live_every`."""

    probe_every: float = 0.05
    probe_every_max: float = 0.25
    live_every: float = 5.0
    live_misses: int = 3
    starting_limit: int = 8
    stop_again: float = 1.0


class Phase(StrEnum):
    """Where a worker stands. In WAITING and STOPPED alone it has no process."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Then(StrEnum):
    """What follows a stop."""

    FORGET = "forget"
    REPLACE = "replace"
    BACKOFF = "backoff"
    HOLD = "hold"


PATIENCE: Final = 20
"""Unanswered probes of a starting worker (some 2 s) after which its reason says what is missing."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker. `generation` and `digest` are those of the instance it has, or had last.

    Times are monotonic seconds. `busy`: something about it is under way, nothing may be begun. `failures` are
    consecutive ones; `restarts` counts the starts of this definition after its first. `cause` is the last
    failure in words.
    """

    oid: str
    name: str
    cluster: str
    generation: int = 0
    digest: str = ""
    phase: Phase = Phase.WAITING
    since: float = 0.0
    busy: bool = False
    next_start: float = 0.0
    delay: float = 0.0
    deadline: float = NEVER
    deadline_s: float = 0.0
    probe_at: float = NEVER
    probing: bool = False
    by_life: bool = False
    misses: int = 0
    missed: str | None = None
    failures: int = 0
    starts: int = 0
    restarts: int = 0
    cause: str | None = None
    then: Then = Then.FORGET
    stop_reason: str | None = None

    @property
    def alive(self) -> bool:
        """It has, or may have, a process."""
        return self.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)

    def is_defined_as(self, generation: int, digest: str) -> bool:
        """Whether its instance is of this definition."""
        return (self.generation, self.digest) == (generation, digest)


def admitted(oid: str, name: str, cluster: str, generation: int, digest: str, now: float) -> Worker:
    """A worker that was assigned just now."""
    return Worker(oid, name, cluster, generation, digest, since=now, next_start=now)


def begun(worker: Worker, generation: int, digest: str, now: float) -> Worker:
    """Its start is being prepared. A new definition begins with a clean record."""
    if not worker.is_defined_as(generation, digest):
        happened = restart.failures_after(worker.failures, restart.Happened.REPLACED)
        worker = replace(worker, failures=happened, starts=0, restarts=0, cause=None)
    return replace(
        worker,
        generation=generation,
        digest=digest,
        phase=Phase.STARTING,
        since=now,
        busy=True,
        deadline=NEVER,
        probe_at=NEVER,
        probing=False,
        by_life=False,
        misses=0,
        missed=None,
    )


def spawned(worker: Worker, now: float, deadline_s: float) -> Worker:
    """Its process runs; it is ready only when its probe says so."""
    return replace(
        worker,
        busy=False,
        since=now,
        probe_at=now,
        deadline=now + deadline_s,
        deadline_s=deadline_s,
        starts=worker.starts + 1,
        restarts=worker.starts,
    )


def adopted(worker: Worker, now: float, deadline_s: float, was_ready: bool) -> Worker:
    """Its process was found alive by a new agent. One that had been ready need only prove that it lives."""
    return replace(
        worker,
        phase=Phase.STARTING,
        busy=False,
        since=now,
        probe_at=now,
        by_life=was_ready,
        deadline=now + deadline_s,
        deadline_s=deadline_s,
        starts=worker.restarts + 1,
    )


def probing(worker: Worker) -> Worker:
    """It is being asked."""
    return replace(worker, probing=True, probe_at=NEVER)


def answered(worker: Worker, now: float, timing: Timing) -> Worker:
    """It is well: ready, or still alive."""
    since = worker.since if worker.phase is Phase.RUNNING else now
    return replace(
        worker,
        phase=Phase.RUNNING,
        since=since,
        probing=False,
        probe_at=now + timing.live_every,
        deadline=NEVER,
        misses=0,
        missed=None,
    )


def silent(worker: Worker, now: float, why: str, timing: Timing) -> Worker:
    """It did not answer well."""
    if worker.phase is Phase.RUNNING:
        wait = timing.live_every
    else:
        # Often at first, so that a quick start is seen at once; then more rarely, for those that take long.
        wait = min(timing.probe_every_max, timing.probe_every * (1.0 + (now - worker.since)))
    misses = worker.misses + 1
    return replace(worker, probing=False, probe_at=now + wait, misses=misses, missed=why)


def slept(worker: Worker, seconds: float) -> Worker:
    """Its agent was stopped for that long, and asked nothing: the worker is not to blame."""
    return replace(worker, deadline=worker.deadline + seconds, misses=0)


def unwatched(worker: Worker, now: float) -> Worker:
    """Nothing can be asked of it: its living process is all that there is to know."""
    return replace(answered(worker, now, Timing()), probe_at=NEVER)


def failed(worker: Worker, now: float, cause: str, random_0_1: float) -> Worker:
    """It ended by itself, could not be started, or had to be stopped: it waits for its next start."""
    ready_for = now - worker.since if worker.phase is Phase.RUNNING else None
    failures = restart.failures_after(worker.failures, restart.judge(ready_for))
    delay = restart.BACKOFF.delay(failures, random_0_1)
    return replace(
        worker,
        phase=Phase.WAITING,
        since=now,
        failures=failures,
        delay=delay,
        next_start=now + delay,
        deadline=NEVER,
        probe_at=NEVER,
        probing=False,
        cause=cause[:MAX_REASON],
    )


def stable(worker: Worker) -> Worker:
    """It has been ready for long enough: what was is forgotten."""
    return replace(worker, failures=0, cause=None, delay=0.0)


def stopping(worker: Worker, now: float, then: Then, reason: str) -> Worker:
    """It is being stopped."""
    return replace(
        worker,
        phase=Phase.STOPPING,
        since=now,
        busy=True,
        probe_at=NEVER,
        probing=False,
        deadline=NEVER,
        then=then,
        stop_reason=reason,
    )


def wanted_again(worker: Worker) -> Worker:
    """It was to be forgotten after its stop, and is assigned anew: it will start with a clean record.

    Its stop goes on: there are never two of it.
    """
    if worker.phase is not Phase.STOPPING or worker.then is not Then.FORGET:
        return worker
    reason = "assigned again: what is being stopped gives way to a new start"
    return replace(
        worker, then=Then.REPLACE, stop_reason=reason, failures=0, starts=0, restarts=0, cause=None
    )


def not_gone(worker: Worker, now: float, why: str, timing: Timing) -> Worker:
    """Something of it is still there after a stop: it is tried again."""
    return replace(worker, busy=False, next_start=now + timing.stop_again, missed=why)


def gone(worker: Worker, now: float, random_0_1: float) -> Worker | None:
    """Nothing of it runs any more; None when nothing of it is to be remembered either."""
    match worker.then:
        case Then.FORGET:
            return None
        case Then.HOLD:
            return replace(worker, phase=Phase.STOPPED, busy=False, since=now)
        case Then.REPLACE:
            return replace(worker, phase=Phase.WAITING, busy=False, since=now, next_start=now)
        case Then.BACKOFF:
            return replace(failed(worker, now, worker.stop_reason or "stopped", random_0_1), busy=False)


_SHOWN: Final = {
    Phase.STARTING: WorkerState.STARTING,
    Phase.RUNNING: WorkerState.RUNNING,
    Phase.STOPPING: WorkerState.STOPPING,
    Phase.STOPPED: WorkerState.STOPPED,
}


def shown(worker: Worker) -> WorkerState:
    """Its state in the contract's words."""
    if worker.phase is Phase.WAITING:
        return WorkerState.BACKOFF if worker.failures else WorkerState.STARTING
    return _SHOWN[worker.phase]


def reason(worker: Worker) -> str | None:
    """Why it is as it is, in words; None when all is well."""
    match worker.phase:
        case Phase.WAITING:
            tail = f"next try in {worker.delay:.2g} s; " if worker.failures else ""
            return f"{tail}{worker.cause}"[:MAX_REASON] if worker.cause else "waits for its turn to start"
        case Phase.STARTING if worker.misses >= PATIENCE:
            before = f"; before: {worker.cause}" if worker.cause else ""
            return f"not ready yet: {worker.missed}{before}"[:MAX_REASON]
        case Phase.STARTING:
            return f"restarting: {worker.cause}"[:MAX_REASON] if worker.cause else None
        case Phase.RUNNING if worker.misses:
            return f"does not answer: {worker.missed}"[:MAX_REASON]
        case Phase.RUNNING:
            return f"restarted: {worker.cause}"[:MAX_REASON] if worker.cause else None
        case Phase.STOPPING if worker.missed and not worker.busy:
            return f"{worker.stop_reason}; {worker.missed}"[:MAX_REASON]
        case _:
            return worker.stop_reason
