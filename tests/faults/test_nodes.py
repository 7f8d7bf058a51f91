"""Faults of nodes: partitions, deaf connections, stale wills, the mass failure hold, removals."""

from __future__ import annotations

import json
import time
import zlib
from typing import Any

import pytest

from tests.faults.census import until
from tests.faults.failing import command
from tests.faults.proxy import CONNACK, PUBLISH
from tests.faults.watcher import Watcher
from tests.faults.yard import Cluster, Yard
from tests.pace import bound, within

pytestmark = pytest.mark.timeout(120)


def _states(cluster: Cluster, node: str) -> set[str]:
    return {w["state"] for w in cluster.stat()["workers"] if w["node"] == node}


@pytest.mark.fault(23, "K B H")
def test_a_partition_shorter_than_lost_after(here: Yard) -> None:
    cluster = here.cluster(4)
    before = cluster.running(4)
    here.proxies["n1"].cut()
    here.node("n1", "lost")
    assert _states(cluster, "n1") == {"UNKNOWN"}, "an unreachable worker is never reported as running"
    here.proxies["n1"].heal()
    here.node("n1", "online")
    cluster.running(4)
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(24, "H B C")
def test_a_partition_longer_than_lost_after(here: Yard) -> None:
    cluster = here.cluster(2, lost_after=1)
    before = cluster.running(2)
    there = next(name for name, life in before.items() if life.node == "n1")
    here.census.watch_doubles = False  # the documented exception: an unreachable worker can't be stopped
    here.proxies["n1"].blackhole()
    here.node("n1", "lost")
    cluster.is_("RUNNING", ready=2)
    assert {w["node"] for w in cluster.stat()["workers"]} == {"n2"}
    here.proxies["n1"].heal()
    here.node("n1", "online")
    until(lambda: before[there].key not in cluster.pids(), 10, "n1 has dropped what is now elsewhere")
    here.census.watch_doubles = True
    after = cluster.running(2)
    assert {life.node for life in after.values()} == {"n2"}
    cluster.stop()


