"""A meshed group of nats-server through the whole system: one router of workers on three nodes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import load_runtimes

from tests.brokers import lacking
from tests.integration.agent.runtimes.test_amqtt_router import Client
from tests.pace import bound
from tests.plain import Plain
from tests.stack import NODES, stack

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]
TRANSPORT = {"type": "mqtt", "listeners": {"mqtt": {}, "routes": {"type": "cluster"}}}


class Group:
    """`edge/web`, three workers, each on a node of its own."""

    def __init__(self, alice: Plain, cluster: dict[str, Any]) -> None:
        self.alice, self.of = alice, {"routercluster_oid": cluster["oid"]}
        group = {"name": "web", "scale": 3, "runtime": "nats", "transport": TRANSPORT, "mesh": True}
        made = alice.ok("add_routercluster_workergroup", {**self.of, "workergroup": group})
        self.mine = {**self.of, "workergroup_oid": made["oid"]}
        alice.ok("start_routercluster", self.of)
        alice.status("edge", "routercluster", "edge", "RUNNING", timeout=90)

    def workers(self, count: int = 3) -> dict[str, dict[str, Any]]:
        """The statuses of all, once they run."""
        found = {}
        for number in range(1, count + 1):
            topic = self.alice.topic("status", "edge", "worker", f"web-{number}")
            found[f"web-{number}"] = self.alice.wait_retained(
                topic, lambda value: value.get("status") == "RUNNING", timeout=90
            )
        return found


def port(status: dict[str, Any]) -> int:
    return int(status["listeners"]["mqtt"].rpartition(":")[2])


class Patient(Client):
    """Connects, subscribes and finds what it looks for in the end: a leader may have to be elected."""

    def __init__(self, status: dict[str, Any], name: str, *, clean: bool = True) -> None:
        end = time.monotonic() + bound(60)
        while self._tried(port(status), name, clean) != 0:
            assert time.monotonic() < end, "no connection"
            time.sleep(0.1)

    def _tried(self, number: int, name: str, clean: bool) -> int:
        try:
            super().__init__(number, name, clean=clean)
        except OSError:
            return -1
        return self.code

    def until(self, what: str) -> None:
        self.wait(lambda: what in self.told or "gone" in self.told, what)
        if what in self.told:
            self.told.remove(what)
        else:
            self.told.clear()
            self.code = -1

    def hears(self, wanted: str) -> None:
        end = time.monotonic() + bound(60)
        while self.subscribe(wanted, qos=1) != [1]:
            assert time.monotonic() < end, "no subscription"
            time.sleep(0.1)

    def gets(self, topic: str, payload: bytes) -> None:
        self.wait(lambda: (topic, payload) in [each[:2] for each in self.got], f"nothing on {topic}")


def send(status: dict[str, Any], topic: str, payload: bytes) -> None:
    """Until it is acknowledged. The connection is closed where no leader did."""
    end = time.monotonic() + bound(60)
    while True:
        sender = Patient(status, "sender")
        sender.publish(topic, payload)
        if sender.code == 0:
            return sender.leave()
        assert time.monotonic() < end, "not acknowledged"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    missing = load_runtimes({})["nats"].unavailable()
    if missing:
        lacking(missing)
    with stack(tmp_path) as made:
        made.start_manager()
        alice = made.client("alice")
        made.wait_manager(alice)
        alice.subscribe("status", "#")
        cluster = alice.ok("create_routercluster", {"routercluster": {"name": "edge"}})
        for node in NODES:
            oid = alice.ok("pair_node", {"node": {"name": node}})["oid"]
            alice.ok("add_routercluster_node", {"routercluster_oid": cluster["oid"], "node_oid": oid})
            made.start_agent(node, "--stop-workers")
        for node in NODES:
            alice.status("_", "node", node, "online")
            topic = alice.topic("status", "_", "node", node)
            alice.wait_retained(topic, lambda value: "nats" in str(value.get("runtimes", "nats")))
        yield Group(alice, cluster)


def test_a_killed_worker_and_a_fourth_one_restart_no_other(group: Group) -> None:
    before = group.workers()
    assert len({each["node"] for each in before.values()}) == 3
    clients = [Patient(each, name) for name, each in before.items()]
    for each in clients:
        each.hears("all/#")
    for index, each in enumerate(clients):
        each.publish(f"all/{index}", b"once")
    for each in clients:
        for index in range(3):
            each.gets(f"all/{index}", b"once")
        assert len(each.got) == 3
    away = Patient(before["web-3"], "away", clean=False)
    away.hears("q/#")
    away.vanish()
    send(before["web-2"], "q/1", b"waits")

    os.kill(before["web-3"]["pid"], signal.SIGKILL)
    send(before["web-1"], "all/after", b"kill")
    clients[1].gets("all/after", b"kill")
    group.alice.wait_retained(
        group.alice.topic("status", "edge", "worker", "web-3"),
        lambda value: value.get("status") == "RUNNING" and value["pid"] != before["web-3"]["pid"],
        timeout=90,
    )
    after = group.workers()
    assert [after[name]["pid"] == before[name]["pid"] for name in before] == [True, True, False]

    group.alice.ok("scale_routercluster_workergroup", {**group.mine, "scale": 4})
    four = group.workers(4)
    assert [four[name]["pid"] for name in after] == [each["pid"] for each in after.values()]
    fourth = Patient(four["web-4"], "fourth")
    fourth.hears("all/#")
    send(four["web-1"], "all/new", b"heard")
    fourth.gets("all/new", b"heard")
    clients[1].gets("all/new", b"heard")

    back = Patient(four["web-4"], "away", clean=False)
    assert back.present
    back.gets("q/1", b"waits")


def test_a_renewal_keeps_sessions_and_retained_messages(group: Group) -> None:
    before = group.workers()
    away = Patient(before["web-1"], "away", clean=False)
    away.hears("q/#")
    away.vanish()
    send(before["web-1"], "q/1", b"waits")
    keeper = Patient(before["web-2"], "keeper")
    keeper.publish("kept", b"retained", retain=True)
    transport = {**TRANSPORT, "options": {"max_connections": 100}}
    group.alice.ok(
        "update_routercluster_workergroup",
        {**group.mine, "workergroup": {"transport": transport}, "max_unavailable": 1},
    )
    for name, each in before.items():
        group.alice.wait_retained(
            group.alice.topic("status", "edge", "worker", name),
            lambda value, each=each: value.get("status") == "RUNNING" and value["pid"] != each["pid"],
            timeout=120,
        )
    after = group.workers()
    back = Patient(after["web-3"], "away", clean=False)
    assert back.present
    back.gets("q/1", b"waits")
    reader = Patient(after["web-1"], "reader")
    end = time.monotonic() + bound(60)
    while ("kept", b"retained") not in [each[:2] for each in reader.got]:
        assert time.monotonic() < end, "not retained"
        reader.hears("kept")
        for _ in range(50):
            reader.step()
