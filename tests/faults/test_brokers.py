"""A broker with stale retained messages, and one to which a hundred agents reconnect."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from busbar.agent.reporting.reporter import NodeSnapshot, Reporter, will_of
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.decode import read
from busbar.bus.messages import Applied, Assignment
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics

from tests.brokers import free_port, need_mosquitto, wait_for_port
from tests.faults.census import until
from tests.faults.yard import Yard
from tests.pace import bound, within
from tests.stack import Stack

pytestmark = [pytest.mark.timeout(120), pytest.mark.mosquitto]


class Broker:
    """A mosquitto that persists its retained messages at every change."""

    def __init__(self, folder: Path, port: int) -> None:
        self.store = folder / "mosquitto.db"
        self.config = folder / "keeping.conf"
        self.port = port
        lines = [
            f"listener {port} 127.0.0.1", "set_tcp_nodelay true", "allow_anonymous true", "user root",
            "persistence true", f"persistence_location {folder}/", "autosave_interval 1",
            "autosave_on_changes true", "max_queued_messages 0",
        ]  # fmt: skip
        self.config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [need_mosquitto(), "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_port(self.port, self.process)

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(bound(10))
            self.process = None


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[tuple[Yard, Broker]]:
    """Manager and two agents on such a broker."""
    made = Stack(tmp_path, 0.25)
    made.port = free_port()
    broker = Broker(tmp_path, made.port)
    broker.start()
    here = Yard(made)
    try:
        here.start_manager()
        here.manager_is_up()
        here.alice.subscribe("status", "#")
        yield here, broker
    except AssertionError as error:
        raise AssertionError(f"{error}\n{made.logs()}") from error
    finally:
        here.close()
        made.close()
        broker.end()


@pytest.mark.fault(43, "M C K")
def test_a_broker_that_comes_back_with_stale_retained_messages(keeping: tuple[Yard, Broker]) -> None:
    here, broker = keeping
    for node in ("n1", "n2"):
        here.oids[node] = here.alice.sure("pair_node", {"node": {"name": node}})["oid"]
        here.start_agent(node)
    here.all_online()
    cluster = here.cluster(1)
    cluster.running(1)
    broker.end(signal.SIGTERM)
    old = broker.store.with_suffix(".old")
    shutil.copy(broker.store, old)
    broker.start()
    cluster.scale(4)
    before = cluster.running(4)
    epoch = here.alice.sure("get_manager")["epoch"]
    here.kill("manager")
    broker.end()
    shutil.copy(old, broker.store)
    broker.start()
    time.sleep(6 * here.stack.heartbeat)  # the agents get the old assignment now
    cluster.kept(before)
    here.start_manager()
    cluster.running(4)
    cluster.kept(before)
    assert here.alice.sure("get_manager")["epoch"] > epoch
    broker.end()
    shutil.copy(old, broker.store)
    broker.start()
    cluster.running(4)
    cluster.kept(before)
    cluster.stop()


class Swarm:
    """The MQTT side of many agents in one process: births, reports, heartbeats, assignments."""

    def __init__(self, port: int, names: list[str]) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.links: list[MqttLink] = []
        clock, random, topics = SystemClock(), Random(5), Topics("lab")
        for name in names:
            boot = f"b-{name}"
            options = ConnectOptions(port=port, client_id=f"swarm-{name}", username=name, password="any")
            link = MqttLink(options, clock=clock, random=random, will=will_of(topics, name, boot))
            held: list[Assignment] = []

            def take(message: Message, held: list[Assignment] = held) -> None:
                if message.payload:
                    held[:] = [read(message.payload, Assignment)]

            def snapshot(held: list[Assignment] = held) -> NodeSnapshot:
                if not held:
                    return NodeSnapshot(runtimes=["amqtt"])
                return NodeSnapshot(
                    [], held[0].store, Applied(held[0].epoch, held[0].version), runtimes=["amqtt"]
                )

            reporter = Reporter(link, topics, name, boot, clock, random, snapshot)
            reporter.heartbeat_s = 1.0
            link.subscribe(topics.node(name, "assignment"), take)
            self.links.append(link)
            self.tasks += [
                asyncio.ensure_future(x)
                for x in (link.run(), reporter.run_reports(), reporter.run_heartbeats())
            ]


@asynccontextmanager
async def swarm(port: int, names: list[str]) -> AsyncIterator[Swarm]:
    made = Swarm(port, names)
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.wait(made.tasks, timeout=bound(10))


@pytest.mark.fault((42, 48), "C K")
async def test_a_hundred_agents_come_back_at_once(tmp_path: Path) -> None:
    made = Stack(tmp_path, 1.0)
    made.port = free_port()
    broker = Broker(tmp_path, made.port)
    broker.start()
    here = await asyncio.to_thread(Yard, made)
    names = [f"s{number:03}" for number in range(100)]

    def online() -> bool:
        status = (
            here.alice.retained.get(here.alice.topic("status", "_", "node", name), {}) for name in names
        )
        return all((body or {}).get("status") == "online" for body in status)

    try:
        await asyncio.to_thread(here.start_manager)
        await asyncio.to_thread(here.manager_is_up)
        await asyncio.to_thread(here.alice.subscribe, "status", "#")
        for name in names:
            await asyncio.to_thread(here.alice.sure, "pair_node", {"node": {"name": name}})
        async with swarm(made.port, names):
            await asyncio.to_thread(until, online, 30, "a hundred nodes are online")
            mark = len(here.alice.messages)
            broker.end()
            broker.store.unlink(missing_ok=True)
            here.alice.retained.clear()
            broker.start()
            began = time.monotonic()
            await asyncio.to_thread(until, online, 30, "a hundred nodes are online again")
            took = time.monotonic() - began
            assert took < within(15), f"it took {took:.1f} s"
            lost = [m for m in itertools.islice(here.alice.messages, mark, None) if b'"lost"' in m[1]]
            assert not lost, "a broker that was away makes no node lost"
    finally:
        here.close()
        made.close()
        broker.end()
