"""Three nodes in network namespaces of their own, one of which is cut off from all others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import free_port, mosquitto
from tests.certificates import certificates
from tests.mesh.clients import Publisher, Subscriber
from tests.mesh.lab import Lab
from tests.stack import NODES, ROOT, Stack, mosquitto_lines

NET = "198.51.100"  # RFC 5737: addresses for documentation
HOST = f"{NET}.254"
BRIDGE = "bbmesh"
CERTAIN = {
    "certificate": "router.crt",
    "key": "router.key",
    "client_ca": "ca.crt",
    "client_certificates": "require",
}
EVERYWHERE = {"interface": "0.0.0.0"}
TRANSPORT: dict[str, Any] = {
    "type": "mqtt",
    "anonymous": True,
    "listeners": {
        "mqtt": EVERYWHERE,
        "routes": {"type": "cluster", **EVERYWHERE, "tls": CERTAIN},
    },
}


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def address(node: str) -> str:
    return f"{NET}.{NODES.index(node) + 1}"


@contextmanager
def wired() -> Iterator[None]:
    """A namespace for each node, all on one bridge."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("a partition needs root and the program ip (Debian: iproute2)")
    _ip("link", "del", BRIDGE, check=False)  # of a run that was killed
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for node in NODES:
            space = f"bbmesh-{node}"
            _ip("netns", "del", space, check=False)
            _ip("netns", "add", space)
            _ip("link", "add", f"bbm-{node}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"bbm-{node}", "master", BRIDGE, "up")
            _ip("-n", space, "addr", "add", f"{address(node)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield
    finally:
        for node in NODES:
            _ip("netns", "del", f"bbmesh-{node}", check=False)
        _ip("link", "del", BRIDGE, check=False)


def cut(node: str, state: str) -> None:
    """`down` or `up`: its only link."""
    _ip("link", "set", f"bbm-{node}", state)


class Spread(Stack):
    """Agents in their namespaces; the broker is where they all reach it."""

    broker_port = 0

    def start_agent(self, node: str, *more: str) -> None:
        table = self.folder / "runtimes.toml"
        table.write_text(f"[runtimes.nats]\nsecrets_root = '{self.folder}'\n")
        words = ["--node", node, "--state", str(self.folder / f"agent-{node}"), "--host", address(node)]
        words += ["--runtimes", str(table), *more, *self.connection(node)]
        words[words.index("--broker") + 1] = f"mqtt://{HOST}:{self.broker_port}"
        output = (self.folder / f"{node}.log").open("ab")
        self.processes[node] = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                f"bbmesh-{node}",
                sys.executable,
                "-m",
                "busbar.cli.app",
                "agent",
                *words,
            ],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")},
        )
        output.close()


class Apart(Lab):
    """Whose workers are asked from their own namespaces, as their monitoring is on loopback."""

    def healthy(self, number: int) -> bool:
        status = self.worker(number)
        url = (status.get("listeners") or {}).get("monitoring")
        if url is None:
            return False
        asked = f"import urllib.request as u; u.urlopen('{url}/healthz', timeout=3)"
        command = ["ip", "netns", "exec", f"bbmesh-{status['node']}", sys.executable, "-c", asked]
        return subprocess.run(command, capture_output=True).returncode == 0

    def home(self, number: int) -> tuple[str, int]:
        """Where clients reach a worker."""
        host, _, port = self.running(number)["listeners"]["mqtt"].rpartition("//")[2].rpartition(":")
        return host, int(port)


def answered(space: str, host: str, port: int, seconds: float) -> dict[str, bool]:
    """What a worker answers to clients on its own node."""
    script = (
        "import sys; sys.path[:0] = eval(sys.argv[4]); from tests.mesh.partition import ask;"
        "print(ask(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))"
    )
    words = [sys.executable, "-c", script, host, str(port), str(seconds), repr([str(ROOT), *sys.path])]
    done = subprocess.run(["ip", "netns", "exec", space, *words], capture_output=True, text=True, cwd=ROOT)
    found: dict[str, bool] = eval(done.stdout or "{}")
    return found


def ask(host: str, port: int, seconds: float) -> dict[str, bool]:
    """Whether a new client is let in, and whether what it publishes at QoS 1 is acknowledged."""
    told: dict[str, bool] = {"connected": False, "acknowledged": False}
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "inside", reconnect_on_failure=False)
    client.on_connect = lambda *a: told.update(connected=not a[3].is_failure)
    client.on_publish = lambda *_: told.update(acknowledged=True)
    client.connect(host, port)
    client.loop_start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not told["connected"]:
        time.sleep(0.05)
    client.publish("load/inside", b"x", 1)
    while time.monotonic() < end and not told["acknowledged"]:
        time.sleep(0.05)
    client.loop_stop()
    return told


def partitioned(folder: Path, seconds: float) -> Iterator[str]:
    """What both sides do while one node is cut off for so long, and afterwards."""
    also = ",".join(f"IP:{address(node)}" for node in NODES)
    certificates(folder, "ca", "router", also=also)
    with wired():
        made = Spread(folder, 1.0)
        made.broker_port = free_port()
        made.broker = "mosquitto"
        with mosquitto(folder, *mosquitto_lines(made), f"listener {made.broker_port} {HOST}") as made.port:
            try:
                yield from _cut_off(Apart(made, 3, 3, TRANSPORT), seconds)
            finally:
                made.close()


def _cut_off(lab: Apart, seconds: float) -> Iterator[str]:
    homes = {number: lab.home(number) for number in (1, 2, 3)}
    pids = {number: lab.running(number)["pid"] for number in homes}
    majority = [homes[1], homes[2]]
    publisher, subscriber = Publisher("p", lambda: majority, 100.0), Subscriber("s", lambda: majority)
    lonely = Subscriber("lonely", lambda: [homes[3]])
    for each in (subscriber, lonely, publisher):
        each.start()
    time.sleep(2.0)
    node = lab.running(3)["node"]
    cut(node, "down")
    before, begun = len(publisher.acked), time.monotonic()
    inside = answered(f"bbmesh-{node}", *homes[3], seconds)
    time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
    took = len(publisher.acked) - before
    yield f"majority: {took} acknowledged in {seconds:.0f} s, longest silence {publisher.silence:.1f} s"
    yield f"minority: new client connected {inside['connected']}, acknowledged {inside['acknowledged']}"
    cut(node, "up")
    begun = time.monotonic()
    lab.alice.status("_", "node", node, "online", timeout=60)
    lab.whole()
    yield f"whole again {time.monotonic() - begun:.1f} s after the link is up"
    publisher.stop()
    for each in (subscriber, lonely):
        end = time.monotonic() + 30
        while publisher.acked - set(each.received) and time.monotonic() < end:
            time.sleep(0.2)
    lost = {each.name: len(publisher.acked - set(each.received)) for each in (subscriber, lonely)}
    yield f"acknowledged {len(publisher.acked)}, lost {lost}"
    kept = all(lab.running(number)["pid"] == pid for number, pid in pids.items())
    yield f"no worker was restarted: {kept}"
    for each in (subscriber, lonely):
        each.stop()
