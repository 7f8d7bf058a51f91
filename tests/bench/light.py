"""Simulated nodes. A light agent is the real agent's reporter and its rule for assignments on a connection of
its own; only the processes are missing: what is assigned is reported as running.
"""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

from busbar.agent.planner import plan
from busbar.agent.reporting.reporter import NodeSnapshot, Reporter, report_of, snapshot_digest, will_of
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.decode import encode, read
from busbar.bus.messages import Applied, Assignment, Command, Heartbeat, NodeState, ReportedWorker
from busbar.bus.options import ConnectOptions
from busbar.bus.states import NodeBirth
from busbar.bus.topics import Topics

RUNTIMES = ["mosquitto"]


def running(assignment: Assignment) -> list[ReportedWorker]:
    """Every assigned worker, as if it ran."""
    return [
        ReportedWorker(
            each.worker, "RUNNING", each.generation, pid=4711, address="mqtt://10.0.0.1:1883",
            oid=each.oid, cluster=each.cluster,
        )
        for each in assignment.workers
    ]  # fmt: skip


class LightAgent:
    """One node of the crowd."""

    def __init__(self, node: str, port: int, topics: Topics, clock: SystemClock, random: Random) -> None:
        boot = f"b-{random.getrandbits(32):08x}"
        options = ConnectOptions(port=port, client_id=node, keepalive=60)
        self.link = MqttLink(options, clock=clock, random=random, will=will_of(topics, node, boot))
        self.reporter = Reporter(self.link, topics, node, boot, clock, random, self.view)
        self.link.subscribe(topics.node(node, "assignment"), self._on_assignment)
        self.link.subscribe(topics.node(node, "command"), self._on_command)
        self.assignment: Assignment | None = None

    def view(self) -> NodeSnapshot:
        held = self.assignment
        if held is None:
            return NodeSnapshot(runtimes=RUNTIMES)
        applied = Applied(held.epoch, held.version)
        return NodeSnapshot(running(held), held.store, applied, runtimes=RUNTIMES)

    def _on_assignment(self, message: Message) -> None:
        if not message.payload:
            return
        new = read(message.payload, Assignment)
        if plan.refusal(self.assignment, new, adopt_store=False) is None:
            self.assignment = new
            self.reporter.set_interval(new.heartbeat_ms / 1000)
            self.reporter.changed()

    def _on_command(self, message: Message) -> None:
        if not message.retain and read(message.payload, Command).resync:
            self.reporter.again()

    def run(self) -> list[asyncio.Task[None]]:
        loops = (self.link.run(), self.reporter.run_reports(), self.reporter.run_heartbeats())
        return [asyncio.ensure_future(loop) for loop in loops]


class Crowd:
    """Many light agents in one process."""

    def __init__(self, port: int, topics: Topics, nodes: list[str]) -> None:
        clock, random = SystemClock(), Random(1)
        self._make = lambda: [LightAgent(node, port, topics, clock, random) for node in nodes]
        self._agents = self._make()
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self) -> None:
        """All at once."""
        for agent in self._agents:
            self._tasks += agent.run()

    async def leave(self) -> None:
        """Say goodbye, all of them; the next `connect` is that of new agents."""
        await asyncio.gather(*(agent.reporter.goodbye() for agent in self._agents))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._agents = self._make()


class Chorus:
    """Many nodes' heartbeats over one connection, evenly spread over the interval."""

    def __init__(self, port: int, topics: Topics, nodes: list[str], interval_s: float) -> None:
        self._topics, self._nodes, self._interval = topics, nodes, interval_s
        options = ConnectOptions(port=port, client_id="chorus", keepalive=60)
        self._link = MqttLink(options, clock=SystemClock(), random=Random(1))
        self._link.subscribe(topics.all_nodes("command"), self._on_command)
        self._beats = [topics.node(node, "heartbeat") for node in nodes]
        self._answered: set[str] = set()
        self._digest = snapshot_digest(NodeSnapshot(runtimes=RUNTIMES))
        self._tasks: list[asyncio.Task[Any]] = []
        self._news = asyncio.Event()
        self.sent = 0
        self.late_s = 0.0

    async def open(self) -> None:
        """Connect; every node says its birth and its report."""
        self._tasks.append(asyncio.create_task(self._link.run()))
        await self._link.wait_connected(30)
        view = NodeSnapshot(runtimes=RUNTIMES)
        report = encode(report_of(view, "b-1", 1))
        birth = encode(NodeState(NodeBirth.READY, "b-1", 1))
        for node in self._nodes:
            await self._link.publish(self._topics.node(node, "state"), birth, retain=True)
            await self._link.publish(self._topics.node(node, "reported"), report, retain=True)

    def start(self) -> None:
        """Beat from now on."""
        self._tasks.append(asyncio.create_task(self._beat_forever()))

    async def check(self) -> int:
        """One round in which every beat asks to be answered; how many were, 2 s after its end."""
        await asyncio.sleep(self._interval)
        self._answered.clear()
        kept, self._digest = self._digest, "sha256:other"
        await asyncio.sleep(self._interval)
        self._digest = kept
        await asyncio.sleep(2)
        return len(self._answered)

    async def _beat_forever(self) -> None:
        step = max(0.01, self._interval / len(self._nodes))
        began, ticks = time.monotonic(), 0
        position, due = 0, 0.0
        while True:
            ticks += 1
            due += step * len(self._nodes) / self._interval
            for _ in range(int(due) - self.sent):
                self._beat(position)
                position = (position + 1) % len(self._nodes)
            wait = began + ticks * step - time.monotonic()
            self.late_s = max(self.late_s, -wait)
            await asyncio.sleep(max(0.0, wait))

    def _beat(self, position: int) -> None:
        self.sent += 1
        beat = Heartbeat("b-1", 1, self.sent, self.sent, Applied(), self._digest)
        self._link.post(self._beats[position], encode(beat), qos=0)

    def _on_command(self, message: Message) -> None:
        topic = self._topics.parse_node(message.topic)
        if topic is not None:
            self._answered.add(topic.node)
