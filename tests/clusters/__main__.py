"""Measure clusters of brokers beside a single mosquitto, and ten realms beside one, in the same run.

python -m tests.clusters                    # all that is installed here; medians of --runs rounds
python -m tests.clusters echo requests --brokers mosquitto,nats
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

import pytest
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.errors import BusOfflineError
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics
from busbar.manager.leader.state_folder import backup, restore

from tests.bench import seed
from tests.bench.pump import Make, Pump
from tests.bench.report import machine
from tests.bench.requests import create, read
from tests.bench.setting import CLOCK, REALM, USER, calm, cpu_s, folder, rss_mb, spread
from tests.clusters.engines import Account, Engine, engine
from tests.clusters.serve import child

BROKERS: Final = ("mosquitto", "bridge", "nats", "aedes")
IN_FLIGHT: Final = 64
REALMS: Final = 10
SECRET: Final = "measured"
WHEN: Final = "2026-01-01T00:00:00Z"


@dataclass
class Table:
    """What was measured; printed as Markdown at the end."""

    runs: int
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, what: str, where: str, figures: list[float], form: str = ",.0f", unit: str = "/s") -> None:
        self.rows.append((what, where, spread(figures, form, unit)))
        print(f"  {what}, {where}: {self.rows[-1][2]}", flush=True)

    def text(self) -> str:
        lines = [f"| what | on | median of {self.runs} (least to greatest) |", "|---|---|---|"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows), *self.skipped])


def options(port: int, user: str) -> ConnectOptions:
    return ConnectOptions(port=port, username=user, password=SECRET, client_id=f"m-{user}", keepalive=60)


@asynccontextmanager
async def connected(port: int, user: str, topics: Topics) -> AsyncIterator[Pump]:
    """A caller at one broker node."""
    link = MqttLink(options(port, user), clock=CLOCK, random=Random(1))
    pump = Pump(link, topics)
    running = asyncio.create_task(link.run())
    try:
        await link.wait_connected(60)
        yield pump
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=5)


@asynccontextmanager
async def served(
    at: Path, kind: str, port: int, realm: str, username: str, **more: object
) -> AsyncIterator[int]:
    """An echo or a manager in a process of its own at one broker node; its pid."""
    given = {"port": port, "realm": realm, "username": username, "password": SECRET, **more}
    async with child(at, kind, **given) as process:
        yield process.pid


async def on(pump: Pump, table: Table, total: int, make: Make, what: str, where: str, ok: bool) -> None:
    """One warm round, then the table's runs with 64 in flight, and one at a time."""
    await pump.run(total // 4, IN_FLIGHT, make, must_be_ok=ok)
    many = [await pump.run(total, IN_FLIGHT, make, must_be_ok=ok) for _ in range(table.runs)]
    table.add(f"{what}, {IN_FLIGHT} in flight", where, [burst.rate for burst in many])
    single = [await pump.run(total // 20, 1, make, must_be_ok=ok) for _ in range(table.runs)]
    table.add(f"{what}, one at a time, p50", where, [burst.p50_ms for burst in single], ".1f", " ms")


def spread_over(brokers: Engine) -> tuple[int, int]:
    """The ports of responder and caller: two nodes where there are several."""
    return brokers.ports[0], brokers.ports[-1]


async def one_realm(table: Table, kind: str, names: list[str], total: int) -> None:
    """Echo and requests between two nodes of one kind of broker."""
    accounts = {"manager": Account("manager", SECRET), USER: Account("person", SECRET)}
    where = kind if kind == "mosquitto" else f"{kind}, over two nodes"
    with folder() as at, engine(kind, at / "brokers", accounts, [REALM]) as brokers:
        there, here = spread_over(brokers)
        if "echo" in names:
            more = {"user": USER, "inbox": "pump"}
            async with (
                served(at, "echo", there, REALM, "manager", **more),
                connected(here, USER, Topics(REALM)) as pump,
            ):
                await on(pump, table, total, read("0" * 36), "echo", where, False)
        if "requests" in names:
            state = str(at / "manager")
            async with (
                served(at, "manager", there, REALM, "manager", state=state) as pid,
                connected(here, USER, Topics(REALM)) as pump,
            ):
                await calm(pid, timeout=10)
                await on(pump, table, total, listing, "list_nodes", where, True)
                await on(pump, table, total // 2, create, "create_routercluster", where, True)


def listing(request_id: str, number: int) -> tuple[str, bytes]:
    """A read."""
    return "list_nodes", f'{{"id":"{request_id}","reply":"pump","params":{{}}}}'.encode()


async def ten_realms(table: Table, total: int) -> None:
    """One realm's rate of changes alone, and the rate of ten at once, on one mosquitto."""
    names = [f"r{number}" for number in range(REALMS)]
    accounts = {f"manager-{name}": Account("manager", SECRET, name) for name in names}
    accounts[USER] = Account("person", SECRET)
    with folder() as at, engine("mosquitto", at / "brokers", accounts, names) as brokers:
        (port,) = brokers.ports
        async with contextlib.AsyncExitStack() as stack:
            pids = []
            for name in names:
                state = str(at / name)
                manager = served(at, "manager", port, name, f"manager-{name}", state=state)
                pids.append(await stack.enter_async_context(manager))
            pumps = []
            for number, name in enumerate(names):
                link = MqttLink(
                    replace(options(port, USER), client_id=f"m-{number}"), clock=CLOCK, random=Random(1)
                )
                pumps.append(Pump(link, Topics(name)))
                running = asyncio.create_task(link.run())
                stack.callback(running.cancel)
                await link.wait_connected(60)
            await calm(*pids, timeout=20)
            for what, make in (("list_nodes", listing), ("create_routercluster", create)):
                await pumps[0].run(total // 4, IN_FLIGHT, make)
                alone, together = [], []
                for _ in range(table.runs):
                    alone.append((await pumps[0].run(total, IN_FLIGHT, make)).rate)
                    together.append(await combined(pumps, total // 4, make))
                table.add(what, "one of ten realms at work", alone)
                table.add(what, "ten realms at once, together", together)
            table.add("resident memory of a manager", "each of ten", [rss_mb(p) for p in pids], ".0f", " MB")
            idle = [await idle_share(pids) for _ in range(table.runs)]
            table.add("CPU of ten idle managers", "all ten", idle, ".1f", " % of a core")


async def combined(pumps: list[Pump], total: int, make: Make) -> float:
    """Replies per second of all realms together; each has as much in flight as one alone."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(pump.run(total, IN_FLIGHT, make) for pump in pumps))
    return total * len(pumps) / (loop.time() - began)


async def idle_share(pids: list[int], seconds: float = 3.0) -> float:
    """Percent of one core that the processes take together."""
    before = sum(map(cpu_s, pids))
    await asyncio.sleep(seconds)
    return (sum(map(cpu_s, pids)) - before) / seconds * 100


async def store(table: Table) -> None:
    """The file of a realm of 1,000 nodes and 10,000 placed workers, its backup, and the way back."""
    sizes, copies, restores, memory = [], [], [], []
    accounts = {"manager": Account("manager", SECRET)}
    for _ in range(table.runs):
        with folder() as at, engine("mosquitto", at / "brokers", accounts, [REALM]) as brokers:
            state, copy = at / "manager", at / "copy.db"
            await seed.fill(state, nodes=1_000, clusters=100, scale=100, placed=True)
            began = time.perf_counter()
            backup(state, copy, WHEN)
            copies.append(time.perf_counter() - began)
            sizes.append(copy.stat().st_size / 1e6)
            began = time.perf_counter()
            restore(at / "other", copy, WHEN)
            restores.append(time.perf_counter() - began)
            (port,) = brokers.ports
            async with served(at, "manager", port, REALM, "manager", state=str(state)) as pid:
                memory.append(rss_mb(pid))
    where = "1,000 nodes, 10,000 workers, no history"
    table.add("the store's file", where, sizes, ",.1f", " MB")
    table.add("backup, verified", where, copies, ".2f", " s")
    table.add("restore, verified", where, restores, ".2f", " s")
    table.add("the manager's resident memory, once ready", where, memory, ".0f", " MB")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.clusters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", default=["echo", "requests", "realms", "store"], metavar="NAME")
    parser.add_argument("--brokers", default=",".join(BROKERS), help="of: " + ", ".join(BROKERS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--total", type=int, default=1_000, help="messages of a round (default 1,000)")
    return parser.parse_args()


async def measure(given: argparse.Namespace) -> Table:
    """Everything that was asked for."""
    table = Table(given.runs)
    for kind in given.brokers.split(",") if {"echo", "requests"} & set(given.names) else ():
        print(f"{kind} ...", flush=True)
        try:
            await one_realm(table, kind, given.names, given.total)
        except pytest.skip.Exception as reason:
            table.skipped.append(f"\n{kind}: left out, {reason}")
        except (RuntimeError, BusOfflineError, TimeoutError) as error:
            table.skipped.append(f"\n{kind}: failed, {error}")
    if "realms" in given.names:
        print("realms ...", flush=True)
        await ten_realms(table, given.total)
    if "store" in given.names:
        print("store ...", flush=True)
        await store(table)
    return table


def main() -> int:
    """Print the table; 1 if something failed."""
    table = asyncio.run(measure(arguments()))
    now = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"\n{machine()} Load average at the end: {now}.\n\n{table.text()}")
    return 1 if any("failed" in line for line in table.skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
