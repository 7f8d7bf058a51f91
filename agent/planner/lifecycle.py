"""A worker's state as its agent knows it, and its transitions. Pure: a transition returns a new value."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from busbar.bus.messages import NOT_READY, NOT_RELOADED, NOT_REPLACED, OUTDATED, QUEUED
from busbar.bus.states import WorkerState
from msgspec import Struct
from msgspec.structs import replace

from . import restart

NEVER: Final = math.inf
MAX_REASON: Final = 2000
"""Characters of a reason; the contract allows 4,096."""
SLOW_START_PROBES: Final = 20
"""Failed readiness probes (about 2 s) after which the reason of a starting worker gives the probe's error."""


class WorkerTiming(Struct, frozen=True):
    """Intervals in seconds. A worker is hung after `live_misses` failed probes, one per `live_every`."""

    probe_every: float = 0.05
    probe_every_max: float = 0.25
    live_every: float = 5.0
    live_misses: int = 3
    starting_limit: int = 8
    stop_again: float = 1.0
    check_again: float = 30.0
    peers_every: float = 1.0
    peers_again: float = 5.0


Definition = tuple[int, str]
"""Generation and digest of an assigned worker."""


class Phase(StrEnum):
    """Phase of a worker. Only in WAITING and STOPPED it has no process."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class AfterStop(StrEnum):
    """What follows a stop."""

    FORGET = "forget"
    REPLACE = "replace"
    BACKOFF = "backoff"
    HOLD = "hold"


class Worker(Struct, frozen=True):
    """One worker. `generation` and `digest` are those of its present or last instance.

    Times are monotonic seconds. `busy`: an operation is in progress, so no other may begin. `failures` are
    consecutive ones; `restarts` counts the starts of this definition after the first. `by_liveness`: the
    liveness probe decides whether it is ready. `last_failure` is why it failed last, `held` why it is not
    started although it is due, `outdated` how its start differs from the one it would get now, `not_reloaded`
    what is wrong with files that have changed, so that it goes on with those it has read. `checked` was
    found good, and the running instance may be stopped for it; `rejected` was not, because of `rejection`:
    the instance stays, and it is looked at again from `next_check` on. `checking`: one is being looked at.
    `proven` is the definition with which it was ready last, to which it falls back from a rejected one.
    `peers` is the digest of the peers that it is to know, `known_peers` of those that its process knows; it
    may be told again from `next_peers` on. `members_error`: why its cluster goes on counting on routers that
    are gone for good.
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
    next_probe: float = NEVER
    probing: bool = False
    by_liveness: bool = False
    failed_probes: int = 0
    probe_error: str | None = None
    failures: int = 0
    starts: int = 0
    restarts: int = 0
    last_failure: str | None = None
    held: str | None = None
    outdated: str | None = None
    not_reloaded: str | None = None
    after_stop: AfterStop = AfterStop.FORGET
    stop_reason: str | None = None
    stop_error: str | None = None
    checking: bool = False
    checked: Definition | None = None
    rejected: Definition | None = None
    rejection: str | None = None
    next_check: float = 0.0
    proven: Definition | None = None
    peers: str = ""
    known_peers: str = ""
    next_peers: float = 0.0
    peers_error: str | None = None
    members_error: str | None = None

    @property
    def full_name(self) -> str:
        """As commands have it: two clusters may have workers of one name."""
        return f"{self.cluster}/{self.name}"

    @property
    def alive(self) -> bool:
        """It has, or may have, a process."""
        return self.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)

    def matches(self, generation: int, digest: str) -> bool:
        """Whether its instance is of this definition."""
        return (self.generation, self.digest) == (generation, digest)


def admitted(oid: str, name: str, cluster: str, generation: int, digest: str, now: float) -> Worker:
    """A newly assigned worker."""
    return Worker(oid, name, cluster, generation, digest, since=now, next_start=now)


