"""Four routers as one group: their start and a message's way beside programs that are started by hand, and
their renewal under load.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from busbar.agent.runtimes import load_runtimes
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.bench.report import Row
from tests.bench.setting import Bench, folder, median, spread
from tests.bench.startups import (
    Session,
    by_hand,
    define,
    running_by_hand,
    session,
    start,
    stop,
    up,
)
from tests.brokers import free_port

SCALE = 4
RATE = 500
"""Messages a second, QoS 1."""
SLOWEST_RATIO = 1.15
GAP_GOAL_S = 1.0
SETTLE_S, LIMIT_S = 3.0, 120.0
TRIPS = 500
"""Messages that go to a router and back, one at a time, in one run."""
SLOWER_TRIP = 1.1


async def measure(bench: Bench) -> None:
    """crossbar's start takes seconds of both cores, so it is measured twice at most."""
    with folder() as at:
        async with up(at / "state", "--port", str(free_port())):
            await _starts(bench, at)
            await _renewal(bench, at)


async def _starts(bench: Bench, at: Path) -> None:
    if load_runtimes({})["crossbar"].unavailable():
        bench.results.notes.append("start of four crossbar workers: crossbar is not on this machine.")
        return
    ours, bare = [], []
    async with session(at / "state") as found:
        cluster = await define(found, "crossbar", SCALE, "web")
        for _ in range(min(bench.runs, 2)):
            ours.append(await start(found, cluster))
            await stop(found, cluster)
            bare.append(await by_hand(at, "crossbar", SCALE))
    ratio = median(ours) / median(bare)
    bench.results.rows.append(
        Row(
            "routers",
            f"start of a group of {SCALE} crossbar workers on one node → RUNNING",
            spread(ours, ".1f", " s"),
            f"{SCALE} by hand at once: {median(bare):.1f} s",
            f"{ratio:.2f}",
            goal=f"no slower ({SLOWEST_RATIO} for what the runs differ by)",
            met=ratio <= SLOWEST_RATIO,
            runs=len(ours),
        )
    )


async def _renewal(bench: Bench, at: Path) -> None:
    if load_runtimes({})["mosquitto"].unavailable():
        bench.results.notes.append("renewal of four mosquitto workers: mosquitto is not on this machine.")
        return
    gaps, lost, sent, took = [], 0, 0, []
    async with session(at / "state") as found:
        cluster = await define(found, "mosquitto", SCALE, options={"persistence": True})
        await start(found, cluster)
        await _trips(bench, at, await _places(found, cluster))
        for number in range(bench.runs):
            seen = await _renew_once(found, cluster, number)
            gaps.append(seen.gap)
            took.append(seen.took)
            lost, sent = lost + seen.lost, sent + seen.sent
        await stop(found, cluster)
    bench.results.rows.append(
        Row(
            "routers",
            f"renewal of {SCALE} mosquitto workers (surge 1) under {RATE} messages/s: acknowledged and lost",
            f"{lost} of {sent:,}",
            f"a renewal takes {median(took):.1f} s",
            goal="0",
            met=lost == 0,
            runs=bench.runs,
        )
    )
    bench.results.rows.append(
        Row(
            "routers",
            "meanwhile a client that reconnects: longest time without a router",
            spread([gap * 1000 for gap in gaps], unit=" ms"),
            goal=f"under {GAP_GOAL_S:g} s, each",
            met=max(gaps) < GAP_GOAL_S,
            runs=bench.runs,
        )
    )


async def _trips(bench: Bench, at: Path, places: list[tuple[str, int]]) -> None:
    """The agent is in no message's way: a worker's round trip beside that of a program with the same file."""
    ours, bare = [], []
    async with running_by_hand(at, "mosquitto", options={"persistence": True}) as launch:
        for _ in range(bench.runs):
            ours.append(await asyncio.to_thread(_round_trip_ms, *places[0]))
            bare.append(await asyncio.to_thread(_round_trip_ms, launch.probe_host, launch.port))
    ratio = median(ours) / median(bare)
    bench.results.rows.append(
        Row(
            "routers",
            f"a message through a mosquitto worker and back, QoS 1, p50 of {TRIPS}",
            spread(ours, ".2f", " ms"),
            f"the same program by hand: {spread(bare, '.2f', ' ms')}",
            f"{ratio:.2f}",
            goal=f"at most {SLOWER_TRIP}",
            met=ratio <= SLOWER_TRIP,
            runs=bench.runs,
        )
    )


