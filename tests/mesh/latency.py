"""From a publisher at one worker to a subscriber at the same one and at another, and beside it the same with
nats-server started by hand."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
from busbar.bus.system.programs import find_program
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import free_port
from tests.mesh.lab import lab

Medians = dict[str, float]
"""By `same` and `across`: milliseconds."""


class Pair:
    """A subscriber at one port; messages are published at another, each once the one before has come."""

    def __init__(self, name: str, sender: int, receiver: int, qos: int) -> None:
        self.topic, self.qos = f"lat/{name}", qos
        self.came = threading.Event()
        granted = threading.Event()
        self.receiver = mqtt.Client(CallbackAPIVersion.VERSION2, f"r{name}")
        self.receiver.on_message = lambda *_: self.came.set()
        self.receiver.on_subscribe = lambda *_: granted.set()
        self.receiver.connect("127.0.0.1", receiver)
        self.receiver.loop_start()
        self.sender = mqtt.Client(CallbackAPIVersion.VERSION2, f"s{name}")
        self.sender.connect("127.0.0.1", sender)
        self.sender.loop_start()
        self.receiver.subscribe(self.topic, qos)
        assert granted.wait(30)

    def once(self) -> float:
        """Milliseconds."""
        self.came.clear()
        begun = time.perf_counter()
        self.sender.publish(self.topic, b"x" * 32, self.qos)
        assert self.came.wait(30)
        return (time.perf_counter() - begun) * 1000

    def close(self) -> None:
        for each in (self.sender, self.receiver):
            each.disconnect()
            each.loop_stop()


def measured(ports: list[int], qos: int, count: int) -> Medians:
    """Both ways in turn, so that what else the machine does meets both alike; all pairs of the ports."""
    others = [(a, b) for a in ports for b in ports if a != b]
    pairs = {
        "same": [Pair(f"q{qos}same{i}", port, port, qos) for i, port in enumerate(ports)],
        "across": [Pair(f"q{qos}across{i}", a, b, qos) for i, (a, b) in enumerate(others)],
    }
    times: dict[str, list[float]] = {"same": [], "across": []}
    try:
        for each in (*pairs["same"], *pairs["across"]):
            each.once()
        for _ in range(count):
            for kind, found in pairs.items():
                times[kind].append(random.choice(found).once())
    finally:
        for each in (*pairs["same"], *pairs["across"]):
            each.close()
    return {kind: statistics.median(found) for kind, found in times.items()}


def of_a_group(folder: Path, count: int) -> dict[int, Medians]:
    """Of three workers on three nodes, by QoS."""
    with lab(folder, 3, 3) as made:
        return {qos: measured(made.ports(), qos, count) for qos in (0, 1)}


def by_hand(folder: Path, count: int) -> dict[int, Medians]:
    """Of three nats-servers with the least configuration, by QoS."""
    with _started(folder) as ports:
        return {qos: measured(ports, qos, count) for qos in (0, 1)}


@contextmanager
def _started(folder: Path) -> Iterator[list[int]]:
    found = find_program("nats-server", sys.executable) or "nats-server"
    routes = [free_port() for _ in range(3)]
    ports, monitors, processes = [], [], []
    urls = json.dumps([f"nats-route://127.0.0.1:{port}" for port in routes])
    try:
        for index, route in enumerate(routes):
            port, client, monitor = free_port(), free_port(), free_port()
            file = folder / f"{index}.conf"
            file.write_text(
                f"server_name: s{index}\nlisten: 127.0.0.1:{client}\nhttp: 127.0.0.1:{monitor}\n"
                f'jetstream: {{store_dir: "{folder}/{index}"}}\n'
                f"mqtt: {{listen: 127.0.0.1:{port}, stream_replicas: 3}}\n"
                f"cluster: {{name: c, listen: 127.0.0.1:{route}, routes: {urls}}}\n"
            )
            log = (folder / f"{index}.log").open("wb")
            processes.append(subprocess.Popen([found, "-c", file], stdout=log, stderr=log))
            log.close()
            ports.append(port)
            monitors.append(monitor)
        for monitor in monitors:
            _wait(f"http://127.0.0.1:{monitor}/healthz")
        yield ports
    finally:
        for each in processes:
            each.kill()
            each.wait()


def _wait(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert time.monotonic() < end, url
            time.sleep(0.1)