def starting(worker: Worker, generation: int, digest: str, now: float) -> Worker:
    """Its start is being prepared. A new definition resets the failure and restart counts."""
    if not worker.matches(generation, digest):
        failures = restart.failures_after(worker.failures, restart.Outcome.REPLACED)
        worker = replace(worker, failures=failures, starts=0, restarts=0, last_failure=None)
    return replace(
        worker,
        generation=generation,
        digest=digest,
        phase=Phase.STARTING,
        since=now,
        busy=True,
        deadline=NEVER,
        next_probe=NEVER,
        probing=False,
        by_liveness=False,
        failed_probes=0,
        probe_error=None,
        held=None,
        outdated=None,
        not_reloaded=None,
        rejected=None,
        rejection=None,
    )


def check_begun(worker: Worker) -> Worker:
    """Its definition is being looked at; meanwhile it goes on as it is."""
    return replace(worker, checking=True)


def check_passed(worker: Worker, definition: Definition) -> Worker:
    """The definition is good: its instance may be stopped for it."""
    return replace(worker, checking=False, checked=definition, rejected=None, rejection=None)


def check_failed(
    worker: Worker, definition: Definition, now: float, error: str, timing: WorkerTiming
) -> Worker:
    """The definition is not: the instance stays, and the definition is looked at again later."""
    again = now + timing.check_again
    return replace(
        worker,
        checking=False,
        checked=None,
        rejected=definition,
        rejection=error[:MAX_REASON],
        next_check=again,
    )


def falls_back(worker: Worker, definition: Definition, now: float) -> bool:
    """Whether it is to be started with what it ran before, as its definition was rejected of late."""
    return (
        worker.rejected == definition and worker.proven not in (None, definition) and now < worker.next_check
    )


def falling_back(
    worker: Worker, definition: Definition, now: float, error: str, timing: WorkerTiming
) -> Worker:
    """Its definition was found bad at its start: what it was ready with last is started in its place.

    `worker` is as it was before that start.
    """
    assert worker.proven is not None
    again = worker.next_check if falls_back(worker, definition, now) else now + timing.check_again
    started = starting(worker, *worker.proven, now)
    return replace(check_failed(started, definition, now, error, timing), next_check=again)


def with_peers(worker: Worker, peers: str) -> Worker:
    """It is to know these peers."""
    return replace(worker, peers=peers)


def telling_peers(worker: Worker) -> Worker:
    """Its process is being told of its peers."""
    return replace(worker, next_peers=NEVER)


def peers_told(worker: Worker, now: float, peers: str, timing: WorkerTiming) -> Worker:
    """Its process knows these peers, and is left alone for a while: changes come in groups."""
    return replace(worker, known_peers=peers, next_peers=now + timing.peers_every, peers_error=None)


def peers_not_told(worker: Worker, now: float, error: str, timing: WorkerTiming) -> Worker:
    """Its process goes on with the peers that it knows; it is told again later."""
    return replace(worker, next_peers=now + timing.peers_again, peers_error=error[:MAX_REASON])


def peers_later(worker: Worker, now: float, timing: WorkerTiming) -> Worker:
    """A signal now could end its process, which has only begun."""
    return replace(worker, next_peers=now + timing.peers_every)


def rejection_forgotten(worker: Worker) -> Worker:
    """That definition is assigned no longer, or may be good by now."""
    return replace(worker, rejected=None, rejection=None, next_check=0.0)


def is_way_back(worker: Worker, definition: Definition) -> bool:
    """Whether a definition is the one that its process runs, assigned anew in place of a rejected one.

    The next generation after that: behind a later one may be an order to restart.
    """
    if worker.rejected is None or worker.phase not in (Phase.STARTING, Phase.RUNNING) or worker.busy:
        return False
    (before, bad), (generation, digest) = worker.rejected, definition
    return digest == worker.digest != bad and generation == before + 1 and worker.outdated is None


def way_back(worker: Worker, definition: Definition) -> Worker:
    """Its process goes on as that definition, see `is_way_back`."""
    own = (worker.generation, worker.digest)
    proven = definition if worker.proven == own else worker.proven
    return rejection_forgotten(replace(worker, generation=definition[0], proven=proven))


def start_withdrawn(worker: Worker, now: float) -> Worker:
    """What it was to be started with is no longer wanted: it waits again, without a failure."""
    return replace(worker, phase=Phase.WAITING, busy=False, since=now, next_start=now, checking=False)


