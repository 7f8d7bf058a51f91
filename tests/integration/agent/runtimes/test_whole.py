"""Each runtime through the whole system: created over MQTT, run by an agent, used by a real client."""

from __future__ import annotations

import queue
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import lacking
from tests.pace import bound
from tests.plain import Plain
from tests.stack import stack
from tests.wamp import WampClient

pytestmark = pytest.mark.timeout(120)

TOML = """
[runtimes.pages]
argv = ["{python}", "-m", "http.server", "{{port}}", "--bind", "127.0.0.1", "--directory", "{{folder}}"]
config_file = "hello.txt"
config_template = "hello from {{worker}}"
ready = {{type = "http", path = "/hello.txt"}}
scheme = "http"
"""


@dataclass
class Site:
    """A manager and one node with all four runtimes; `alice` operates it."""

    alice: Plain
    node_oid: str
    runtimes: list[str]

    def start(self, runtime: str, transport: dict[str, Any] | None) -> tuple[dict[str, Any], str]:
        """A running cluster with one worker of that runtime; the worker's address."""
        if runtime not in self.runtimes:
            lacking(f"the runtime {runtime} can't run here")
        name = f"of-{runtime}"
        cluster = self.alice.ok("create_routercluster", {"routercluster": {"name": name}})
        of = {"routercluster_oid": cluster["oid"]}
        self.alice.ok("add_routercluster_node", {**of, "node_oid": self.node_oid})
        group = {"name": "web", "scale": 1, "runtime": runtime, "transport": transport}
        self.alice.ok("add_routercluster_workergroup", {**of, "workergroup": group})
        self.alice.ok("start_routercluster", of)
        self.alice.status(name, "routercluster", name, "RUNNING", timeout=60)
        status = self.alice.retained[self.alice.topic("status", name, "workergroup", "web")]
        return cluster, status["endpoints"][0]["url"]

    def stop(self, cluster: dict[str, Any]) -> None:
        self.alice.ok("stop_routercluster", {"routercluster_oid": cluster["oid"]})
        self.alice.status(cluster["name"], "routercluster", cluster["name"], "STOPPED", timeout=30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("runtimes")
    toml = folder / "agent.toml"
    toml.write_text(TOML.format(python=sys.executable))
    with stack(folder) as made:
        made.start_manager()
        alice = made.client("alice")
        made.wait_manager(alice)
        alice.subscribe("status", "#")
        node = alice.ok("pair_node", {"node": {"name": "n1"}})
        made.start_agent("n1", "--runtimes", str(toml), "--stop-workers")
        alice.status("_", "node", "n1", "online")
        yield Site(alice, node["oid"], offered(alice, node["oid"]))


def offered(alice: Plain, node_oid: str) -> list[str]:
    """The node's runtimes after its first report; its birth alone makes it online before that."""
    end = time.monotonic() + bound(10)
    while not (found := alice.ok("get_node", {"node_oid": node_oid})["runtimes"]):
        assert time.monotonic() < end, "the node reports no runtimes"
    return list(found)


@pytest.mark.parametrize("runtime", ["amqtt", "mosquitto", "nats"])
def test_an_mqtt_router(site: Site, runtime: str) -> None:
    transport = {"type": "mqtt", "endpoint": {"type": "tcp", "port": [26100, 26199]}}
    cluster, url = site.start(runtime, transport)
    address = urlsplit(url)
    got: queue.Queue[bytes] = queue.Queue()
    ready: queue.Queue[object] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _d, message: got.put(message.payload)
    client.on_subscribe = lambda *_: ready.put(True)
    client.on_connect = lambda *_: client.subscribe("chat/#", 1)
    assert address.hostname and address.port and 26100 <= address.port <= 26199
    client.connect(address.hostname, address.port)
    client.loop_start()
    try:
        ready.get(timeout=bound(10))
        for number in range(20):
            client.publish("chat/room", str(number), 1)
        assert [got.get(timeout=bound(10)) for _ in range(20)] == [
            str(number).encode() for number in range(20)
        ]
    finally:
        client.disconnect()
        client.loop_stop()
    site.stop(cluster)
    with pytest.raises(OSError):
        paho.Client(CallbackAPIVersion.VERSION2).connect(address.hostname, address.port)


async def test_crossbar(site: Site) -> None:
    paths = {"ws": {"type": "websocket"}, "v": {"type": "json", "value": {"version": 1}}}
    transport = {"type": "web", "endpoint": {"type": "tcp", "port": [26200, 26299]}, "paths": paths}
    cluster, url = site.start("crossbar", transport)
    address = urlsplit(url)
    with urllib.request.urlopen(f"http://{address.netloc}/v", timeout=bound(10)) as page:  # noqa: ASYNC210
        assert b'"version"' in page.read()
    async with WampClient(f"ws://{address.netloc}/ws") as session:
        await session.subscribe("com.example.chat")
        await session.publish("com.example.chat", "hello")
        assert await session.event() == ["hello"]
    site.stop(cluster)


def test_an_operator_defined_runtime(site: Site) -> None:
    cluster, url = site.start("pages", {"type": "tcp", "endpoint": {"type": "tcp", "port": [26300, 26399]}})
    with urllib.request.urlopen(f"{url}/hello.txt", timeout=bound(10)) as page:
        assert page.read() == b"hello from web-1"
    site.stop(cluster)
