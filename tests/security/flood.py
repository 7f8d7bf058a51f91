"""Latency of other callers while one floods the manager. A measurement, not part of the suite.

python -m tests.security.flood --seconds 60 --rate 1000 --broker mosquitto

Exit code 1 if a goal is missed: the others' p99 below 500 ms, and constant memory of the manager.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.rpc import Caller
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics

from tests.stack import ROOT, Stack, stack

TOPICS = Topics("lab")
P99_MS = 500.0
GROWTH_MB = 16.0
"""Allowed growth of the manager under the flood, which creates some thousands of clusters."""


def rss_mb(pid: int) -> float:
    """Resident megabytes (10^6) of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def link_of(port: int, user: str, secret: str) -> MqttLink:
    options = ConnectOptions(port=port, username=user, password=secret, client_id=f"f-{user}")
    return MqttLink(options, clock=SystemClock(), random=Random(1))


class Flooder:
    """Sends requests at a constant rate, whatever the replies."""

    def __init__(self, link: MqttLink) -> None:
        self.link, self.sent = link, 0
        self.answers: Counter[str] = Counter()
        link.subscribe(TOPICS.response("bob", "flood"), self._on_reply)

    def _on_reply(self, message: Message) -> None:
        reply = json.loads(message.payload)
        self.answers["ok" if reply["ok"] else reply["error"]["code"]] += 1

    async def run(self, rate: float, seconds: float) -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            while self.sent < passed * rate:
                self.sent += 1
                # Every other request is a change, of the most expensive kind.
                change = self.sent % 2
                op = "create_routercluster" if change else "list_routerclusters"
                params = {"routercluster": {"name": f"f{self.sent}"}} if change else {}
                body = json.dumps({"id": f"f{self.sent}", "reply": "flood", "params": params})
                self.link.post(TOPICS.request("bob", op), body.encode())
            await asyncio.sleep(0.005)


async def others(caller: Caller, seconds: float, stem: str) -> list[float]:
    """Latencies in milliseconds of a caller that alternately reads and changes, ten times a second."""
    found, began, number = [], time.monotonic(), 0
    while time.monotonic() - began < seconds:
        number += 1
        before = time.monotonic()
        # The timeout is far above the goal, so that a slow answer shows up in the figures.
        if number % 2:
            await caller.call(
                "create_routercluster", {"routercluster": {"name": f"{stem}{number}"}}, timeout=30
            )
        else:
            await caller.call("get_manager", timeout=30)
        found.append((time.monotonic() - before) * 1000)
        await asyncio.sleep(0.1)
    return found


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def quantiles(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"p50 {middle:.1f} ms, p99 {p99(values):.1f} ms, max {max(values):.1f} ms ({len(values)} calls)"


def missed(during: list[float], memory: list[float]) -> list[str]:
    """The missed goals, as text."""
    found = []
    if p99(during) >= P99_MS:
        found.append(f"others wait: p99 {p99(during):.0f} ms")
    if memory[-1] - memory[0] >= GROWTH_MB:
        found.append(f"the manager grew by {memory[-1] - memory[0]:.0f} MB")
    return found


async def measure(made: Stack, rate: float, seconds: float) -> dict[str, Any]:
    calm = link_of(made.port, "alice", made.secrets["alice"])
    ids = (f"c{number}" for number in range(10**9))
    caller = Caller(calm, TOPICS, "alice", "calm", SystemClock(), lambda: next(ids), Random(1))
    task = asyncio.create_task(calm.run())
    pid = made.processes["manager"].pid
    try:
        await calm.wait_connected(10)
        before = await others(caller, min(10.0, seconds), "before")
        memory, cpu = [rss_mb(pid)], cpu_s(pid)
        # In a process of its own, or the two clients would slow each other down.
        flooder = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.security.flood", "--as-flooder", str(made.port),
            str(made.folder / "secrets" / "bob"), "--rate", str(rate), "--seconds", str(seconds),
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

        async def watch() -> None:
            for _ in range(6):
                await asyncio.sleep(seconds / 6)
                memory.append(rss_mb(pid))

        during, _ = await asyncio.gather(others(caller, seconds, "during"), watch())
        share = (cpu_s(pid) - cpu) / seconds
        said, _ = await asyncio.wait_for(flooder.communicate(), 30)
        return {
            "others before": quantiles(before),
            "others during the flood": quantiles(during),
            "flooder": said.decode().strip(),
            "manager": f"{share:.0%} of a core; MB: " + " ".join(f"{value:.0f}" for value in memory),
            "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            "missed": missed(during, memory),
        }
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)


async def flood(port: int, secret: str, rate: float, seconds: float) -> None:
    """The flooder's process."""
    link = link_of(port, "bob", secret)
    flooder = Flooder(link)
    task = asyncio.create_task(link.run())
    try:
        await link.wait_connected(10)
        await flooder.run(rate, seconds)
        await asyncio.sleep(3)
        print(f"{flooder.sent:,} sent in {seconds:g} s, answers {dict(flooder.answers)}")
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="requests per second of the flooder")
    parser.add_argument("--broker", choices=["mosquitto", "embedded"], default="mosquitto")
    parser.add_argument("--as-flooder", nargs=2, metavar=("PORT", "SECRET"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.as_flooder:
        port, secret = asked.as_flooder
        asyncio.run(flood(int(port), Path(secret).read_text(), asked.rate, asked.seconds))
        return 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, stack(Path(folder), asked.broker) as made:
        made.start_manager()
        alice = made.client("alice")
        made.wait_manager(alice)
        alice.ok("add_principal", {"principal": {"name": "bob", "role": "operator"}})
        found = asyncio.run(measure(made, asked.rate, asked.seconds))
    failed: list[str] = found.pop("missed")
    for name, value in found.items():
        print(f"{name:<24} {value}", flush=True)
    told = f"{asked.rate:g} requests/s for {asked.seconds:g} s on {asked.broker}"
    during = found["others during the flood"]
    print(f"flood: {told}, others {during}: " + ("; ".join(failed) if failed else "nothing found"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
