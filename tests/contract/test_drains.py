"""Draining a node from a plain MQTT client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.conftest import Lab
from tests.faults.census import until


@pytest.fixture(autouse=True)
def _as_before(lab: Lab) -> Iterator[None]:
    """Leave no node draining."""
    yield
    for oid in lab.oids.values():
        lab.alice.ok("undrain_node", {"node_oid": oid})


def live_on(lab: Lab, cluster: dict[str, Any], *nodes: str) -> None:
    """Wait until every worker of a cluster is ready, on these nodes only."""

    def found() -> bool:
        stat = lab.alice.ok("stat_routercluster", {"routercluster_oid": cluster["oid"]})
        homes = {worker["node"] for worker in stat["workers"]}
        return bool(homes == set(nodes) and stat["ready"] == stat["scale"] and stat["status"] == "RUNNING")

    until(found, 20, f"the workers are on {nodes}")


def test_a_node_is_drained_and_reactivated(lab: Lab) -> None:
    cluster, _ = lab.running(scale=4)
    oid = lab.oids["n1"]
    topic = lab.alice.topic("status", "_", "node", "n1")
    mark = len(lab.alice.messages)
    node = lab.alice.ok("drain_node", {"node_oid": oid, "reason": "new disk"})
    assert (node["draining"], node["drained"], node["status"]) == ("new disk", False, "online")
    begun = lab.alice.wait_event("on_node_draining", since=mark, oid=oid)
    assert (begun["data"]["reason"], begun["data"]["who"]["authid"]) == ("new disk", "alice")
    done = lab.alice.wait_event("on_node_drained", since=mark, oid=oid)
    assert done["data"]["reason"] == "new disk"
    status = lab.alice.wait_retained(topic, lambda value: value.get("drained") is True)
    assert status["draining"] == "new disk" and "drained: new disk" in status["conditions"]
    live_on(lab, cluster, "n2")
    held = lab.nodes["n1"].assignment
    assert held is not None and not [w for w in held["workers"] if w["cluster"] == cluster["name"]]
    again = lab.alice.ok("drain_node", {"node_oid": oid})
    assert (again["draining"], again["drained"], again["version"]) == ("new disk", True, status["version"])
    params = {"routercluster_oid": cluster["oid"], "workergroup_oid": _group(lab, cluster), "scale": 6}
    lab.alice.ok("scale_routercluster_workergroup", params)
    lab.alice.wait_retained(
        lab.alice.topic("status", cluster["name"], "workergroup", "web"),
        lambda value: value["status"] == "RUNNING" and value["ready"] == 6,
    )
    live_on(lab, cluster, "n2")  # no new one either
    back = lab.alice.ok("undrain_node", {"node_oid": oid})
    assert (back["draining"], back["drained"]) == (None, False)
    lab.alice.wait_event("on_node_undrained", since=mark, oid=oid)
    lab.alice.wait_retained(topic, lambda value: "draining" not in value and "drained" not in value)
    assert lab.alice.ok("undrain_node", {"node_oid": oid})["version"] == back["version"]
    lab.alice.ok("scale_routercluster_workergroup", {**params, "scale": 8})
    lab.alice.wait_retained(
        lab.alice.topic("status", cluster["name"], "workergroup", "web"),
        lambda value: value["status"] == "RUNNING" and value["ready"] == 8,
    )
    live_on(lab, cluster, "n1", "n2")
    lab.stop(cluster)


def _group(lab: Lab, cluster: dict[str, Any]) -> str:
    oids = lab.alice.ok("list_routercluster_workergroups", {"routercluster_oid": cluster["oid"]})
    return str(oids[0])


def test_a_worker_that_cannot_move_stays_and_the_node_reports_why(lab: Lab) -> None:
    cluster = lab.cluster()
    lab.join(cluster, "n1")
    lab.group(cluster, name="web", scale=1)
    lab.alice.ok("start_routercluster", {"routercluster_oid": cluster["oid"]})
    lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    lab.alice.ok("drain_node", {"node_oid": lab.oids["n1"]})
    status = lab.alice.wait_retained(
        lab.alice.topic("status", "_", "node", "n1"),
        lambda value: any("stays" in text for text in value.get("conditions", [])),
    )
    assert status["draining"] == "requested by alice" and status["drained"] is False
    told = f"draining: requested by alice; 1 worker is to move; {cluster['name']}/web-1 stays: n1 is draining"
    assert told in status["conditions"]
    assert told in lab.alice.ok("get_node", {"node_oid": lab.oids["n1"]})["conditions"]
    worker = lab.alice.retained[lab.alice.topic("status", cluster["name"], "worker", "web-1")]
    assert (worker["status"], worker["node"]) == ("RUNNING", "n1")
    lab.join(cluster, "n2")
    lab.alice.wait_retained(
        lab.alice.topic("status", "_", "node", "n1"), lambda value: value.get("drained") is True
    )
    live_on(lab, cluster, "n2")
    lab.stop(cluster)


def test_draining_needs_the_right_role(lab: Lab) -> None:
    oid = lab.oids["n2"]
    assert lab.vic.code("drain_node", {"node_oid": oid}) == "not_authorized"
    assert lab.vic.code("undrain_node", {"node_oid": oid}) == "not_authorized"
    bob = lab.stack.client("bob")
    assert bob.code("drain_node", {"node_oid": oid}) == "not_authorized", "alice paired it"
    own = bob.ok("pair_node", {"node": {"name": lab.name("own")}})
    assert bob.ok("drain_node", {"node_oid": own["oid"]})["draining"] == "requested by bob"
    lab.alice.ok("unpair_node", {"node_oid": own["oid"]})
    node = lab.alice.ok("get_node", {"node_oid": oid})
    wrong = lab.alice.call("drain_node", {"node_oid": oid}, expect={"version": node["version"] + 9})
    assert wrong["error"]["code"] == "version_conflict"
    long = lab.alice.call("drain_node", {"node_oid": oid, "reason": "x" * 300})
    assert long["error"]["errors"] == [{"pointer": "/params/reason"}]
    spare = lab.name("spare")
    made = lab.alice.ok("pair_node", {"node": {"name": spare}})
    lab.alice.ok("drain_node", {"node_oid": made["oid"]})
    gone = lab.alice.ok("unpair_node", {"node_oid": made["oid"]})
    assert gone["draining"] is None
    assert lab.alice.code("drain_node", {"node_oid": made["oid"]}) == "no_such_object"
    assert lab.alice.code("undrain_node", {"node_oid": made["oid"]}) == "no_such_object"
