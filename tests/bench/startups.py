"""`busbar up` until it is ready, and a cluster's start against the bare start of its worker programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from busbar.agent.runtimes import LaunchSpec, load_runtimes, prepare
from busbar.agent.runtimes.base import WorkerSpec
from busbar.agent.workers.probes import probe

from tests.bench.report import Row
from tests.bench.setting import CLOCK, ROOT, Bench, clean_env, folder, median, spread
from tests.brokers import free_port

UP_GOAL_S, OVER_GOAL_MS = 1.5, 300.0
SCALE = 2
READY_S = 240.0
RUNTIMES = ("mosquitto", "amqtt")
PROBE_EVERY_S = 0.005


def busbar() -> list[str]:
    """The installed command, else the module."""
    beside = Path(sys.executable).parent / "busbar"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "busbar.cli.app"]


@asynccontextmanager
async def up(state: Path, *more: str) -> AsyncIterator[float]:
    """`busbar up` on a free port; yields the seconds until it said that it is ready. Workers end with it."""
    began = time.monotonic()
    with (state.parent / "up.log").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *busbar(), "up", "--state", str(state), "--stop-workers", *more,
            stdout=asyncio.subprocess.PIPE, stderr=errors, stdin=asyncio.subprocess.DEVNULL,
            cwd=ROOT, env=clean_env(),
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            while not (line := await process.stdout.readline()).startswith(b"ready"):
                if not line:
                    raise RuntimeError((state.parent / "up.log").read_text()[-1000:])
        yield time.monotonic() - began
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(40):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()


async def measure(bench: Bench) -> None:
    """`busbar up` first, then clusters on one that stays up."""
    first: list[float] = []
    again: list[float] = []
    for _ in range(bench.runs):
        with folder() as at:
            for times in (first, again):
                async with up(at / "state", "--port", str(free_port())) as seconds:
                    times.append(seconds)
    bench.results.rows.append(
        Row(
            "startups",
            "`busbar up` (one node) → ready, in a new folder",
            f"{spread(first, '.2f', ' s')}; again {median(again):.2f} s",
            f"bare Python {await _python_s():.2f} s",
            goal=f"under {UP_GOAL_S} s",
            met=median(first) < UP_GOAL_S and median(again) < UP_GOAL_S,
            runs=bench.runs,
        )
    )
    with folder() as at:
        async with up(at / "state", "--port", str(free_port())):
            for runtime in RUNTIMES:
                await _cluster(bench, at, runtime)


async def _python_s() -> float:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await process.wait()
    return time.monotonic() - began


async def _cluster(bench: Bench, at: Path, runtime: str) -> None:
    """Start and stop of one cluster of SCALE workers, in turns with the bare programs' start."""
    ours: list[float] = []
    bare: list[float] = []
    if load_runtimes({})[runtime].unavailable():
        bench.results.notes.append(f"start of a cluster: no {runtime} on this machine.")
        return
    async with session(at / "state") as call:
        cluster = await define(call, runtime)
        for number in range(bench.runs + 1):
            seconds = await start(call, cluster)
            await stop(call, cluster)
            alone = await by_hand(at, runtime)
            if number:  # the first round fills the caches of the disk
                ours.append(seconds)
                bare.append(alone)
    over = [(mine - alone) * 1000 for mine, alone in zip(ours, bare, strict=True)]
    bench.results.yardsticks.append(
        Row(
            "startups",
            f"{SCALE} {runtime} programs started by hand at once: the slowest ready",
            spread([s * 1000 for s in bare], unit=" ms"),
            runs=bench.runs,
        )
    )
    bench.results.rows.append(
        Row(
            "startups",
            f"start of a cluster of {SCALE} {runtime} workers → RUNNING, over the slowest worker's own start",
            spread(over, unit=" ms"),
            f"{median(bare) * 1000:.0f} ms by hand, {median(ours) * 1000:.0f} ms in all",
            goal=f"at most {OVER_GOAL_MS:.0f} ms",
            met=median(over) <= OVER_GOAL_MS,
            runs=bench.runs,
        )
    )


# --- through the product -----------------------------------------------------------------------------------


