"""Many light agents connect at once: how long until the manager calls every one of them online."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink

from tests.bench import seed
from tests.bench.report import Curve, Row
from tests.bench.setting import (
    REALM,
    TOPICS,
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
GOAL_S = 10.0
LIMIT_S = 90.0


class Watch:
    """Follows the nodes' statuses."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._online: set[str] = set()
        self._changed = asyncio.Event()

    def attach(self, link: MqttLink) -> None:
        link.subscribe(TOPICS.status("_", "node", "+"), self._note, 0)

    async def until(self, online: int, timeout: float = LIMIT_S) -> None:
        """Wait until exactly so many are online."""
        async with asyncio.timeout(timeout):
            while len(self._online) != online:
                self._changed.clear()
                await self._changed.wait()

    def _note(self, message: Message) -> None:
        if message.payload:
            status = json.loads(message.payload)
            keep = self._online.add if status["status"] == "online" else self._online.discard
            keep(status["name"])
            self._changed.set()


async def measure(bench: Bench) -> None:
    """Seconds from `go` to the last `online`, by number of agents."""
    found: dict[int, list[float]] = {}
    for nodes in SIZES:
        with folder() as at, broker(at) as port:
            found[nodes] = await _one(bench, at, port, nodes)
    last = found[SIZES[-1]]
    bench.results.rows.append(
        Row(
            "connecting",
            f"{SIZES[-1]:,} agents connect at once: all online",
            spread(last, ".1f", " s"),
            goal=f"within {GOAL_S:.0f} s",
            met=median(last) <= GOAL_S,
            runs=bench.runs,
        )
    )
    bench.results.curves.append(
        Curve(
            "connecting",
            "connecting",
            "Agents connecting at once: all online",
            "agents",
            "s",
            (Series("all online", [(nodes, median(times)) for nodes, times in found.items()]),),
        )
    )


async def _one(bench: Bench, at: Path, port: int, nodes: int) -> list[float]:
    fleet = await seed.fill(at / "manager", nodes=nodes)
    watch, times = Watch(), []
    spec = {"port": port, "realm": REALM, "nodes": fleet.nodes}
    async with (
        manager(at, port) as served,
        linked(port, watch.attach),
        child(at, "light", **spec) as crowd,
    ):
        for _ in range(bench.runs):
            await calm(served.pid, crowd.pid)
            began = time.monotonic()
            crowd.say("go")
            await watch.until(nodes)
            times.append(time.monotonic() - began)
            await crowd.read()
            crowd.say("leave")
            await crowd.read()
            await watch.until(0)
    return times
