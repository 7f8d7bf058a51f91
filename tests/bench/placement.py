"""Start 10,000 workers over 1,000 simulated nodes: how fast places are given, and when all are running."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.rpc import Caller

from tests.bench import seed
from tests.bench.connecting import Watch
from tests.bench.report import Curve, Row
from tests.bench.setting import (
    CLOCK,
    REALM,
    TOPICS,
    USER,
    Bench,
    broker,
    calm,
    child,
    folder,
    linked,
    manager,
    median,
    spread,
)
from tests.bench.svg import Series

SIZES = (10, 100, 1_000)
PER_NODE = 10
GOAL = 5_000
LIMIT_S = 120.0
HUM = 0.15
"""Share of a core that 1,000 heartbeating nodes take at rest, with room to spare."""


@dataclass
class Eye:
    """Sees how many workers the assignments hold, and the cluster's status."""

    held: dict[str, int] = field(default_factory=dict)
    total: int = 0
    status: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def attach(self, link: MqttLink) -> None:
        link.subscribe(TOPICS.node("+", "assignment"), self._assigned, 0)
        link.subscribe(TOPICS.status("+", "routercluster", "+"), self._judged, 0)

    async def until(self, workers: int | None = None, status: str | None = None) -> None:
        async with asyncio.timeout(LIMIT_S):
            while (workers is not None and self.total != workers) or (status and self.status != status):
                self.changed.clear()
                await self.changed.wait()

    def _assigned(self, message: Message) -> None:
        count = message.payload.count(b'"worker":')
        self.total += count - self.held.get(message.topic, 0)
        self.held[message.topic] = count
        self.changed.set()

    def _judged(self, message: Message) -> None:
        self.status = json.loads(message.payload)["status"] if message.payload else ""
        self.changed.set()


@dataclass
class Times:
    """Seconds from the start request, one per run."""

    placed: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)


async def measure(bench: Bench) -> None:
    """By size; 1,000 nodes are judged."""
    found: dict[int, Times] = {}
    for nodes in bench.sizes(*SIZES, 0):
        with folder() as at, broker(at) as port:
            found[nodes] = await _one(bench, at, port, nodes)
    last, workers = found[SIZES[-1]], SIZES[-1] * PER_NODE
    rates = [workers / seconds for seconds in last.placed]
    bench.results.rows += [
        Row(
            "placement",
            f"start of {workers:,} workers over {SIZES[-1]:,} simulated nodes: placements",
            spread(rates, unit="/s"),
            "Nomad's C1M 3,750/s (published)",
            f"{median(rates) / 3750:.2f}",
            f"at least {GOAL:,}/s",
            median(rates) >= GOAL,
            bench.runs,
        ),
        Row(
            "placement",
            "the same, until every worker is reported running and the cluster RUNNING",
            spread(last.running, ".1f", " s"),
            runs=bench.runs,
        ),
        Row("placement", "the same cluster's stop", spread(last.stopped, ".1f", " s"), runs=bench.runs),
    ]
    kinds = (("placed", "all placed"), ("running", "all running"), ("stopped", "all stopped"))
    bench.results.curves.append(
        Curve(
            "placement",
            "placement",
            "Start and stop of 10 workers a node",
            "nodes",
            "s",
            [
                Series(label, [(nodes, median(getattr(times, kind))) for nodes, times in found.items()])
                for kind, label in kinds
            ],
        )
    )


async def _one(bench: Bench, at: Path, port: int, nodes: int) -> Times:
    fleet = await seed.fill(at / "manager", nodes=nodes, clusters=1, scale=nodes * PER_NODE)
    watch, eye, times = Watch(), Eye(), Times()
    callers: list[Caller] = []

    def prepare(link: MqttLink) -> None:
        watch.attach(link)
        eye.attach(link)
        callers.append(Caller(link, TOPICS, USER, "placement", CLOCK, seed.new_oid, Random(1)))

    spec = {"port": port, "realm": REALM, "nodes": fleet.nodes}
    async with manager(at, port) as served, linked(port, prepare), child(at, "light", **spec) as crowd:
        crowd.say("go")
        await watch.until(nodes)
        cluster = {"routercluster_oid": fleet.clusters[0]}
        for _ in range(bench.runs):
            await calm(served.pid, below=HUM)
            began = time.monotonic()
            await callers[0].call("start_routercluster", cluster, timeout=60)
            await eye.until(workers=nodes * PER_NODE)
            times.placed.append(time.monotonic() - began)
            await eye.until(status="RUNNING")
            times.running.append(time.monotonic() - began)
            await calm(served.pid, below=HUM)
            began = time.monotonic()
            await callers[0].call("stop_routercluster", cluster, timeout=60)
            await eye.until(workers=0, status="STOPPED")
            times.stopped.append(time.monotonic() - began)
    return times
