"""Every worker to every other, before, during and after what happens to a group."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mesh.clients import Publisher, Subscriber
from tests.mesh.lab import Lab, lab

RATE = 20.0
"""Messages each second of each publisher: one at each worker."""
QUIET_S = 50.0
"""nats-server sends again what was not acknowledged after 30 s (its `ack_wait`)."""
READY_S = 60.0
"""Within which a client of another library is connected everywhere."""
NATS_PY = """
import asyncio, sys, nats
async def main(urls):
    for url in urls:
        link = await nats.connect(url)
        async def got(message, url=url):
            print(url, message.data.decode(), flush=True)
        await link.subscribe("load.x", cb=got)
        await link.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main(sys.argv[1:]))
"""
MQTT_JS = """
const mqtt = require("mqtt"); let left = process.argv.length - 1;
process.argv.slice(1).forEach((url, i) => {
  const client = mqtt.connect(url, {protocolVersion: 4, clientId: "js" + i});
  client.on("message", (topic, payload) => console.log(url + " " + payload));
  const heard = () => { if (--left === 0) console.log("ready"); };
  client.on("connect", () => client.subscribe("load/#", {qos: 1}, heard));
});
"""


@dataclass(frozen=True)
class Row:
    """What one event has cost. `doubled`: received more than once, in all."""

    event: str
    seconds: float
    acked: int
    expected: int
    lost: int
    doubled: int


class Crossing:
    """A publisher and a subscriber with a session at each worker."""

    def __init__(self, made: Lab) -> None:
        self.made = made
        self.of = range(1, made.scale + 1)
        self.told: dict[int, set[bytes]] = {}
        """What each subscriber has lost, as rows have told already."""
        self.subscribers = [Subscriber(f"s{n}", self._at(n)) for n in self.of]
        self.publishers = [Publisher(f"p{n}", self._at(n), RATE) for n in self.of]
        for each in (*self.subscribers, *self.publishers):
            each.start()

    def _at(self, number: int) -> Callable[[], list[int]]:
        def ports() -> list[int]:
            listeners = self.made.worker(number).get("listeners") or {}
            return [int(listeners["mqtt"].rpartition(":")[2])] if "mqtt" in listeners else []

        return ports

    def acked(self) -> set[bytes]:
        return set[bytes]().union(*(set(each.acked) for each in self.publishers))

    def around(self, event: str, happens: Callable[[], object]) -> Row:
        """While all send, the event and two seconds more; then what is missing."""
        before, doubled = self.acked(), self._doubled()
        begun = time.monotonic()
        happens()
        seconds = time.monotonic() - begun
        time.sleep(2.0)
        acked = self.acked()
        lost = self._missing(acked)
        new = len(acked - before)
        return Row(event, seconds, new, new * len(self.subscribers), lost, self._doubled() - doubled)

    def _missing(self, acked: set[bytes]) -> int:
        """Once nothing of it has come for so long, or all is there; what was told before does not count."""
        missing = 0
        for number, each in enumerate(self.subscribers):
            told = self.told.setdefault(number, set())
            least, since = len(acked) + 1, time.monotonic()
            while (lacks := acked - set(each.received) - told) and time.monotonic() - since < QUIET_S:
                if len(lacks) < least:
                    least, since = len(lacks), time.monotonic()
                time.sleep(0.1)
            told |= lacks
            missing += len(lacks)
        return missing

    def _doubled(self) -> int:
        return sum(n - 1 for each in self.subscribers for n in each.received.copy().values())

    def stop(self) -> None:
        for each in (*self.publishers, *self.subscribers):
            each.stop()


def crossed(folder: Path, workers: int, nodes: int) -> Iterator[Row]:
    """All events, on a group of so many workers on so many nodes."""
    with lab(folder, workers, nodes) as made:
        crossing = Crossing(made)
        try:
            yield crossing.around("quiet", lambda: time.sleep(3.0))
            for kind in ("nats-py", "mqtt.js"):
                yield foreign(crossing, kind)
            for event, happens in _events(made):
                yield crossing.around(event, happens)
            yield crossing.around("quiet", lambda: time.sleep(3.0))
        finally:
            crossing.stop()


def _events(made: Lab) -> Iterator[tuple[str, Callable[[], object]]]:
    def healed(name: str) -> Callable[[], object]:
        def happens() -> None:
            getattr(made, name)(1 + made.scale // 2)
            time.sleep(1.0)
            made.whole(180)

        return happens

    for who in ("worker", "agent", "manager"):
        one = f"{'an' if who == 'agent' else 'a'} {who}"
        yield f"kill of {one}", healed(f"kill_{who}")
        yield f"freeze of {one} (4 to 5 s)", healed(f"freeze_{who}")
    if len(made.nodes) > 1:
        yield "kill of a node", healed("kill_node")
        yield "drain of a node", lambda: made.drain(made.nodes[0])
    yield "rolling update", made.update
    before = made.scale
    yield f"scale {before} to {before + 2}", lambda: made.rescale(before + 2)
    yield f"scale {before + 2} to {before}", lambda: made.rescale(before)


def foreign(crossing: Crossing, kind: str) -> Row:
    """Another kind of client at each worker hears each message of all publishers exactly once."""
    name = "mqtt" if kind == "mqtt.js" else "nats"
    urls = []
    for number in crossing.of:
        listeners = crossing.made.worker(number)["listeners"]
        urls.append(listeners["mqtt" if name == "mqtt" else "client"])
    heard: dict[str, Counter[bytes]] = {url: Counter() for url in urls}
    with _listening(kind, urls, heard) as fine:
        if not fine:
            return Row(f"{kind}: not installed", 0, 0, 0, 0, 0)
        time.sleep(0.5)
        before = crossing.acked()
        time.sleep(3.0)
        sent = crossing.acked() - before
        time.sleep(2.0)
    lost = sum(len(sent - set(each)) for each in heard.values())
    doubled = sum(n - 1 for each in heard.values() for n in each.values())
    return Row(f"{kind}, quiet", 3.0, len(sent), len(sent) * len(urls), lost, doubled)


@contextmanager
def _listening(kind: str, urls: list[str], heard: dict[str, Counter[bytes]]) -> Iterator[bool]:
    """`BUSBAR_FOREIGN`: the folder where npm has put mqtt.js; nats-py is found by Python."""
    where = os.environ.get("BUSBAR_FOREIGN")
    if kind == "mqtt.js" and (not where or shutil.which("node") is None):
        yield False
        return
    command = [sys.executable, "-c", NATS_PY] if kind == "nats-py" else ["node", "-e", MQTT_JS]
    process = subprocess.Popen(
        [*command, *(["--"] if kind == "mqtt.js" else []), *urls],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=where if kind == "mqtt.js" else None,
    )
    assert process.stdout is not None
    bound = threading.Timer(READY_S, process.kill)
    bound.start()
    try:
        fine = any(line.strip() == "ready" for line in iter(process.stdout.readline, ""))
        bound.cancel()

        def read() -> None:
            for line in process.stdout or ():
                url, _, payload = line.strip().partition(" ")
                heard[url][payload.encode()] += 1

        thread = threading.Thread(target=read, daemon=True)
        if fine:
            thread.start()
        yield fine
    finally:
        bound.cancel()
        process.kill()
        process.wait()
        if fine:
            thread.join(5)
