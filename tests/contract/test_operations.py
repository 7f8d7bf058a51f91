"""Every operation of the contract from a plain MQTT client: results, errors, events, retained status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS

from tests.contract.conftest import Lab

CLUSTER = {"oid", "name", "label", "description", "tags", "status", "owner_oid", "changed", "version"}
GROUP = {"changed", "cluster_oid", "description", "label", "name", "oid", "scale", "status", "tags"}
MEMBER = {"cluster_oid", "node_oid", "hardlimit", "softlimit"}
ASSIGNED = {
    "worker", "oid", "cluster", "workergroup", "desired", "generation", "runtime", "transport", "digest"
}  # fmt: skip
ABSENT = str(uuid.uuid4())


def test_create_get_list_delete(lab: Lab) -> None:
    name = lab.name()
    made = lab.alice.ok(
        "create_routercluster",
        {"routercluster": {"name": name, "label": "L", "description": "D", "tags": ["t"]}},
    )
    assert set(made) >= CLUSTER
    assert (made["status"], made["label"], made["description"], made["tags"]) == ("STOPPED", "L", "D", ["t"])
    assert made["changed"] > 10**18
    event = lab.alice.wait_event("on_routercluster_created", oid=made["oid"])
    assert event["data"]["who"] == {"authid": "alice", "authrole": "owner", "session": "box"}
    lab.alice.status(name, "routercluster", name, "STOPPED")
    assert lab.alice.ok("get_routercluster", {"routercluster_oid": made["oid"]}) == made
    assert lab.alice.ok("get_routercluster_by_name", {"routercluster_name": name}) == made
    assert made["oid"] in lab.alice.ok("list_routerclusters")
    names = lab.alice.ok("list_routerclusters", {"return_names": True})
    assert name in names and names == sorted(names)
    gone = lab.alice.ok("delete_routercluster", {"routercluster_oid": made["oid"]})
    assert gone["oid"] == made["oid"]
    lab.alice.wait_event("on_routercluster_deleted", oid=made["oid"])
    lab.alice.wait_retained(lab.alice.topic("status", name, "routercluster", name), lambda value: value == {})
    assert lab.alice.code("get_routercluster", {"routercluster_oid": made["oid"]}) == "no_such_object"
    assert lab.alice.code("get_routercluster_by_name", {"routercluster_name": name}) == "no_such_object"


def test_names_are_unique_and_the_error_points_there(lab: Lab) -> None:
    made = lab.cluster()
    reply = lab.alice.call("create_routercluster", {"routercluster": {"name": made["name"]}})
    error = reply["error"]
    assert (error["code"], error["status"], error["uri"], error["retryable"]) == (
        "already_exists", 409, "crossbar.error.already_exists", False)  # fmt: skip
    assert error["errors"] == [{"pointer": "/params/routercluster/name"}]
    assert made["name"] in error["detail"] and error["title"]
    assert reply["manager"] == "m1" and reply["epoch"] >= 1


def test_start_run_stop(lab: Lab) -> None:
    cluster, group = lab.running(scale=4)
    name = cluster["name"]
    starting = lab.alice.wait_event("on_routercluster_starting", oid=cluster["oid"])
    started = lab.alice.wait_event("on_routercluster_started", oid=cluster["oid"])
    assert starting["sequence"] < started["sequence"]
    status = lab.alice.retained[lab.alice.topic("status", name, "workergroup", "web")]
    assert (status["scale"], status["ready"], len(status["endpoints"])) == (4, 4, 4)
    placed = [sum(w["cluster"] == name for w in node.assignment["workers"]) for node in lab.nodes.values()]
    assert placed == [2, 2]
    held = lab.nodes["n1"].assignment
    assert held is not None and set(held) == {"store", "epoch", "version", "heartbeat_ms", "workers"}
    assert {w["desired"] for w in held["workers"]} == {"running"}
    assert set(held["workers"][0]) == ASSIGNED
    stat = lab.alice.ok("stat_routercluster", {"routercluster_oid": cluster["oid"]})
    assert (stat["status"], stat["scale"], stat["ready"], len(stat["workers"])) == ("RUNNING", 4, 4, 4)
    assert {w["node"] for w in stat["workers"]} == {"n1", "n2"}
    one = lab.alice.ok(
        "stat_routercluster_workergroup",
        {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]},
    )
    assert (one["status"], one["ready"], one["pending"], one["unknown"]) == ("RUNNING", 4, 0, 0)
    params = {"routercluster_oid": cluster["oid"]}
    assert lab.alice.code("start_routercluster", params) == "cannot_start"
    assert lab.alice.code("delete_routercluster", params) == "not_stopped"
    both = {**params, "workergroup_oid": group["oid"]}
    assert lab.alice.code("remove_routercluster_workergroup", both) == "not_stopped"
    stopping = lab.alice.ok("stop_routercluster", params)
    assert set(stopping) >= {"changed", "oid", "status", "who"}
    assert (stopping["status"], stopping["who"]["authid"]) == ("STOPPING", "alice")
    lab.alice.status(name, "routercluster", name, "STOPPED")
    lab.alice.wait_event("on_routercluster_stopped", oid=cluster["oid"])
    assert lab.alice.code("stop_routercluster", params) == "cannot_stop"
    for node in lab.nodes.values():
        assert not [w for w in node.assignment["workers"] if w["cluster"] == name]
    assert lab.alice.ok("start_routercluster", params)["status"] == "STARTING"
    lab.alice.status(name, "routercluster", name, "RUNNING")
    lab.stop(cluster)
    removed = lab.alice.ok("remove_routercluster_workergroup", both)
    assert removed["oid"] == group["oid"]
    lab.alice.wait_event("on_workergroup_removed", oid=group["oid"])
    lab.alice.wait_retained(lab.alice.topic("status", name, "worker", "web-1"), lambda value: value == {})


def test_a_cluster_without_workers_is_running_at_once(lab: Lab) -> None:
    cluster = lab.cluster()
    lab.alice.ok("start_routercluster", {"routercluster_oid": cluster["oid"]})
    lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")


def test_a_group_with_no_nodes_is_pending_with_the_reason_and_placed_when_one_comes(lab: Lab) -> None:
    cluster = lab.cluster()
    group = lab.group(cluster, scale=1)
    assert group["name"] and set(group) >= GROUP and group["status"] == "STOPPED"
    lab.alice.ok("start_routercluster", {"routercluster_oid": cluster["oid"]})
    worker = lab.alice.status(cluster["name"], "worker", f"{group['name']}-1", "PENDING")
    assert "no node" in worker["reason"] or any("no node" in text for text in worker["conditions"])
    lab.join(cluster, "n2")
    lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    lab.stop(cluster)


def test_limits(lab: Lab) -> None:
    cluster = lab.cluster()
    lab.join(cluster, "n1", hardlimit=1)
    lab.join(cluster, "n2", hardlimit=2, softlimit=1)
    lab.group(cluster, name="web", scale=4)
    lab.alice.ok("start_routercluster", {"routercluster_oid": cluster["oid"]})
    topic = lab.alice.topic("status", cluster["name"], "workergroup", "web")
    lab.alice.wait_retained(topic, lambda value: value.get("ready") == 3)
    stat = lab.alice.ok("stat_routercluster", {"routercluster_oid": cluster["oid"]})
    assert (stat["ready"], stat["pending"], stat["status"]) == (3, 1, "STARTING")
    assert sorted(w["node"] for w in stat["workers"] if w["node"]) == ["n1", "n2", "n2"]
    assert [w for w in stat["workers"] if w["state"] == "PENDING" and "hardlimit" in w["reason"]]
    lab.stop(cluster)


def test_memberships(lab: Lab) -> None:
    cluster = lab.cluster()
    member = lab.join(cluster, "n1", hardlimit=3)
    assert member == {
        "cluster_oid": cluster["oid"],
        "node_oid": lab.oids["n1"],
        "hardlimit": 3,
        "softlimit": None,
    }
    both = {"routercluster_oid": cluster["oid"], "node_oid": lab.oids["n1"]}
    assert lab.alice.code("add_routercluster_node", both) == "already_exists"
    assert lab.alice.ok("get_routercluster_node", both) == member
    of = {"routercluster_oid": cluster["oid"]}
    assert lab.alice.ok("list_routercluster_nodes", of) == [lab.oids["n1"]]
    assert lab.alice.ok("list_routercluster_nodes", {**of, "return_names": True}) == ["n1"]
    assert lab.alice.ok("list_routercluster_nodes", {**of, "filter_by_status": "online"}) == [lab.oids["n1"]]
    assert lab.alice.ok("list_routercluster_nodes", {**of, "filter_by_status": "lost"}) == []
    lab.alice.wait_event("on_routercluster_node_added", cluster=cluster["name"])
    assert lab.alice.ok("remove_routercluster_node", both) == member
    assert lab.alice.code("get_routercluster_node", both) == "no_such_object"
    assert lab.alice.code("remove_routercluster_node", both) == "no_such_object"
    config = {"hardlimit": 1, "softlimit": 2}
    assert lab.alice.code("add_routercluster_node", {**both, "config": config}) == "invalid_argument"


def test_groups(lab: Lab) -> None:
    cluster = lab.cluster()
    group = lab.group(cluster, name="web", scale=3, label="L", tags=["x"])
    assert (group["name"], group["scale"], group["cluster_oid"]) == ("web", 3, cluster["oid"])
    of = {"routercluster_oid": cluster["oid"]}
    both = {**of, "workergroup_oid": group["oid"]}
    assert (
        lab.alice.code("add_routercluster_workergroup", {**of, "workergroup": {"name": "web", "scale": 1}})
        == "already_exists"
    )
    assert lab.alice.ok("get_routercluster_workergroup", both) == group
    by_name = {"routercluster_name": cluster["name"], "workergroup_name": "web"}
    assert lab.alice.ok("get_routercluster_workergroup_by_name", by_name) == group
    assert lab.alice.ok("list_routercluster_workergroups", of) == [group["oid"]]
    assert lab.alice.ok("list_routercluster_workergroups", {**of, "return_names": True}) == ["web"]
    assert lab.alice.ok("list_routercluster_workergroups", {**of, "filter_by_status": "STOPPED"}) == [
        group["oid"]
    ]
    assert lab.alice.ok("list_routercluster_workergroups", {**of, "filter_by_status": "RUNNING"}) == []
    error = lab.alice.call("add_routercluster_workergroup", {**of, "workergroup": {"name": "x"}})["error"]
    assert (error["code"], error["errors"]) == (
        "invalid_argument", [{"pointer": "/params/workergroup/scale"}])  # fmt: skip
    other = lab.cluster()
    foreign = {"routercluster_oid": other["oid"], "workergroup_oid": group["oid"]}
    assert lab.alice.code("get_routercluster_workergroup", foreign) == "no_such_object"
    mismatch = {**of, "workergroup": {"scale": 1, "runtime": "crossbar", "transport": {"type": "mqtt"}}}
    assert lab.alice.code("add_routercluster_workergroup", mismatch) == "invalid_configuration"


def test_scale_up_and_down(lab: Lab) -> None:
    cluster, group = lab.running(scale=2)
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    topic = lab.alice.topic("status", cluster["name"], "workergroup", "web")
    for scale in (5, 1):
        assert lab.alice.ok("scale_routercluster_workergroup", {**both, "scale": scale})["scale"] == scale
        lab.alice.wait_retained(topic, lambda value, n=scale: value.get("ready") == n == value.get("scale"))
        lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    lab.alice.wait_retained(
        lab.alice.topic("status", cluster["name"], "worker", "web-5"), lambda value: value == {}
    )
    lab.stop(cluster)


def test_a_failing_worker_degrades_and_recovers(lab: Lab) -> None:
    cluster, _ = lab.running(scale=2)
    node = lab.nodes["n1"]
    node.behave = lambda worker: (
        {"state": "BACKOFF", "reason": "exit code 1", "restarts": 1}
        if worker["cluster"] == cluster["name"]
        else {"state": "RUNNING"}
    )
    node.report()
    status = lab.alice.status(cluster["name"], "routercluster", cluster["name"], "DEGRADED")
    assert any("exit code 1" in condition for condition in status["conditions"])
    failed = lab.alice.wait_event("on_worker_failed", cluster=cluster["name"])
    assert "exit code 1" in failed["data"]["reason"]
    node.behave = lambda worker: {"state": "RUNNING", "restarts": 1}
    node.report()
    lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    lab.alice.wait_event("on_routercluster_recovered", oid=cluster["oid"])
    lab.stop(cluster)


def test_workers(lab: Lab) -> None:
    cluster, _ = lab.running(scale=2)
    of = {"routercluster_oid": cluster["oid"]}
    names = lab.alice.ok("list_workers", {**of, "return_names": True})
    assert names == ["web-1", "web-2"]
    oids = lab.alice.ok("list_workers", {**of, "filter_by_status": "RUNNING"})
    assert len(oids) == 2
    worker = lab.alice.ok("get_worker", {"worker_oid": oids[0]})
    assert (worker["state"], worker["pid"], worker["workergroup"]) == ("RUNNING", 4711, "web")
    assert worker["address"] and worker["node"] in lab.nodes
    assert lab.alice.code("get_worker", {"worker_oid": ABSENT}) == "no_such_object"
    on_node = lab.alice.ok("list_workers", {**of, "node_oid": lab.oids["n1"]})
    assert len(on_node) == 1
    lab.stop(cluster)


def test_nodes(lab: Lab) -> None:
    node = lab.alice.ok("get_node", {"node_oid": lab.oids["n1"]})
    assert (node["name"], node["status"]) == ("n1", "online")
    assert lab.alice.ok("get_node_by_name", {"node_name": "n1"})["oid"] == node["oid"]
    assert lab.alice.ok("list_nodes", {"return_names": True})[:2] == ["n1", "n2"]
    assert lab.alice.code("pair_node", {"node": {"name": "n1"}}) == "already_exists"
    assert lab.alice.code("get_node", {"node_oid": ABSENT}) == "no_such_object"
    spare = lab.name("spare")
    made = lab.alice.ok("pair_node", {"node": {"name": spare, "labels": {"site": "x"}}})
    assert (made["status"], made["labels"]) == ("offline", {"site": "x"})
    assert lab.alice.ok("unpair_node", {"node_oid": made["oid"]})["status"] == "unpaired"
    assert spare not in lab.alice.ok("list_nodes", {"return_names": True})
    assert spare in lab.alice.ok("list_nodes", {"return_names": True, "filter_by_status": "unpaired"})


def test_events_have_no_gaps_and_can_be_fetched(lab: Lab) -> None:
    lab.cluster()
    events = lab.alice.ok("get_events", {"since": 0, "limit": 1000})
    numbers = [int(event["sequence"]) for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] == 1
    for event in events:
        assert event["specversion"] == "1.0" and event["id"].endswith(event["sequence"])
        assert event["source"].startswith("/busbar/lab/") and event["datacontenttype"] == "application/json"
    later = lab.alice.ok("get_events", {"since": events[-2]["sequence"]})
    assert later[0]["sequence"] == events[-1]["sequence"]


def test_manager(lab: Lab) -> None:
    info = lab.alice.ok("get_manager")
    assert (info["manager"], info["state"], info["realm"]) == ("m1", "online", "lab")
    state = lab.alice.retained[lab.alice.topic("manager", "m1", "state")]
    assert state["epoch"] == info["epoch"] and state["limits"]


def test_roles(lab: Lab) -> None:
    cluster = lab.cluster(lab.bob)
    of = {"routercluster_oid": cluster["oid"]}
    assert lab.vic.ok("get_routercluster", of)["name"] == cluster["name"]
    assert lab.vic.code("start_routercluster", of) == "not_authorized"
    assert lab.vic.code("create_routercluster", {"routercluster": {"name": lab.name()}}) == "not_authorized"
    group = {**of, "workergroup": {"scale": 1}}
    member = {**of, "node_oid": lab.oids["n1"]}
    for op, params in (
        ("start_routercluster", of),
        ("stop_routercluster", of),
        ("delete_routercluster", of),
        ("add_routercluster_workergroup", group),
        ("add_routercluster_node", member),
        ("remove_routercluster_node", member),
    ):
        assert lab.carol.code(op, params) == "not_authorized", op
    assert lab.bob.ok("start_routercluster", of)["who"]["authrole"] == "operator"
    assert lab.alice.ok("stop_routercluster", of)["status"] == "STOPPING"
    nobody = lab.stack.client("nobody")
    assert nobody.code("list_routerclusters") == "no_such_principal"


@pytest.mark.parametrize("op", sorted(OPERATIONS))
@pytest.mark.fault(0, "L")
def test_unknown_members_are_refused_everywhere(lab: Lab, op: str) -> None:
    reply = lab.alice.call(op, {"surprise": 1})
    assert reply["error"]["code"] == "invalid_argument", reply
    assert reply["op"] == op


REFERENCES: dict[str, dict[str, Any]] = {
    name: {field: ABSENT for field in row.params.__struct_fields__ if field.endswith("_oid")}
    for name, row in OPERATIONS.items()
    if "no_such_object" in row.errors and row.params.__struct_fields__[0].endswith("_oid")
}


@pytest.mark.parametrize("op", sorted(REFERENCES))
def test_unknown_objects(lab: Lab, op: str) -> None:
    more: dict[str, Any] = {"workergroup": {"scale": 1}} if op.startswith("add_routercluster_w") else {}
    more |= {"revision": 1} if "revision" in OPERATIONS[op].params.__struct_fields__ else {}
    more |= {"scale": 1} if op.startswith("scale_") else {}
    more |= {op.rpartition("_")[2]: {}} if op.startswith("update_") else {}
    more |= {"labels": {"zone": "a"}} if op == "label_node" else {}
    assert lab.alice.code(op, {**REFERENCES[op], **more}) == "no_such_object"
