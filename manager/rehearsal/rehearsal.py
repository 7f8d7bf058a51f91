"""Tries a change on a copy of the state: the monitor's own passes, on nodes that obey at once.

The copy is in memory, so nothing of it can be stored or sent, whatever is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from busbar.bus.clock import Clock
from busbar.bus.plans import WorkerStep
from busbar.bus.states import NodeStatus, WorkerState
from msgspec import Struct

from ..control.apply import apply_all
from ..planner import model as m
from ..planner.liveness import Fleet, judge_nodes
from ..planner.placement import Load
from ..planner.plan import by_node, plan
from ..state.mirror import StateCache
from ..state.node_memory import NodeMemory
from ..store import Store
from ..store.changes import Changes
from ..store.lifecycle_events import EventRecorder, record_stopped
from ..store.scratch import Scratch, copy_of
from ..store.tx import StoreContext, Tx
from .steps import Recorder, Touched

T = TypeVar("T")
MAX_WORK: Final = 200_000
"""Nodes and workers looked at, over all passes: a plan of many passes on a large realm is cut short."""
_UNDER_WAY: Final = frozenset({WorkerState.STARTING, WorkerState.STOPPING})


class _StoppedClock(Struct, frozen=True):
    """The moment of the rehearsal."""

    now: float
    now_ns: int

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class Rehearsal:
    """Tries changes on the present state of a manager."""

    def __init__(
        self,
        store: Store,
        memory: NodeMemory,
        cache: StateCache,
        clock: Clock,
        new_oid: Callable[[], str],
        manager_id: str,
    ) -> None:
        self._store, self._memory, self._cache, self._clock = store, memory, cache, clock
        self._new_oid, self._manager_id = new_oid, manager_id

    def __call__(self, change: Callable[[Tx], tuple[T, bool]]) -> tuple[T, list[WorkerStep], bool]:
        """As `api.operations.base.Rehearse`."""
        clock = _StoppedClock(self._clock.monotonic(), self._clock.time_ns())
        scratch = copy_of(self._store.reads)
        try:
            context = StoreContext(
                self._store.id,
                self._store.epoch,
                self._store.topics,
                self._new_oid,
                max_packet=lambda: self._store.max_packet,
            )
            tx = Tx(scratch.db, context, clock.now_ns)
            outcome, goes_on = change(tx)
            if not goes_on:
                return outcome, [], True
            memory = self._memory.fork(clock)
            cache = self._cache.fork(scratch, memory, clock)
            recorder = Recorder()
            self._note_restarted(scratch, tx, recorder)
            passes = _Passes(scratch, tx, cache, recorder, clock.now, self._manager_id)
            return outcome, *passes.run()
        finally:
            scratch.db.close()

    def _note_restarted(self, scratch: Scratch, tx: Tx, recorder: Recorder) -> None:
        """The workers that the change itself has restarted, as one that is not ready: no pass does."""
        names, oids = EventRecorder(tx), tx.changes.workers
        before = {row.oid: row.generation for row in self._store.reads.workers_of_any(oids)}
        for row in scratch.workers_of_any(oids):
            if row.generation > before.get(row.oid, row.generation):
                name = f"{names.cluster(row.cluster_oid)}/{row.name}"
                recorder.restarted(name, names.node(row.node_oid), row.reason or "")


class _Passes(Struct):
    """The monitor's passes on the copy until nothing is left to do."""

    scratch: Scratch
    tx: Tx
    cache: StateCache
    recorder: Recorder
    now: float
    manager_id: str

    def run(self) -> tuple[list[WorkerStep], bool]:
        """What happens to workers, and whether the realm came to rest."""
        recorder, work, order, asked = self.recorder, 0, 0, self.tx.changes
        while work <= MAX_WORK:
            order += 1
            snapshot = self.cache.snapshot()
            work += len(snapshot.nodes) + sum(
                len(g.workers) for c in snapshot.clusters.values() for g in c.groups
            )
            self.tx.changes = Changes()
            # What meshed workers are told of each other touches none of them.
            load = Load(snapshot)
            planned = plan(snapshot, self.now, load=load)
            found = [action for action in planned if not isinstance(action, m.SetPeers)]
            outcome = apply_all(self.tx, by_node(found), self.manager_id, _never_heard)
            recorder.record(order, snapshot, outcome.done)
            self._obey(judge_nodes(snapshot, self.now)[0], first=order == 1)
            if not self.tx.changes:
                touched = Touched(asked.nodes, asked.groups)
                recorder.record_left(order, snapshot, touched, load.stays)
                return recorder.steps(), True
            self.cache.invalidate(self.tx.changes)
        return recorder.steps(), False

    def _obey(self, fleet: Fleet, *, first: bool) -> None:
        """The nodes carry out what they are told: workers run, or are gone."""
        tx, events = self.tx, EventRecorder(self.tx)
        rows = tx.workers() if first else self.scratch.workers_of_any(tx.changes.workers)
        for row in rows:
            node = fleet.nodes.get(row.node_oid or "")
            if node is None or row.state not in _UNDER_WAY:
                continue
            online = fleet.status[node.oid] is NodeStatus.ONLINE and node.refuses is None
            if row.state is WorkerState.STARTING and online:
                tx.update_worker(row.oid, state=WorkerState.RUNNING, reason=None, pid=1)
            elif row.state is WorkerState.STOPPING and fleet.hears(node.oid):
                record_stopped(tx, events, row, "its node has stopped it")


def _never_heard(node_oid: str) -> bool:
    return False
