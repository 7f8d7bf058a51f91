"""A store, a monitor and the reports on an in-memory broker and a fake clock; agents in name only."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from busbar.bus.connection.link import Message
from busbar.bus.decode import digest, encode
from busbar.bus.messages import Applied, Command, Heartbeat, NodeState, Reported, ReportedWorker
from busbar.bus.states import ClusterState, NodeStatus
from busbar.bus.testing import FakeClock, MemoryBroker, settle
from busbar.bus.topics import Topics
from busbar.manager.control.monitor import Monitor
from busbar.manager.ingest.reports import Reports
from busbar.manager.planner.model import LivenessTiming
from busbar.manager.state.node_memory import NodeMemory
from busbar.manager.store import Store, Tx
from busbar.manager.store.rows import ClusterRow, GroupRow, MemberRow, NodeRow, WorkerRow

from tests.pace import bound

TOPICS = Topics("lab")
OWNER = "00000000-0000-0000-0000-000000000001"
REAL_S = 10.0
"""Real seconds within which the store's thread must have answered."""


class Watch:
    """One manager's life: everything between the bus and the store, without requests and publisher."""

    def __init__(self, store: Store, broker: MemoryBroker, clock: FakeClock, heartbeat: float = 5.0) -> None:
        self.store, self.broker, self.clock = store, broker, clock
        self.link = broker.link("manager")
        self.memory = NodeMemory(clock, LivenessTiming(heartbeat=heartbeat))
        self.monitor = Monitor(store, self.memory, clock)
        self.commands: list[tuple[str, Command]] = []
        self.reports = Reports(
            store,
            self.memory,
            self.monitor.cache,
            clock,
            wake=self.monitor.wake,
            command=lambda node, command: self.commands.append((node, command)),
        )
        self.reports.attach(self.link)
        self._committed = asyncio.Event()
        store.on_commit(lambda changes: self._committed.set())

    # --- waiting

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait for something that a commit brings about; the clock stands still meanwhile."""
        async with asyncio.timeout(bound(REAL_S)):
            while not true():
                self._committed.clear()
                await settle()
                if true():
                    return
                await self._committed.wait()

    async def rest(self) -> None:
        """Wait until whatever is under way is written and the monitor has nothing left to do."""
        quiet = 0
        async with asyncio.timeout(bound(REAL_S)):
            while quiet < 2:
                await settle()
                await self.store.write(lambda tx: None)
                await settle()
                quiet = quiet + 1 if not self.store.waiting else 0

    async def pass_time(self, seconds: int, *agents: Agent) -> None:
        """Time passes second by second; these agents send their heartbeats every 5 s."""
        for _ in range(seconds):
            await self.clock.advance(1.0)
            if int(self.clock.monotonic()) % 5 == 0:
                for agent in agents:
                    agent.beat()
            await self.rest()

    # --- what is so

    def node(self, name: str) -> NodeRow:
        row = self.store.reads.node_by_name(name)
        assert row is not None
        return row

    def cluster(self, name: str = "edge") -> ClusterRow:
        row = self.store.reads.cluster_by_name(name)
        assert row is not None
        return row

    def group(self, name: str = "web") -> GroupRow:
        (row,) = [each for each in self.store.reads.groups() if each.name == name]
        return row

    def worker(self, name: str) -> WorkerRow:
        (row,) = [each for each in self.store.reads.workers() if each.name == name]
        return row

    def states(self) -> dict[str, str]:
        """`STATE node` by worker name."""
        names = {row.oid: row.name for row in self.store.reads.nodes()}
        return {
            row.name: f"{row.state} {names[row.node_oid]}" if row.node_oid else str(row.state)
            for row in self.store.reads.workers()
        }

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.store.reads.events(0, 10_000)]

    def told(self, name: str | None = None) -> list[str]:
        """`subject_verb` of the events so far, of one object or of all."""
        return [
            event["type"].removeprefix("busbar.on_")
            for event in self.events()
            if name is None or event["data"]["name"] == name
        ]

    # --- what the operator does

    async def pair(self, *names: str, **columns: Any) -> None:
        def insert(tx: Tx) -> None:
            for name in names:
                tx.insert_node(_node_row(name, columns))

        await self.store.write(insert)

    async def create(
        self, members: Iterable[str | tuple[str, int]], *, scale: int = 3, start: bool = True, **columns: Any
    ) -> None:
        """Cluster edge with group web; a member may come with its hardlimit."""
        await self.store.write(partial(_create, members=list(members), scale=scale, columns=columns))
        if start:
            await self.turn("STARTING")

    async def turn(self, status: str) -> None:
        """Start or stop the cluster, as the operation does."""
        cluster, group = self.cluster(), self.group()

        def change(tx: Tx) -> None:
            tx.update_cluster(cluster.oid, status=ClusterState(status), was_running=False)
            tx.update_group(group.oid, status=ClusterState(status), was_running=False)

        await self.store.write(change)
        await self.rest()

    async def scale(self, scale: int) -> None:
        await self.store.write(partial(_update_group, oid=self.group().oid, columns={"scale": scale}))
        await self.rest()

    async def drop_member(self, name: str) -> None:
        """Take a node out, without waiting for what follows: for what is itself a part of a pass."""
        member = self.store.reads.member(self.cluster().oid, self.node(name).oid)
        assert member is not None
        await self.store.write(lambda tx: tx.delete_member(member))

    async def remove_member(self, name: str) -> None:
        await self.drop_member(name)
        await self.rest()

    async def unpair(self, name: str) -> None:
        node = self.node(name)
        members = self.store.reads.memberships(node.oid)

        def change(tx: Tx) -> None:
            for member in members:
                tx.delete_member(member)
            tx.update_node(node.oid, status=NodeStatus.UNPAIRED)
            tx.bump_assignment(node.oid)

        await self.store.write(change)
        await self.rest()


class Agent:
    """What the bus sees of an agent: it says what it is told to say."""

    def __init__(self, watch: Watch, name: str, boot: str = "b1", conn: int = 1) -> None:
        self.watch, self.name, self.boot, self.conn = watch, name, boot, conn
        self.report = Reported(boot=boot, conn=conn, workers=[])
        self.runtimes = ["amqtt"]

    def say(self, leaf: str, payload: Any, *, retain: bool = True) -> None:
        raw = payload if isinstance(payload, bytes) else encode(payload)
        topic = TOPICS.node(self.name, leaf)  # type: ignore[arg-type]
        self.watch.broker.route(topic, raw, 1, retain, Message("", b"").properties)

    def state(self, state: str, boot: str | None = None, conn: int | None = None) -> None:
        self.say("state", NodeState(state, boot or self.boot, self.conn if conn is None else conn))

    def tell(self, *workers: ReportedWorker, retain: bool = True, **more: Any) -> None:
        """Publish a report of these workers, with the present assignment applied unless told otherwise."""
        node = self.watch.node(self.name)
        facts: dict[str, Any] = {
            "boot": self.boot,
            "conn": self.conn,
            "store": self.watch.store.id,
            "applied": Applied(self.watch.store.epoch, node.assignment_version),
            "runtimes": self.runtimes,
            "workers": list(workers),
        } | more
        facts.setdefault("digest", digest(str(facts)))
        self.report = Reported(**facts)
        self.say("reported", self.report, retain=retain)

    def beat(self, **more: Any) -> None:
        facts = {"boot": self.boot, "conn": self.conn, "digest": self.report.digest} | more
        self.say("heartbeat", Heartbeat(**facts), retain=False)

    def born(self) -> None:
        """Say `ready`, and report."""
        self.state("ready")
        self.obey()

    def obey(self, **of: dict[str, Any]) -> None:
        """Report everything assigned as running; `web_1={...}` changes what is said of one worker."""
        rows = {row.name: row for row in self.watch.store.reads.workers()}
        names = [row.worker for row in self.assigned()]
        self.tell(*(_running(self.name, rows[name], of.get(name.replace("-", "_"), {})) for name in names))

    def assigned(self) -> list[Any]:
        return self.watch.store.reads.assigned(self.watch.node(self.name).oid)

    def running(self, worker: str, **more: Any) -> ReportedWorker:
        return _running(self.name, self.watch.worker(worker), more)


def _running(node: str, row: WorkerRow, more: dict[str, Any]) -> ReportedWorker:
    facts: dict[str, Any] = {
        "worker": row.name,
        "oid": row.oid,
        "cluster": "edge",
        "state": "RUNNING",
        "generation": row.generation,
        "pid": 100 + row.ordinal,
        "address": f"mqtt://{node}:{1000 + row.ordinal}",
    }
    return ReportedWorker(**(facts | more))


@asynccontextmanager
async def watching(
    folder: Path,
    broker: MemoryBroker | None = None,
    clock: FakeClock | None = None,
    heartbeat: float = 5.0,
) -> AsyncIterator[Watch]:
    """A manager at work on the store in `folder`, until the end of the block."""
    broker, clock = broker or MemoryBroker(), clock or FakeClock()
    store = Store.open(folder / "busbar.db", clock, lambda: str(uuid.uuid4()), TOPICS)
    watch = Watch(store, broker, clock, heartbeat)
    tasks = [asyncio.create_task(watch.link.run()), asyncio.create_task(watch.monitor.run())]
    try:
        await watch.link.wait_connected(bound(1))
        await watch.rest()
        yield watch
        for task in tasks:
            assert not task.done(), "a loop has ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        store.close()


async def fleet(
    watch: Watch, count: int = 3, *, scale: int = 3, obey: bool = True, **columns: Any
) -> list[Agent]:
    """Paired nodes n1 … with agents that were born, and a cluster on them that runs unless not to `obey`."""
    names = [f"n{number}" for number in range(1, count + 1)]
    await watch.pair(*names)
    agents = [Agent(watch, name) for name in names]
    for agent in agents:
        agent.born()
    await watch.rest()
    await watch.create(names, scale=scale, **columns)
    if obey:
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
    return agents


def _node_row(name: str, columns: dict[str, Any]) -> NodeRow:
    facts: dict[str, Any] = {
        "oid": str(uuid.uuid4()), "name": name, "labels": None, "status": NodeStatus.OFFLINE, "reason": None,
        "boot": None, "conn": None, "goodbye": False, "runtimes": [], "capacity": None, "conditions": [],
        "assignment_version": 1, "applied_epoch": 0, "applied_version": 0, "changed": 0, "version": 1,
    }  # fmt: skip
    return NodeRow(**(facts | columns))


def _update_group(tx: Tx, oid: str, columns: dict[str, Any]) -> None:
    tx.update_group(oid, **columns)


def _create(tx: Tx, members: list[str | tuple[str, int]], scale: int, columns: dict[str, Any]) -> None:
    cluster = ClusterRow(
        oid=str(uuid.uuid4()), name="edge", label=None, description=None, tags=None, transport=None,
        owner_oid=OWNER, status=ClusterState.STOPPED, reason=None, was_running=False,
        who={"authid": "alice", "authrole": "owner", "session": "cli"}, request_id="r-1",
        changed=0, version=1,
    )  # fmt: skip
    tx.insert_cluster(cluster)
    facts: dict[str, Any] = {
        "oid": str(uuid.uuid4()), "cluster_oid": cluster.oid, "name": "web", "label": None,
        "description": None, "tags": None, "transport": None, "scale": scale, "runtime": "amqtt",
        "lost_after": 30.0, "start_deadline": 60.0, "status": ClusterState.STOPPED, "reason": None,
        "was_running": False, "changed": 0, "version": 1,
    }  # fmt: skip
    tx.insert_group(GroupRow(**(facts | columns)))
    for member in members:
        name, limit = member if isinstance(member, tuple) else (member, None)
        node = tx.node_by_name(name)
        assert node is not None
        tx.insert_member(MemberRow(cluster.oid, node.oid, limit, None, 0))
