"""Resident memory and idle CPU: a real agent under `busbar up`, and the manager with its nodes at rest."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.bench import seed
from tests.bench.connecting import Watch
from tests.bench.report import Curve, Row
from tests.bench.setting import (
    REALM,
    Bench,
    broker,
    calm,
    child,
    cpu_share,
    folder,
    linked,
    manager,
    median,
    rss_mb,
    spread,
)
from tests.bench.startups import up
from tests.bench.svg import Series
from tests.brokers import free_port

AGENT_MB, MANAGER_MB = 35.0, 80.0
AGENT_CPU, MANAGER_CPU = 0.3, 1.0
SIZES = (10, 100, 1_000)
WINDOW_S = 6.0
"""Of each CPU figure; the clock ticks of /proc are 10 ms, so a window resolves 0.17 % of a core."""


async def measure(bench: Bench) -> None:
    """The agent at rest, then the manager by number of nodes."""
    await _agent(bench)
    memory: dict[int, list[float]] = {}
    cpu: dict[int, list[float]] = {}
    for nodes in SIZES:
        # Memory is judged at the greatest size: a manager of its own for each of its runs.
        for number in range(bench.runs if nodes == SIZES[-1] else 1):
            with folder() as at, broker(at) as port:
                size, shares = await _manager(bench.runs if number == 0 else 0, at, port, nodes)
            memory.setdefault(nodes, []).append(size)
            cpu.setdefault(nodes, []).extend(shares)
    bench.results.rows += [
        Row(
            "footprint",
            "manager's resident memory at 1,000 nodes",
            spread(memory[1_000], ".1f", " MB"),
            goal=f"at most {MANAGER_MB:.0f} MB",
            met=median(memory[1_000]) <= MANAGER_MB,
            runs=bench.runs,
        ),
        Row(
            "footprint",
            "manager's CPU at 100 nodes at rest",
            spread(cpu[100], ".2f", " % of a core"),
            goal=f"under {MANAGER_CPU:.0f} %",
            met=median(cpu[100]) < MANAGER_CPU,
            runs=bench.runs,
        ),
    ]
    bench.results.curves += [
        Curve(
            "footprint", "manager-memory", "Manager's resident memory", "nodes", "MB",
            (Series("manager", [(nodes, median(sizes)) for nodes, sizes in memory.items()]),),
        ),
        Curve(
            "footprint", "manager-idle", "Manager's CPU, nodes at rest", "nodes", "% of one core",
            (Series("manager", [(nodes, median(shares)) for nodes, shares in cpu.items()]),),
        ),
    ]  # fmt: skip


async def _agent(bench: Bench) -> None:
    agent: list[float] = []
    shares: list[float] = []
    memory: dict[str, float] = {}
    for _ in range(bench.runs):
        with folder() as at:
            async with up(at / "state", "--port", str(free_port())):
                pids = json.loads((at / "state" / "up.json").read_text())["pids"]
                pid = next(pid for name, pid in pids.items() if name.startswith("agent"))
                await asyncio.sleep(3)
                shares.append(await cpu_share(pid, WINDOW_S) * 100)
                memory = {name: rss_mb(number) for name, number in pids.items() if name != "up"}
                agent.append(rss_mb(pid))
    others = ", ".join(
        f"{name} {size:.1f} MB" for name, size in memory.items() if not name.startswith("agent")
    )
    bench.results.rows += [
        Row(
            "footprint",
            "agent's resident memory, no workers",
            spread(agent, ".1f", " MB"),
            f"in the same `busbar up`: {others}",
            goal=f"at most {AGENT_MB:.0f} MB",
            met=median(agent) <= AGENT_MB,
            runs=bench.runs,
        ),
        Row(
            "footprint",
            "agent's CPU at rest",
            spread(shares, ".2f", " % of a core"),
            goal=f"under {AGENT_CPU} %",
            met=median(shares) < AGENT_CPU,
            runs=bench.runs,
        ),
    ]


async def _manager(windows: int, at: Path, port: int, nodes: int) -> tuple[float, list[float]]:
    """Megabytes and percentages of a core, with that many light agents online."""
    fleet = await seed.fill(at / "manager", nodes=nodes)
    watch = Watch()
    spec = {"port": port, "realm": REALM, "nodes": fleet.nodes}
    async with (
        manager(at, port) as served,
        linked(port, watch.attach),
        child(at, "light", **spec) as crowd,
    ):
        crowd.say("go")
        await watch.until(nodes)
        await calm(served.pid, below=0.15, timeout=20)
        shares = [await cpu_share(served.pid, WINDOW_S) * 100 for _ in range(windows)]
        return rss_mb(served.pid), shares