@pytest.mark.fault(25, "H K C")
def test_a_half_open_connection_is_noticed_by_both_sides_within_three_heartbeats(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    time.sleep(2)  # past the grace period after the manager's connect
    made = here.proxies["n1"].made
    here.proxies["n1"].blackhole()
    began = time.monotonic()
    here.alice.wait_retained(
        here.alice.topic("status", "_", "node", "n1"), lambda value: value["status"] in ("late", "lost"), 10
    )
    late = time.monotonic() - began
    assert late < within(3 * here.stack.heartbeat + 1.0), f"late after {late:.2f} s"
    # The agent misses its own state (for two heartbeats, at least 2 s).
    seconds = 2 + 3 * here.stack.heartbeat
    until(lambda: here.proxies["n1"].made > made, seconds, "the agent has noticed")
    cluster.kept(before)
    here.proxies["n1"].heal()
    here.node("n1", "online")
    cluster.running(2)
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(26, "C K")
@pytest.mark.parametrize("name", ["n1", "manager"])
def test_a_deaf_connection_is_reconnected(here: Yard, name: str) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    proxy = here.proxies[name]
    made = proxy.made
    proxy.drop = lambda packet: not packet.up and packet.kind == PUBLISH
    # Not by its log, which tells a cause again at a falling rate alone.
    until(lambda: proxy.made > made, 15, f"{name} has noticed")
    here.proxies[name].heal()
    cluster.scale(4)
    after = cluster.running(4, timeout=20)
    assert before.items() <= after.items()
    cluster.stop()


@pytest.mark.fault(27, "H K")
def test_a_stale_will_that_arrives_after_the_reconnect(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.alice.subscribe("node", "+", "state")
    topic = here.alice.topic("node", "n1", "state")
    birth = here.alice.wait_retained(topic, lambda value: value.get("state") == "ready")
    here.proxies["n1"].reset()
    here.alice.wait_retained(
        topic, lambda value: value.get("state") == "ready" and value["conn"] > birth["conn"], 10
    )
    here.node("n1", "online")
    stale = here.watcher("n1")
    mark = len(here.alice.messages)
    stale.publish(topic, {**birth, "state": "lost"}, retain=True)
    here.alice.wait(lambda m: m[0] == topic and json.loads(m[1])["state"] == "lost", 5, mark)
    here.alice.wait_retained(topic, lambda value: value.get("state") == "ready", 5)
    time.sleep(2 * here.stack.heartbeat)
    seen = [json.loads(m[1]) for m in here.alice.messages[mark:] if m[0].endswith("/status/_/node/n1")]
    assert not [each for each in seen if each.get("status") not in ("online", None)]
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(45, "A M C")
def test_duplicated_and_reordered_messages_of_an_agent(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    proxy = here.proxies["n1"]
    proxy.hold_s = 0.2
    proxy.twice = lambda packet: packet.kind == PUBLISH
    proxy.hold = lambda packet: packet.kind == PUBLISH and zlib.crc32(packet.raw) % 3 == 0
    for scale in (5, 2, 4, 3, 6, 3):
        cluster.scale(scale)
        time.sleep(0.15)
    after = cluster.running(3)
    proxy.heal()
    assert proxy.doubled > 10 and proxy.held > 2
    assert before.items() <= after.items()
    here.check()
    cluster.stop()


@pytest.mark.fault(44, "C")
def test_forged_and_deleted_retained_topics_are_repaired(here: Yard) -> None:
    here.kill("manager")
    here.start_manager(*command("audit:0.3"))
    cluster = here.cluster(2)
    before = cluster.running(2)
    forger = here.watcher("manager")
    forger.subscribe("node", "+", "assignment")
    forger.subscribe("node", "n1", "reported")
    topic = forger.topic("node", "n1", "assignment")
    true = forger.wait_retained(topic, lambda value: len(value.get("workers", ())) == 1)
    status = forger.topic("status", cluster.name, "routercluster", cluster.name)
    forger.publish(topic, b"", retain=True)
    forger.publish(status, b"", retain=True)
    forger.wait_retained(topic, lambda value: value == true, 10)
    here.alice.wait_retained(status, lambda value: value.get("status") == "RUNNING", 10)
    forger.publish(topic, {**true, "version": true["version"] - 1, "workers": []}, retain=True)
    forger.publish(topic, b"nonsense", retain=True)
    forger.publish(status, {"status": "STOPPED", "version": 1}, retain=True)
    forger.wait_retained(topic, lambda value: value == true, 10)
    here.alice.wait_retained(status, lambda value: value.get("status") == "RUNNING", 10)
    cluster.kept(before)
    # A forgery with the manager's account and a higher version is applied until the manager sees it.
    _is_followed(forger, {**true, "version": true["version"] + 1000, "workers": []})
    cluster.running(2)
    # So is one with an epoch that the manager's restarts would take long to reach.
    true = forger.wait_retained(topic, lambda value: len(value.get("workers", ())) == 1)
    _is_followed(forger, {**true, "epoch": true["epoch"] + 1000, "workers": []})
    cluster.running(2)
    healed = forger.wait_retained(topic, lambda value: len(value.get("workers", ())) == 1)
    assert healed["epoch"] > true["epoch"] + 1000
    here.kill("manager")
    here.start_manager(*command("audit:0.3"))
    here.manager_is_up()
    cluster.scale(4)
    cluster.running(4)
    here.check()
    cluster.stop()
    here.kill("manager")


def _is_followed(forger: Watcher, forged: dict[str, Any]) -> None:
    """Send it to n1; once n1 reports it as applied, the manager repairs it quickly."""
    reported, mark = forger.topic("node", "n1", "reported"), len(forger.messages)
    forger.publish(forger.topic("node", "n1", "assignment"), forged, retain=True)
    applied = {"epoch": forged["epoch"], "version": forged["version"]}

    def followed(message: tuple[str, bytes, bool]) -> bool:
        return message[0] == reported and json.loads(message[1])["applied"] == applied

    forger.wait(followed, 10, mark)


@pytest.mark.fault(52, "O")
def test_a_node_removed_while_offline_stops_its_workers_on_return(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.kill("n1")
    here.node("n1", "late", "lost")
    here.alice.sure("unpair_node", {"node_oid": here.oids["n1"], "keep_account": True})
    here.census.watch_doubles = False  # it can't be notified while it is offline
    cluster.is_("RUNNING", ready=2)
    here.start_agent("n1")
    gone = {life.key for life in before.values() if life.node == "n1"}
    until(lambda: not gone & cluster.pids(), 10, "the removed node has stopped what it had")
    here.census.watch_doubles = True
    assert {life.node for life in cluster.running(2).values()} == {"n2"}
    cluster.stop()
    here.oids["n1"] = here.alice.sure("pair_node", {"node": {"name": "n1"}})["oid"]
    here.node("n1", "online")


@pytest.mark.fault(56, "B C")
def test_a_node_leaves_its_cluster_while_its_agent_is_offline(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.kill("n1")
    params = {"routercluster_oid": cluster.oid, "node_oid": here.oids["n1"]}
    here.alice.sure("remove_routercluster_node", params)
    here.census.watch_doubles = False
    here.start_agent("n1")
    here.node("n1", "online")
    gone = {life.key for life in before.values() if life.node == "n1"}
    until(lambda: not gone & cluster.pids(), 10, "n1 has dropped its worker")
    assert {life.node for life in cluster.running(2).values()} == {"n2"}
    here.census.watch_doubles = True
    cluster.stop()


@pytest.mark.fault(29, "K C")
def test_a_host_that_boots_without_a_network_starts_its_workers(here: Yard) -> None:
    cluster = here.cluster(4)
    before = cluster.running(4)
    here.kill("n1")
    here.proxies["n1"].cut()
    mine = {name: life for name, life in before.items() if life.node == "n1"}
    for life in mine.values():
        here.census.kill(life)
    until(lambda: len(cluster.pids()) == 2, 5, "the host is down")
    here.start_agent("n1")
    until(lambda: len(cluster.pids()) == 4, 10, "its workers run, and nobody has told it to")
    started = here.census.leaders(cluster.name)
    here.proxies["n1"].heal()
    here.node("n1", "online")
    cluster.running(4)
    cluster.kept(started)
    cluster.stop()


@pytest.mark.fault(22, "B")
def test_two_agents_with_one_name_report_a_conflict_and_run_no_worker_twice(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.start_agent("n1", state="agent-copy", name="copy")

    def conflict() -> Any:
        node = here.alice.sure("get_node", {"node_oid": here.oids["n1"]})
        return any("conflict" in text for text in node["conditions"])

    try:
        until(conflict, 15, "the conflict is a condition of the node")
        cluster.kept(before)
    finally:
        here.kill("copy")
    cluster.running(2)
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(20, "O")
def test_an_agent_killed_during_a_stop(here: Yard) -> None:
    cluster = here.cluster(2, "stubborn", nodes=("n1",))
    cluster.running(2)
    here.alice.sure("stop_routercluster", {"routercluster_oid": cluster.oid})
    until(lambda: "stop: no longer assigned" in here.log("n1"), 10, "the stop has begun")
    here.kill("n1")
    assert cluster.pids(), "the stop was over before the agent could be killed"
    here.start_agent("n1")
    cluster.gone()


@pytest.mark.fault(19, "B O")
def test_an_agent_killed_between_fork_and_storing_the_pid(here: Yard) -> None:
    cluster = here.cluster(1, nodes=("n1",), start=False)
    here.kill("n1")
    here.start_agent("n1", *command(f"fork:{cluster.name}"))
    here.node("n1", "online")
    cluster.start()
    assert here.stack.processes.pop("n1").wait(bound(15)) == -9
    (orphan,) = until(cluster.pids, 5, "a worker that nobody has written down")
    here.start_agent("n1")
    living = cluster.running(1)
    assert {life.key for life in living.values()} == {orphan}, "it was adopted"
    here.check()
    cluster.stop()


@pytest.mark.fault(49, "K H")
def test_most_nodes_lost_at_once_come_back_one_by_one(here: Yard) -> None:
    if "n3" not in here.oids:
        here.oids["n3"] = here.alice.sure("pair_node", {"node": {"name": "n3"}})["oid"]
        here.start_agent("n3")
        here.all_online()
    lost_after = 8  # long enough for n2 to come back after the brake is released, on a busy machine too
    cluster = here.cluster(3, nodes=("n1", "n2", "n3"), lost_after=lost_after)
    before = cluster.running(3)
    for node in ("n1", "n2"):
        here.proxies[node].blackhole()

    def brake() -> str:
        return " ".join(here.alice.sure("get_manager").get("conditions", []))

    until(lambda: "nothing is moved" in brake(), 15, "the brake is on, and says so")
    time.sleep(lost_after + 1)
    cluster.kept(before)
    assert cluster.stat()["status"] == "DEGRADED"
    here.proxies["n1"].heal()
    until(lambda: "nothing is moved" not in brake(), 15, "the brake is released")
    time.sleep(4 * here.stack.heartbeat)
    here.proxies["n2"].heal()
    here.all_online()
    cluster.running(3)
    cluster.kept(before)
    cluster.stop()


def test_the_proxy_drops_what_it_claims_to_drop(here: Yard) -> None:
    """The test tool itself: a black hole answers no CONNECT."""
    proxy = here.proxy("client")
    seen: list[int] = []
    proxy.drop = lambda packet: bool(seen.append(packet.kind)) or False
    client = here.watcher("alice", proxy.port)
    assert client.sure("get_manager")["state"] == "online"
    assert CONNACK in seen and PUBLISH in seen
    proxy.heal()
