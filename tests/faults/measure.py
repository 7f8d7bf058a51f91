"""Measures recovery times with real processes: crash, change, partition."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.faults.census import until
from tests.faults.yard import Cluster, Yard, yard

BEAT_S = 0.5
ROUNDS = 100
"""Default number of measurements; fewer for the slow starts of a real router."""


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def measure(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure everything in one system."""
    with yard(folder, heartbeat=BEAT_S) as here:
        found: dict[str, Any] = {"heartbeat_s": BEAT_S}
        found["crash_light"] = _summary(_crashes(here, "serve", rounds, 10))
        found["crash_amqtt"] = _summary(_crashes(here, "amqtt", max(4, rounds // 10), 4))
        found["start_amqtt"] = _summary(_starts(here, "amqtt", 5))
        found["start_light"] = _summary(_starts(here, "serve", 5))
        found["change"] = _summary(_changes(here, rounds))
        cuts = _cuts(here, rounds)
        found["late_beats"] = _summary([after_cut / BEAT_S for after_cut, _ in cuts])
        found["silent_beats"] = _summary([after_word / BEAT_S for _, after_word in cuts])
        found["healed"] = _summary(_heals(here, rounds))
        return found


def _summary(values: list[float]) -> dict[str, float]:
    return {"n": len(values), "p50": round(quantile(values, 0.5), 2), "p99": round(quantile(values, 0.99), 2)}


def _crashes(here: Yard, runtime: str, count: int, scale: int) -> list[float]:
    """From SIGKILL of a ready worker to its event `ready`; each worker once per cluster."""
    found: list[float] = []
    while len(found) < count:
        cluster = here.cluster(scale, runtime)
        for name, life in sorted(cluster.running(scale, 60).items()):
            mark, began = len(here.alice.messages), time.monotonic()
            here.census.kill(life)
            here.alice.wait_event("on_worker_ready", timeout=30, since=mark, name=name)
            found.append(time.monotonic() - began)
        cluster.running(scale)
        cluster.stop()
    return found


def _starts(here: Yard, runtime: str, count: int) -> list[float]:
    """The router alone, with its own command line and folder, until its port answers."""
    cluster = here.cluster(1, runtime)
    (life,) = cluster.running(1).values()
    process = Path(f"/proc/{life.pid}")
    words = (process / "cmdline").read_bytes().decode().split("\0")[:-1]
    folder = os.readlink(process / "cwd")
    environment = dict(
        item.partition("=")[::2] for item in (process / "environ").read_bytes().decode().split("\0") if item
    )
    marked = {key: value for key, value in environment.items() if not key.startswith("BUSBAR_")}
    port = int(cluster.stat()["workers"][0]["address"].rpartition(":")[2].split("/")[0])
    here.kill("n1")
    here.kill("n2")
    here.census.kill(life)
    until(lambda: not cluster.pids(), 5, "it is gone")
    found = [_start(words, folder, marked, port) for _ in range(count)]
    here.start_agent("n1")
    here.start_agent("n2")
    here.all_online()
    cluster.stop()
    return found


def _start(words: list[str], folder: str, environment: dict[str, str], port: int) -> float:
    began = time.monotonic()
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: _answers(port), 30, "the port answers")
            return time.monotonic() - began
        finally:
            process.kill()
            process.wait(5)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _reached(here: Yard, cluster: Cluster, scale: int, mark: int, timeout: float = 30.0) -> None:
    """Wait for a status after the mark with so many desired and ready."""
    topic = here.alice.topic("status", cluster.name, "workergroup", "web")

    def right(message: tuple[str, bytes, bool]) -> bool:
        if message[0] != topic or not message[1]:
            return False
        body = json.loads(message[1])
        return (body["status"], body["scale"], body["ready"]) == ("RUNNING", scale, scale)

    here.alice.wait(right, timeout, mark)
    until(lambda: len(cluster.pids()) == scale, 10, "the kernel says the same")


def _changes(here: Yard, count: int) -> list[float]:
    """From a change of scale until status and /proc agree with it."""
    cluster = here.cluster(3)
    cluster.running(3)
    found = []
    for number in range(count):
        scale = 4 if number % 2 == 0 else 3
        mark, began = len(here.alice.messages), time.monotonic()
        cluster.scale(scale)
        _reached(here, cluster, scale, mark)
        found.append(time.monotonic() - began)
    cluster.stop()
    return found


def _cuts(here: Yard, count: int) -> list[tuple[float, float]]:
    """From a black hole on a node's connection, at every phase of its heartbeats, until its status is `late`.

    Returns the seconds since the cut, and since the node's last message that passed.
    """
    topic, found = here.alice.topic("status", "_", "node", "n1"), []
    time.sleep(13 * BEAT_S)  # past the grace period after a start
    proxy = here.proxies["n1"]
    for number in range(count):
        here.alice.wait_retained(topic, lambda value: value["status"] == "online")
        time.sleep(BEAT_S * (1 + number / count))
        began, mark = time.monotonic(), len(here.alice.messages)
        proxy.blackhole()
        _said(here, topic, mark, "late")
        ended = time.monotonic()
        found.append((ended - began, ended - proxy.spoke))
        proxy.heal()
        here.node("n1", "online")
    return found


def _said(here: Yard, topic: str, mark: int, status: str, timeout: float = 30.0) -> None:
    """Wait for a status published after the mark."""

    def right(message: tuple[str, bytes, bool]) -> bool:
        return message[0] == topic and bool(message[1]) and json.loads(message[1])["status"] == status

    here.alice.wait(right, timeout, mark)


def _heals(here: Yard, count: int) -> list[float]:
    """From the end of a partition until a change made during it is effective."""
    cluster = here.cluster(2)
    cluster.running(2)
    found = []
    for number in range(count):
        scale = 6 if number % 2 == 0 else 2
        here.proxies["n1"].blackhole()
        here.node("n1", "late", "lost")
        mark = len(here.alice.messages)
        cluster.scale(scale)
        here.proxies["n1"].heal()
        began = time.monotonic()
        _reached(here, cluster, scale, mark)
        found.append(time.monotonic() - began)
    cluster.stop()
    return found