def _round_trip_ms(host: str, port: int) -> float:
    heard, ready = threading.Event(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    # Else the client itself waits 40 ms for an acknowledgement by TCP.
    client.on_socket_open = lambda _c, _d, opened: opened.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )
    client.on_connect = lambda client, *_: client.subscribe("trip", 1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda *_: heard.set()
    client.connect(host, port, 60)
    client.loop_start()
    try:
        if not ready.wait(20):
            raise RuntimeError("no subscription")
        taken = []
        for _ in range(TRIPS):
            heard.clear()
            began = time.perf_counter()
            client.publish("trip", b"x" * 64, 1)
            if not heard.wait(20):
                raise RuntimeError("a message did not come back")
            taken.append((time.perf_counter() - began) * 1000)
        return median(taken)
    finally:
        client.disconnect()
        client.loop_stop()


async def _places(found: Session, cluster: dict[str, Any]) -> list[tuple[str, int]]:
    """Host and port of each worker of a cluster."""
    stat = await found.call("stat_routercluster", {"routercluster_oid": cluster["oid"]})
    urls = [urlsplit(each["url"]) for each in stat["endpoints"]]
    return [(url.hostname or "", url.port or 0) for url in urls]


@dataclass
class _Seen:
    gap: float
    lost: int
    sent: int
    took: float


async def _renew_once(found: Session, cluster: dict[str, Any], number: int) -> _Seen:
    ref = {"routercluster_oid": cluster["oid"]}
    names = await found.call("list_routercluster_workergroups", ref)
    group = {**ref, "workergroup_oid": names[0]}
    stat = await found.call("stat_routercluster_workergroup", group)
    urls = [urlsplit(each["url"]) for each in stat["endpoints"]]
    places = [(url.hostname or "", url.port or 0) for url in urls]
    consumers = [_Consumer(f"consumer-{number}-{n}", *place) for n, place in enumerate(places)]
    publisher = _Publisher(places)
    try:
        await asyncio.to_thread(_all_connected, consumers)
        publisher.begin()
        await asyncio.sleep(SETTLE_S)
        began = time.monotonic()
        await found.call("restart_routercluster_workergroup", {**group, "max_surge": 1})
        async with asyncio.timeout(LIMIT_S):
            while not await _renewed(found, group):  # noqa: ASYNC110  (asked for: a status does not tell the revision of each)
                await asyncio.sleep(0.1)
        took = time.monotonic() - began
        await asyncio.sleep(SETTLE_S)
        acked = await asyncio.to_thread(publisher.end)
        await asyncio.sleep(SETTLE_S)
        received = set().union(*(each.got for each in consumers))
        return _Seen(publisher.gap, len(acked - received), len(acked), took)
    finally:
        publisher.end()
        for each in consumers:
            each.end()


async def _renewed(found: Session, ref: dict[str, Any]) -> bool:
    group = await found.call("get_routercluster_workergroup", ref)
    stat = await found.call("stat_routercluster_workergroup", ref)
    present = [worker for worker in stat["workers"] if worker["revision"] == group["revision"]]
    return bool(stat["ready"] == len(present) == len(stat["workers"]) == SCALE)


def _all_connected(consumers: list[_Consumer]) -> None:
    for each in consumers:
        if not each.subscribed.wait(20):
            raise RuntimeError("a consumer could not subscribe")


class _Consumer:
    """A persistent session on one worker, which comes back to it."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.got: set[int] = set()
        self.subscribed = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("load", 1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.got.add(int(message.payload))
        self.client.connect(host, port, 10)
        self.client.loop_start()

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class _Publisher:
    """Publishes at `RATE` to whichever router lets it in; what was not acknowledged is sent again there."""

    def __init__(self, places: list[tuple[str, int]]) -> None:
        self.acked: set[int] = set()
        self.gap = 0.0
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
        self.client.max_inflight_messages_set(2000)
        self.client.on_publish = lambda _client, _data, mid, *_: self._acknowledged(mid)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self._places = itertools.cycle(places)
        self._numbers: dict[int, int] = {}
        self._lost_at: float | None = None
        self._connected, self._stop = threading.Event(), threading.Event()
        self._sent, self._began = 0, 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        self._thread.start()
        if not self._connected.wait(20):
            raise RuntimeError("the publisher could not connect")

    def end(self) -> set[int]:
        """Stop, once all is acknowledged; the numbers that were."""
        self._stop.set()
        self._thread.join(40)
        return self.acked

    def _run(self) -> None:
        """Everything on one thread: connect to the next router, publish, read, until that is lost."""
        self._began = time.monotonic()
        limit = 0.0
        while not (self._stop.is_set() and (not self._numbers or time.monotonic() > limit)):
            limit = limit or (time.monotonic() + 20 if self._stop.is_set() else 0.0)
            try:
                self.client.connect(*next(self._places), 10)
            except OSError:
                time.sleep(0.01)
                continue
            while self.client.loop(0.005) == paho.MQTT_ERR_SUCCESS:
                if not self._stop.is_set():
                    self._publish_due()
                elif not self._numbers:
                    self.client.disconnect()
                    return

    def _publish_due(self) -> None:
        due = int((time.monotonic() - self._began) * RATE)
        while self._sent < due:
            info = self.client.publish("load", str(self._sent), 1)
            self._numbers[info.mid] = self._sent
            self._sent += 1

    def _acknowledged(self, mid: int) -> None:
        number = self._numbers.pop(mid, None)
        if number is not None:
            self.acked.add(number)

    def _on_connect(self, *_: Any) -> None:
        if self._lost_at is not None:
            self.gap = max(self.gap, time.monotonic() - self._lost_at)
        self._lost_at = None
        self._connected.set()

    def _on_disconnect(self, *_: Any) -> None:
        self._lost_at = self._lost_at or time.monotonic()
