"""What the heartbeats of many nodes cost the manager, and whether every one of them is heard."""

from __future__ import annotations

from pathlib import Path

from tests.bench import seed
from tests.bench.report import Curve, Row
from tests.bench.setting import REALM, Bench, broker, calm, child, cpu_share, folder, manager, median, spread
from tests.bench.svg import Series

INTERVAL_S = 5.0
GOAL = 0.25
SIZES = (10, 100, 1_000, 10_000)


async def measure(bench: Bench) -> None:
    """CPU of the manager over windows of one interval each, by number of nodes."""
    curve: list[tuple[float, float]] = []
    for nodes in bench.sizes(*SIZES):
        with folder() as at, broker(at) as port:
            shares, answered, late_s = await _one(bench, at, port, nodes)
        curve.append((nodes, median(shares) * 100))
    percent = [share * 100 for share in shares]
    whole = nodes == SIZES[-1]
    bench.results.rows += [
        Row(
            "heartbeats",
            f"heartbeats of {nodes:,} nodes every 5 s ({nodes / INTERVAL_S:,.0f}/s), manager's CPU",
            spread(percent, ".1f", " % of a core"),
            goal=f"under {GOAL * 100:.0f} %",
            met=median(percent) < GOAL * 100 if whole else None,
            runs=bench.runs,
        ),
        Row(
            "heartbeats",
            "none lost: nodes of one round whose beat was answered",
            f"{answered:,} of {nodes:,} (sender at most {late_s * 1000:.0f} ms late)",
            goal="all",
            met=answered == nodes if whole else None,
        ),
    ]
    bench.results.curves.append(
        Curve(
            "heartbeats",
            "heartbeats",
            "Manager's CPU for heartbeats every 5 s",
            "nodes",
            "% of one core",
            (Series("manager", curve), Series("goal at 10,000", [(10, 25), (10_000, 25)], dashed=True)),
        )
    )


async def _one(bench: Bench, at: Path, port: int, nodes: int) -> tuple[list[float], int, float]:
    """Shares of a core, answered beats of the control round, and the sender's own lateness."""
    fleet = await seed.fill(at / "manager", nodes=nodes)
    async with manager(at, port) as served:
        await calm(served.pid)
        spec = {"port": port, "realm": REALM, "nodes": fleet.nodes, "interval_s": INTERVAL_S}
        async with child(at, "beats", **spec) as sender:
            sender.say("go")
            await sender.read()
            await calm_with_beats(served.pid)
            runs = bench.runs if nodes == SIZES[-1] else min(bench.runs, 3)
            shares = [await cpu_share(served.pid, INTERVAL_S) for _ in range(runs)]
            sender.say("sent")
            late_s = (await sender.read())["late_s"]
            if nodes < SIZES[-1]:
                return shares, 0, late_s
            sender.say("check")
            return shares, (await sender.read())["answered"], late_s


async def calm_with_beats(pid: int, limit: int = 12) -> None:
    """Wait until the births and reports are worked off: the load no longer falls."""
    before = await cpu_share(pid, 2.5)
    for _ in range(limit):
        now = await cpu_share(pid, 2.5)
        if now > 0.8 * before and now < 0.7:
            return
        before = now