def holding(worker: Worker, held: str | None) -> Worker:
    """It is not to be started for this reason; None: it may be."""
    return replace(worker, held=held)


def spawned(worker: Worker, now: float, deadline_s: float) -> Worker:
    """Its process runs, and knows its peers; it is ready once its probe succeeds."""
    return replace(
        worker,
        busy=False,
        known_peers=worker.peers,
        next_peers=now,
        peers_error=None,
        since=now,
        next_probe=now,
        deadline=now + deadline_s,
        deadline_s=deadline_s,
        starts=worker.starts + 1,
        restarts=worker.starts,
    )


def adopted(worker: Worker, now: float, deadline_s: float, was_ready: bool) -> Worker:
    """A new agent found its process. If it had been ready, a liveness probe is enough."""
    return replace(
        worker,
        phase=Phase.STARTING,
        busy=False,
        since=now,
        next_probe=now,
        by_liveness=was_ready,
        deadline=now + deadline_s,
        deadline_s=deadline_s,
        starts=worker.restarts + 1,
    )


def probing(worker: Worker) -> Worker:
    """A probe is in progress."""
    return replace(worker, probing=True, next_probe=NEVER)


def probe_succeeded(worker: Worker, now: float, timing: WorkerTiming) -> Worker:
    """It is ready, or still alive."""
    since = worker.since if worker.phase is Phase.RUNNING else now
    return replace(
        worker,
        phase=Phase.RUNNING,
        since=since,
        proven=(worker.generation, worker.digest),
        probing=False,
        next_probe=now + timing.live_every,
        deadline=NEVER,
        failed_probes=0,
        probe_error=None,
    )


def probe_failed(worker: Worker, now: float, error: str, timing: WorkerTiming) -> Worker:
    """It did not answer, or not as expected."""
    if worker.phase is Phase.RUNNING:
        wait = timing.live_every
    else:
        # Often at first, to see a quick start at once; then less often, for slow ones.
        wait = min(timing.probe_every_max, timing.probe_every * (1.0 + (now - worker.since)))
    failed_probes = worker.failed_probes + 1
    return replace(
        worker, probing=False, next_probe=now + wait, failed_probes=failed_probes, probe_error=error
    )


def agent_suspended(worker: Worker, seconds: float) -> Worker:
    """The agent was suspended for so long and did not probe: that time does not count against the worker."""
    return replace(worker, deadline=worker.deadline + seconds, failed_probes=0)


def without_probe(worker: Worker, now: float) -> Worker:
    """No probe is known for it: it counts as running while its process lives."""
    return replace(probe_succeeded(worker, now, WorkerTiming()), next_probe=NEVER)


def failed(worker: Worker, now: float, failure: str, random_0_1: float) -> Worker:
    """It exited, could not be started, or was stopped as unhealthy: it waits for its next start."""
    ready_for = now - worker.since if worker.phase is Phase.RUNNING else None
    failures = restart.failures_after(worker.failures, restart.classify_failure(ready_for))
    delay = restart.BACKOFF.delay(failures, random_0_1)
    return replace(
        worker,
        phase=Phase.WAITING,
        since=now,
        failures=failures,
        delay=delay,
        next_start=now + delay,
        deadline=NEVER,
        next_probe=NEVER,
        probing=False,
        last_failure=failure[:MAX_REASON],
    )


def backoff_reset(worker: Worker) -> Worker:
    """It has been ready long enough: earlier failures no longer count."""
    return replace(worker, failures=0, last_failure=None, delay=0.0)


def stopping(worker: Worker, now: float, after: AfterStop, reason: str) -> Worker:
    """It is being stopped. Where an attempt to stop it failed before, its error stays until it has ended."""
    return replace(
        worker,
        phase=Phase.STOPPING,
        since=now,
        busy=True,
        next_probe=NEVER,
        probing=False,
        deadline=NEVER,
        after_stop=after,
        stop_reason=reason,
        stop_error=worker.stop_error if worker.phase is Phase.STOPPING else None,
    )