@asynccontextmanager
async def session(state: Path) -> AsyncIterator[Any]:
    """`call(op, params)` as the administrator of a running `busbar up`, and what it has seen of statuses."""
    from random import Random

    from busbar.bus.connection.mqtt_link import MqttLink
    from busbar.bus.connection.rpc import Caller
    from busbar.bus.options import ConnectOptions
    from busbar.bus.topics import Topics

    from tests.bench.seed import new_oid

    told = json.loads((state / "up.json").read_text())
    secret = _read(told["password_file"])
    options = ConnectOptions(port=told["port"], username=told["username"], password=secret)
    link = MqttLink(options, clock=CLOCK, random=Random(1))
    topics = Topics(told["realm"], told["root"])
    caller = Caller(link, topics, told["username"], "bench", CLOCK, new_oid, Random(1))
    statuses = Statuses()
    link.subscribe(topics.status("+", "routercluster", "+"), statuses.note)
    task = asyncio.create_task(link.run())
    try:
        await link.wait_connected(READY_S)
        yield Session(caller, statuses)
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)


def _read(path: str) -> str:
    return Path(path).read_text().strip()


class Statuses:
    """The clusters' statuses by name."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._changed = asyncio.Event()

    def note(self, message: Any) -> None:
        if message.payload:
            status = json.loads(message.payload)
            self._known[status["name"]] = status["status"]
            self._changed.set()

    async def until(self, name: str, status: str) -> None:
        async with asyncio.timeout(READY_S):
            while self._known.get(name) != status:
                self._changed.clear()
                await self._changed.wait()


class Session:
    """A caller with its view of the statuses."""

    def __init__(self, caller: Any, statuses: Statuses) -> None:
        self.call = caller.call
        self.until = statuses.until


async def define(
    session: Session, runtime: str, scale: int = SCALE, kind: str = "mqtt", **transport: Any
) -> dict[str, Any]:
    """A cluster of so many workers of one runtime on every node."""
    transport = {"type": kind, "endpoint": {"type": "tcp", "port": [20_000, 29_999]}, **transport}
    wish = {"name": f"start-{runtime}", "transport": transport}
    cluster: dict[str, Any] = await session.call("create_routercluster", {"routercluster": wish})
    ref = {"routercluster_oid": cluster["oid"]}
    for node in await session.call("list_nodes"):
        await session.call("add_routercluster_node", {**ref, "node_oid": node})
    group = {"name": "web", "scale": scale, "runtime": runtime}
    await session.call("add_routercluster_workergroup", {**ref, "workergroup": group})
    return cluster


async def start(session: Session, cluster: dict[str, Any]) -> float:
    began = time.monotonic()
    await session.call("start_routercluster", {"routercluster_oid": cluster["oid"]})
    await session.until(cluster["name"], "RUNNING")
    return time.monotonic() - began


async def stop(session: Session, cluster: dict[str, Any]) -> None:
    await session.call("stop_routercluster", {"routercluster_oid": cluster["oid"]})
    await session.until(cluster["name"], "STOPPED")


# --- by hand -----------------------------------------------------------------------------------------------


async def by_hand(at: Path, runtime: str, scale: int = SCALE) -> float:
    """Seconds until the slowest of so many programs is ready, started by hand as the agent starts them."""
    began = time.monotonic()
    times = await asyncio.gather(*(_one_by_hand(at, runtime, number, began) for number in range(scale)))
    return max(times)


async def _one_by_hand(at: Path, runtime: str, number: int, began: float) -> float:
    async with running_by_hand(at, runtime, number):
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def running_by_hand(at: Path, runtime: str, number: int = 0, **more: Any) -> AsyncIterator[LaunchSpec]:
    """A program that is ready, started as the agent starts it; `more` of its transport."""
    where = at / f"bare-{runtime}-{number}"
    launch = _launch(where, runtime, number, **more)
    prepare(launch, where)
    with (where / "log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *launch.argv, cwd=where, env={**os.environ, **launch.env}, stdout=output, stderr=output,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    try:
        async with asyncio.timeout(READY_S):
            while await probe(  # noqa: ASYNC110  (a program says nothing: it must be asked)
                launch.ready, launch.probe_host, launch.port, where / "log", 2.0
            ):
                await asyncio.sleep(PROBE_EVERY_S)
        yield launch
    finally:
        process.kill()
        await process.wait()
        shutil.rmtree(where, ignore_errors=True)


def _launch(where: Path, runtime: str, number: int, **more: Any) -> LaunchSpec:
    port = free_port()
    kind = "web" if runtime == "crossbar" else "mqtt"
    transport = {"type": kind, "endpoint": {"type": "tcp", "port": port}, **more}
    spec = WorkerSpec(f"web-{number + 1}", f"bare-{number}", "bare", "web", 1, transport)
    return load_runtimes({})[runtime].render(spec, "127.0.0.1", {"default": port}, where)
