"""A real store and the real monitor without a bus: documents are planned and applied, nodes obey at once."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from busbar.bus import params as p
from busbar.bus.contract import OPERATIONS
from busbar.bus.messages import Who
from busbar.bus.plans import Applied, OperationPlan, Plan
from busbar.bus.states import NodeStatus, WorkerState
from busbar.bus.testing import FakeClock
from busbar.bus.topics import Topics
from busbar.manager.api.operations import CHANGES, PLANS, READS
from busbar.manager.api.operations.base import Asker, ChangeContext, ReadContext
from busbar.manager.api.operations.history import note_revisions
from busbar.manager.control.monitor import Monitor
from busbar.manager.quotas import Quotas
from busbar.manager.rehearsal.rehearsal import Rehearsal
from busbar.manager.slices import Slices, whole
from busbar.manager.state.node_memory import NodeMemory
from busbar.manager.store import Store, Tx
from busbar.manager.store.lifecycle_events import EventRecorder, record_stopped
from busbar.manager.store.rows import NodeRow, PrincipalRow

Planned = Plan | OperationPlan
Made = TypeVar("Made", Plan, OperationPlan)
RUNTIMES = ["amqtt", "mosquitto"]
LABELS = {1: {"zone": "a"}, 2: {"zone": "b"}, 3: {"zone": "a"}, 4: None}


def new_oid() -> str:
    return str(uuid.uuid4())


class Realm:
    """One realm of four nodes (n3 takes two workers, n4 has no mosquitto; n1 and n3 are in zone a, n2 in zone
    b), and a principal of each role."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = Store.open(folder / "busbar.db", self.clock, new_oid, Topics("lab"))
        self.memory = NodeMemory(self.clock)
        self.monitor = Monitor(self.store, self.memory, self.clock)
        self.rehearsal = Rehearsal(self.store, self.memory, self.monitor.cache, self.clock, new_oid, "m1")
        self.seen: dict[str, set[tuple[int, str | None]]] = {}

    async def begin(self) -> None:
        def insert(tx: Tx) -> None:
            for name, role in (("alice", "owner"), ("bob", "operator"), ("carol", "operator")):
                tx.insert_principal(PrincipalRow(new_oid(), name, role, 0))
            for number in range(1, 5):
                tx.insert_node(_node(number))

        await self.store.write(insert)
        for row in self.store.reads.nodes():
            self.memory.record_heard(row.oid)
        await self.settle()

    # --- operations

    def read(self, op: str, who: str = "alice", **params: Any) -> Any:
        if op in PLANS:
            return whole(self.slices(op, who, **params))
        return READS[op](self._context(who), OPERATIONS[op].params(**params))

    def slices(self, op: str, who: str = "alice", **params: Any) -> Slices[Any]:
        """A plan, to be made slice by slice."""
        return PLANS[op](self._context(who), OPERATIONS[op].params(**params))

    def _context(self, who: str) -> ReadContext:
        row = self.store.reads.principal(who)
        assert row is not None
        asker = Asker(row, Who(row.name, row.role, "t"), Quotas())
        now, now_ns = self.clock.monotonic(), self.clock.time_ns()
        nobody: Any = None
        return ReadContext(
            self.store.reads,
            self.memory,
            nobody,
            now,
            now_ns,
            Topics("lab"),
            self.monitor.cache.snapshot,
            self.rehearsal,
            asker,
        )

    def plan(self, desired: dict[str, Any], who: str = "alice", **more: Any) -> Plan:
        found: Plan = self.read("plan_changes", who, desired=desired, **more)
        return found

    async def change(self, op: str, params: p.Params, who: str = "alice") -> Any:
        def run(tx: Tx) -> Any:
            row = tx.principal(who)
            assert row is not None
            context = ChangeContext(tx, Who(row.name, row.role, "t"), row.oid, "r-1", Quotas())
            done = tx.attempt(partial(CHANGES[op], context, params))
            note_revisions(tx, row, op, "r-1")
            return done

        return await self.store.write(run)

    async def apply(
        self, desired: dict[str, Any], plan: Plan | None = None, who: str = "alice", **more: Any
    ) -> Applied:
        fence = (plan or self.plan(desired, who, **more)).fence
        found: Applied = await self.change("apply_changes", p.ApplyChanges(desired, fence, **more), who)
        return found

    def export(self) -> dict[str, Any]:
        found: dict[str, Any] = self.read("get_definitions")
        return found

    # --- what follows

    async def settle(self) -> None:
        """Passes of the monitor until there is nothing left to do; the nodes obey after each."""
        for _ in range(200):
            changed = await self.monitor.step()
            self.watch()
            changed |= await self.store.write(self._obey)
            self.watch()
            if not changed:
                return
        raise AssertionError("the realm does not come to rest")

    def _obey(self, tx: Tx) -> bool:
        events, changed = EventRecorder(tx), False
        for row in tx.workers():
            if row.state is WorkerState.STARTING:
                changed |= tx.update_worker(row.oid, state=WorkerState.RUNNING, pid=1)
            elif row.state is WorkerState.STOPPING:
                record_stopped(tx, events, row, "gone")
                changed = True
        return changed

    def places(self) -> dict[str, tuple[int, str | None]]:
        """Generation and node of each worker that has a process."""
        names = {row.oid: row.name for row in self.store.reads.nodes()}
        clusters = {row.oid: row.name for row in self.store.reads.clusters()}
        return {
            f"{clusters[row.cluster_oid]}/{row.name}": (row.generation, names[row.node_oid])
            for row in self.store.reads.workers()
            if row.node_oid is not None
        }

    def waiting(self) -> set[str]:
        clusters = {row.oid: row.name for row in self.store.reads.clusters()}
        return {
            f"{clusters[row.cluster_oid]}/{row.name}"
            for row in self.store.reads.workers()
            if row.state is WorkerState.PENDING
        }

    def watch(self) -> None:
        for name, place in self.places().items():
            self.seen.setdefault(name, set()).add(place)

    def facts(self) -> tuple[int, int, list[Any]]:
        """What a dry run must not change."""
        tables = ("clusters", "workergroups", "members", "workers", "nodes", "principals", "events", "outbox")
        db = self.store.reads.db
        rows = [db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        return self.store.reads.sequence(), self.store.commits, rows


def touched(plan: Planned) -> set[str]:
    return {step.worker for step in plan.workers if step.action not in ("wait", "hold")}


async def held(realm: Realm, make: Callable[[], Made], carry_out: Callable[[Made], Awaitable[Any]]) -> Made:
    """Plan, carry out and settle; hold what was planned against what then happened."""
    facts = realm.facts()
    plan = make()
    assert realm.facts() == facts, "a plan changes nothing"
    assert plan.complete and getattr(plan, "refused", []) == []
    before = realm.places()
    realm.seen = {}
    await carry_out(plan)
    realm.watch()
    await realm.settle()
    after = realm.places()
    moved = {
        name
        for name in {*before, *after, *realm.seen}
        if realm.seen.get(name, set()) != {before.get(name)} or before.get(name) != after.get(name)
    }
    assert touched(plan) == moved
    waits = {step.worker: step.node for step in plan.workers if step.action == "wait"}
    assert {name for name, node in waits.items() if node is None} <= realm.waiting()
    for name, node in waits.items():
        assert node is None or after[name][1] == node, (name, node)
    last = {step.worker: step for step in plan.workers if step.action not in ("wait", "hold")}
    for name, step in last.items():
        assert (after[name][1] if name in after else None) == step.node, (name, step)
    return plan


def _node(number: int) -> NodeRow:
    return NodeRow(
        oid=new_oid(), name=f"n{number}", labels=LABELS[number], status=NodeStatus.ONLINE, reason=None,
        boot="b1", conn=1, goodbye=False, runtimes=RUNTIMES[: 1 if number == 4 else 2],
        capacity={"max_workers": 2} if number == 3 else None, conditions=[], assignment_version=1,
        applied_epoch=1, applied_version=1, changed=0, version=1,
    )  # fmt: skip


@contextmanager
def realm_in() -> Iterator[Realm]:
    """A realm in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        realm = Realm(Path(folder))
        try:
            yield realm
        finally:
            realm.store.close()
