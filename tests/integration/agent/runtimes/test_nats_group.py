"""A meshed group of nats-server through the whole system: one router of workers on three nodes."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import load_runtimes

from tests.brokers import lacking
from tests.pace import bound
from tests.patient import Patient, send
from tests.plain import Plain
from tests.stack import NODES, stack

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]
TRANSPORT = {"type": "mqtt", "listeners": {"mqtt": {}, "routes": {"type": "cluster"}}}


class Group:
    """`edge/web`, three workers, each on a node of its own."""

    def __init__(self, alice: Plain, cluster: dict[str, Any], nodes: dict[str, str]) -> None:
        self.alice, self.of, self.nodes = alice, {"routercluster_oid": cluster["oid"]}, nodes
        group = {"name": "web", "scale": 3, "runtime": "nats", "transport": TRANSPORT}
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

    def members(self, status: dict[str, Any], count: int) -> None:
        """Waits until a worker's cluster counts on so many members, a majority of which has to be there."""
        url = f"{status['listeners']['monitoring']}/jsz"
        end = time.monotonic() + bound(60)
        while True:
            with urllib.request.urlopen(url, timeout=bound(10)) as answer:
                found = json.load(answer).get("meta_cluster", {})
            if found.get("cluster_size") == count:
                return
            assert time.monotonic() < end, found
            time.sleep(0.2)


def kept(status: dict[str, Any]) -> dict[str, int]:
    """How many messages a worker's own store has, by stream."""
    url = f"{status['listeners']['monitoring']}/jsz?accounts=true&streams=true"
    with urllib.request.urlopen(url, timeout=bound(10)) as answer:
        accounts = json.load(answer).get("account_details", [])
    streams = [stream for account in accounts for stream in account.get("stream_detail", [])]
    return {stream["name"]: stream["state"]["messages"] for stream in streams}


def has_all(found: dict[str, int], there: dict[str, int]) -> bool:
    """Whether one store has what another has; one that follows may keep what is acknowledged for longer."""
    return bool(found.get("$MQTT_msgs")) and all(found.get(name, 0) >= there[name] for name in there)


def port(status: dict[str, Any]) -> int:
    return int(status["listeners"]["mqtt"].rpartition(":")[2])


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
        nodes = {}
        for node in NODES:
            nodes[node] = oid = alice.ok("pair_node", {"node": {"name": node}})["oid"]
            alice.ok("add_routercluster_node", {"routercluster_oid": cluster["oid"], "node_oid": oid})
            made.start_agent(node, "--stop-workers")
        for node in NODES:
            alice.status("_", "node", node, "online")
            topic = alice.topic("status", "_", "node", node)
            alice.wait_retained(topic, lambda value: "nats" in str(value.get("runtimes", "nats")))
        yield Group(alice, cluster, nodes)


def test_a_killed_worker_and_a_fourth_one_restart_no_other(group: Group) -> None:
    before = group.workers()
    assert len({each["node"] for each in before.values()}) == 3
    clients = [Patient(port(each), name) for name, each in before.items()]
    for each in clients:
        each.hears("all/#")
    for index, each in enumerate(before.values()):
        send(port(each), f"all/{index}", b"once")
    for each in clients:
        for index in range(3):
            each.gets(f"all/{index}", b"once")
        assert len(each.got) == 3
    away = Patient(port(before["web-3"]), "away", clean=False)
    away.hears("q/#")
    away.vanish()
    send(port(before["web-2"]), "q/1", b"waits")

    os.kill(before["web-3"]["pid"], signal.SIGKILL)
    send(port(before["web-1"]), "all/after", b"kill")
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
    group.alice.wait_retained(
        group.alice.topic("status", "edge", "workergroup", "web"),
        lambda value: value["mesh"] == {"of": 12, "connected": 12, "missing": []} and not value["conditions"],
        timeout=90,
    )
    assert [four[name]["pid"] for name in after] == [each["pid"] for each in after.values()]
    fourth = Patient(port(four["web-4"]), "fourth")
    fourth.hears("all/#")
    send(port(four["web-1"]), "all/new", b"heard")
    fourth.gets("all/new", b"heard")
    clients[1].gets("all/new", b"heard")

    back = Patient(port(four["web-4"]), "away", clean=False)
    assert back.present
    back.gets("q/1", b"waits")
    back.vanish()
    send(port(four["web-4"]), "q/2", b"waits too")

    group.alice.ok("scale_routercluster_workergroup", {**group.mine, "scale": 3})
    group.alice.wait_retained(
        group.alice.topic("status", "edge", "worker", "web-4"), lambda value: not value, timeout=90
    )
    group.members(four["web-1"], 3)
    last = Patient(port(four["web-2"]), "away", clean=False)
    assert last.present
    last.gets("q/2", b"waits too")
    three = group.workers(3)
    assert [three[name]["pid"] for name in after] == [each["pid"] for each in after.values()]


def test_a_renewal_keeps_sessions_and_retained_messages(group: Group) -> None:
    before = group.workers()
    away = Patient(port(before["web-1"]), "away", clean=False)
    away.hears("q/#")
    away.vanish()
    send(port(before["web-1"]), "q/1", b"waits")
    send(port(before["web-2"]), "kept", b"retained", retain=True)
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
    back = Patient(port(after["web-3"]), "away", clean=False)
    assert back.present
    back.gets("q/1", b"waits")
    Patient(port(after["web-1"]), "reader").finds("kept", b"retained")
    back.vanish()
    send(port(after["web-2"]), "q/2", b"waits too")
    moves_and_has_all(group, after)


def moves_and_has_all(group: Group, before: dict[str, dict[str, Any]]) -> None:
    """A worker that comes to another node comes without messages, and is one of those that keep them then."""
    moving = before["web-1"]
    group.alice.ok("drain_node", {"node_oid": group.nodes[moving["node"]], "reason": "a test"})
    moved = group.alice.wait_retained(
        group.alice.topic("status", "edge", "worker", "web-1"),
        lambda value: value.get("status") == "RUNNING" and value["node"] != moving["node"],
        timeout=120,
    )
    end = time.monotonic() + bound(60)
    while not has_all(found := kept(moved), there := kept(before["web-2"])):
        assert time.monotonic() < end, f"{found}, which lacks some of {there}"
        time.sleep(0.2)
    assert found["$MQTT_sess"] >= 1 and found["$MQTT_rmsgs"] == 1, found
    there = Patient(port(moved), "away", clean=False)
    assert there.present
    there.gets("q/2", b"waits too")
    Patient(port(moved), "again").finds("kept", b"retained")