def reassigned(worker: Worker) -> Worker:
    """Assigned again during a stop that was to forget it: afterwards it starts afresh, with counts reset.

    The stop goes on: there are never two instances.
    """
    if worker.phase is not Phase.STOPPING or worker.after_stop is not AfterStop.FORGET:
        return worker
    return replace(
        worker,
        after_stop=AfterStop.REPLACE,
        stop_reason="assigned again: starts once the old instance is stopped",
        failures=0,
        starts=0,
        restarts=0,
        last_failure=None,
    )


def stop_failed(worker: Worker, now: float, error: str, timing: WorkerTiming) -> Worker:
    """Some of its processes survived the stop, which is tried again."""
    return replace(worker, busy=False, next_start=now + timing.stop_again, stop_error=error)


def stopped(worker: Worker, now: float, random_0_1: float) -> Worker | None:
    """None of its processes is left. None when the worker itself is to be forgotten."""
    match worker.after_stop:
        case AfterStop.FORGET:
            return None
        case AfterStop.HOLD:
            return replace(worker, phase=Phase.STOPPED, busy=False, since=now)
        case AfterStop.REPLACE:
            return replace(worker, phase=Phase.WAITING, busy=False, since=now, next_start=now)
        case AfterStop.BACKOFF:
            return replace(failed(worker, now, worker.stop_reason or "stopped", random_0_1), busy=False)


_REPORTED: Final = {
    Phase.STARTING: WorkerState.STARTING,
    Phase.RUNNING: WorkerState.RUNNING,
    Phase.STOPPING: WorkerState.STOPPING,
    Phase.STOPPED: WorkerState.STOPPED,
}


def reported_state(worker: Worker) -> WorkerState:
    """Its state as the contract names it."""
    if worker.phase is Phase.WAITING:
        return WorkerState.BACKOFF if worker.failures or worker.held else WorkerState.STARTING
    if worker.phase is Phase.STOPPING and worker.after_stop is AfterStop.BACKOFF:
        # It has failed already; STOPPING would be told as the first step of a new start.
        return WorkerState.BACKOFF
    return _REPORTED[worker.phase]


def reason(worker: Worker) -> str | None:
    """The reason for its state; None when it is healthy and has not failed lately."""
    own = _reason(worker)
    if worker.rejection is None or worker.phase in (Phase.STOPPING, Phase.STOPPED):
        return own
    return "; ".join([f"{NOT_REPLACED}{worker.rejection}", *([own] if own else [])])[:MAX_REASON]


def _reason(worker: Worker) -> str | None:
    match worker.phase:
        case Phase.WAITING if worker.held:
            before = f"; before: {worker.last_failure}" if worker.last_failure else ""
            return f"{worker.held}{before}"[:MAX_REASON]
        case Phase.WAITING:
            prefix = f"next try in {worker.delay:.2g} s; " if worker.failures else ""
            failure = worker.last_failure
            return f"{prefix}{failure}"[:MAX_REASON] if failure else f"{QUEUED}start limit reached"
        case Phase.STARTING if worker.failed_probes >= SLOW_START_PROBES:
            before = f"; before: {worker.last_failure}" if worker.last_failure else ""
            return f"{NOT_READY}{worker.probe_error}{before}"[:MAX_REASON]
        case Phase.STARTING:
            return f"restarting: {worker.last_failure}"[:MAX_REASON] if worker.last_failure else None
        case Phase.RUNNING:
            return _reason_running(worker)
        case Phase.STOPPING if worker.stop_error:
            return f"{worker.stop_reason}; {worker.stop_error}"[:MAX_REASON]
        case _:
            return worker.stop_reason


def _reason_running(worker: Worker) -> str | None:
    reasons = []
    if worker.outdated:
        reasons.append(f"{OUTDATED}{worker.outdated}")
    if worker.peers_error:
        reasons.append(f"not told of its present peers: {worker.peers_error}")
    if worker.members_error:
        reasons.append(worker.members_error)
    if worker.not_reloaded:
        reasons.append(f"{NOT_RELOADED}{worker.not_reloaded}")
    if worker.failed_probes:
        reasons.append(f"does not answer: {worker.probe_error}")
    elif worker.last_failure:
        reasons.append(f"restarted: {worker.last_failure}")
    return "; ".join(reasons)[:MAX_REASON] or None
