"""Tries a change on a copy of the state: the monitor's own passes, on nodes that obey at once.

The copy is in memory, so nothing of it can be stored or sent, whatever is tried; and it stays as it is while
the event loop goes on between two slices of a rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar

from busbar.bus.clock import Clock
from busbar.bus.plans import WorkerStep
from busbar.bus.states import NodeStatus, WorkerState
from msgspec import Struct

from ..control.apply import apply_all
from ..control.monitor import CHUNK
from ..planner import model as m
from ..planner.liveness import Fleet, judge_nodes
from ..planner.placement import Load
from ..planner.plan import by_node, plan
from ..slices import Slices
from ..state.mirror import StateCache
from ..state.node_memory import NodeMemory
from ..store import Store
from ..store.changes import Changes
from ..store.lifecycle_events import EventRecorder, record_stopped
from ..store.reads import Queries
from ..store.scratch import Scratch, copy_of
from ..store.tx import StoreContext, Tx
from .steps import Recorder, Touched

T = TypeVar("T")
R = TypeVar("R")
MAX_WORK: Final = 200_000
"""Nodes and workers looked at, over all passes: a plan of many passes on a large realm is cut short."""
MAX_S: Final = 5.0
"""And after so many seconds, where the event loop has much else to do: callers wait for ten by default."""
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

    def __call__(
        self,
        change: Callable[[Tx], Slices[tuple[T, bool]]],
        conclude: Callable[[T, list[WorkerStep], bool, Queries], R],
    ) -> Slices[R]:
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
            memory, before = self._memory.fork(clock), scratch.generations()
            cache = self._cache.fork(scratch, memory, clock)
            tx = Tx(scratch.db, context, clock.now_ns)
            outcome, goes_on = yield from change(tx)
            steps, complete = list[WorkerStep](), True
            if goes_on:
                recorder = Recorder()
                _note_restarted(scratch, tx, before, recorder)
                is_late = partial(self._is_late, clock.now + MAX_S)
                passes = _Passes(scratch, tx, cache, recorder, clock.now, self._manager_id, is_late)
                steps, complete = yield from passes.run()
            scratch.undo()
            return conclude(outcome, steps, complete, scratch)
        finally:
            scratch.db.close()

    def _is_late(self, end: float) -> bool:
        return self._clock.monotonic() > end


def _note_restarted(scratch: Scratch, tx: Tx, before: dict[str, int], recorder: Recorder) -> None:
    """The workers that the change itself has restarted, as one that is not ready: no pass does.

    `before`: their generations.
    """
    names = EventRecorder(tx)
    for row in scratch.workers_of_any(tx.changes.workers):
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
    is_late: Callable[[], bool]

    def run(self) -> Slices[tuple[list[WorkerStep], bool]]:
        """What happens to workers, and whether the realm came to rest."""
        recorder, work, order, asked = self.recorder, 0, 0, self.tx.changes
        while work <= MAX_WORK:
            order += 1
            yield
            snapshot = self.cache.snapshot()
            work += len(snapshot.nodes) + sum(
                len(g.workers) for c in snapshot.clusters.values() for g in c.groups
            )
            self.tx.changes = Changes()
            load = Load(snapshot)
            planned = plan(snapshot, self.now, load=load)
            # What meshed workers are told of each other touches none of them.
            found = by_node(action for action in planned if not isinstance(action, m.SetPeers))
            done = yield from self._apply(found)
            recorder.record(order, snapshot, done)
            yield from self._obey(judge_nodes(snapshot, self.now)[0], first=order == 1)
            if self.is_late():
                break
            if not self.tx.changes:
                touched = Touched(asked.nodes, asked.groups)
                recorder.record_left(order, snapshot, touched, load.stays)
                return recorder.steps(), True
            self.cache.invalidate(self.tx.changes)
        return recorder.steps(), False

    def _apply(self, actions: list[m.Action]) -> Slices[list[m.Action]]:
        """As many at a time as the monitor writes; returns those that did something."""
        done: list[m.Action] = []
        for chunk in _chunks(actions):
            yield
            if self.is_late():
                break
            done += apply_all(self.tx, chunk, self.manager_id, _never_heard).done
        return done

    def _obey(self, fleet: Fleet, *, first: bool) -> Slices[None]:
        """The nodes carry out what they are told: workers run, or are gone."""
        tx, events = self.tx, EventRecorder(self.tx)
        rows = tx.workers() if first else self.scratch.workers_of_any(tx.changes.workers)
        for chunk in _chunks([row for row in rows if row.state in _UNDER_WAY]):
            for row in chunk:
                node = fleet.nodes.get(row.node_oid or "")
                if node is None:
                    continue
                online = fleet.status[node.oid] is NodeStatus.ONLINE and node.refuses is None
                if row.state is WorkerState.STARTING and online:
                    tx.update_worker(row.oid, state=WorkerState.RUNNING, reason=None, pid=1)
                elif row.state is WorkerState.STOPPING and fleet.hears(node.oid):
                    record_stopped(tx, events, row, "its node has stopped it")
            yield
            if self.is_late():
                break


def _chunks(items: list[T]) -> Iterator[list[T]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def _never_heard(node_oid: str) -> bool:
    return False
