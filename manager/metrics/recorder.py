"""Counts what the manager does as it happens: requests, commits, how long workers took.

Made where a port for metrics is given; without one nothing is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import ERRORS
from busbar.bus.states import ClusterState, WorkerState
from busbar.bus.system.metrics import Family, connection
from prometheus_client import CollectorRegistry, Counter, Histogram

from ..api.requests import Dispatch
from ..publish.publisher import Publisher
from ..store import Changes, Store
from ..store.rows import WorkerRow
from .transitions import Transitions, WorkerNow

_DOWN = (ClusterState.STOPPED, ClusterState.STOPPING)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Seconds: a request takes about 3 ms on a quiet machine, a commit as long as the disk does."""
_LONG = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds: workers take from a second to minutes."""


class Counted(NamedTuple):
    """A counter, or with buckets a histogram."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None


REQUESTS: Final = Counted(
    "busbar_requests_total", "Requests answered, by operation and outcome.", ("operation", "code")
)
LATENCY: Final = Counted(
    "busbar_request_duration_seconds", "From a request's arrival to its answer.", ("operation",), _SHORT
)
COMMITS: Final = Counted(
    "busbar_store_commit_duration_seconds", "How long the disk took for a commit.", (), _SHORT
)
READY: Final = Counted(
    "busbar_worker_time_to_ready_seconds",
    "How long workers were not ready, by why: start, move, update or restart.",
    ("cause",),
    _LONG,
)
ROLLOUTS: Final = Counted(
    "busbar_group_rollout_duration_seconds", "How long groups' updates took.", (), _LONG
)
COUNTED: Final = (REQUESTS, LATENCY, COMMITS, READY, ROLLOUTS)


class Recorder:
    """Hooks itself into the store and the dispatch, and counts in `registry`."""

    def __init__(self, registry: CollectorRegistry, store: Store, dispatch: Dispatch, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._transitions = Transitions()
        self._requests = Counter(*REQUESTS[:3], registry=registry)
        self._latency = _histogram(LATENCY, registry)
        self._commits = _histogram(COMMITS, registry)
        self._ready = _histogram(READY, registry)
        self._rollouts = _histogram(ROLLOUTS, registry)
        dispatch.answered = self.answered
        store.committed = self._commits.observe
        store.on_commit(self._changed)
        for row in store.reads.workers():
            self._note(row)

    def answered(self, operation: str, code: str, seconds: float) -> None:
        """A request was answered. What clients invent is counted as `other`: labels are bounded."""
        operation = operation if operation in OPERATIONS else "other"
        self._requests.labels(operation, code if code == "ok" or code in ERRORS else "other").inc()
        self._latency.labels(operation).observe(seconds)

    def _changed(self, changes: Changes) -> None:
        reads, gone = self._store.reads, set(changes.workers)
        for row in reads.workers_of_any(changes.workers):
            gone.discard(row.oid)
            self._note(row)
        for oid in gone:
            self._transitions.worker(oid, None, self._clock.monotonic())
        for oid in changes.groups:
            group = reads.group(oid)
            under_way = None if group is None else group.revision != group.settled
            took = self._transitions.rollout(oid, under_way, self._clock.monotonic())
            if took is not None:
                self._rollouts.observe(took)

    def _note(self, row: WorkerRow) -> None:
        now: WorkerNow | None = WorkerNow(row.state, row.node_oid, row.revision)
        if row.state in (WorkerState.STOPPED, WorkerState.STOPPING):
            group = self._store.reads.group(row.group_oid)
            now = None if group is None or group.status in _DOWN else now
        took = self._transitions.worker(row.oid, now, self._clock.monotonic())
        if took is not None:
            self._ready.labels(took[0].value).observe(took[1])


def _histogram(row: Counted, registry: CollectorRegistry) -> Histogram:
    return Histogram(*row[:3], buckets=row.buckets or (), registry=registry)


def own(store: Store, publisher: Publisher, link: Link) -> Iterator[Family]:
    """The manager's queues and its connection, now."""
    yield Family(
        "busbar_store_waiting_writes",
        "Changes that wait for their commit (4,096 at most).",
        samples=[((), float(store.waiting))],
    )
    yield Family(
        "busbar_store_write_failed", "1 while the last commit failed.",
        samples=[((), float(store.write_error is not None))],
    )  # fmt: skip
    yield Family(
        "busbar_outbox_messages",
        "Replies and events that the broker has not acknowledged.",
        samples=[((), float(store.reads.outbox_count()))],
    )
    yield Family(
        "busbar_messages_held_back",
        "Topics whose message is too large for the broker, or may not be written.",
        samples=[((), float(len(publisher.held_back)))],
    )
    yield from connection(connected=link.connected, attempts=link.conn)
