"""Changes planned before they are done, from a plain MQTT client: what was planned is what happens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import Lab


def homes(lab: Lab, cluster: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Node and generation of each worker."""
    oids = lab.alice.ok("list_workers", {"routercluster_oid": cluster["oid"]})
    workers = [lab.alice.ok("get_worker", {"worker_oid": oid}) for oid in oids]
    return {f"{cluster['name']}/{w['name']}": (w["node"], w["generation"]) for w in workers}


def plan(lab: Lab, cluster: dict[str, Any], operation: str, params: dict[str, Any], **more: Any) -> Any:
    """The plan and, of it, the steps of this cluster's workers: others may have some on the nodes."""
    found = lab.alice.ok("plan_operation", {"operation": operation, "params": params, **more})
    steps = [step for step in found["workers"] if step["worker"].startswith(f"{cluster['name']}/")]
    return found, steps


@pytest.fixture
def _undrained(lab: Lab) -> Any:
    yield
    lab.alice.ok("undrain_node", {"node_oid": lab.oids["n1"]})


@pytest.mark.usefixtures("_undrained")
def test_a_drain_is_planned_without_effect_and_goes_as_planned(lab: Lab) -> None:
    cluster, _ = lab.running(scale=4)
    before, drain = homes(lab, cluster), {"node_oid": lab.oids["n1"]}
    mark = len(lab.alice.messages)
    found, steps = plan(lab, cluster, "drain_node", drain)
    assert [(step["action"], step["before"], step["node"]) for step in steps] == [("move", "n1", "n2")] * 2
    assert steps[0]["order"] < steps[1]["order"] and found["complete"]
    assert homes(lab, cluster) == before
    assert lab.alice.ok("get_node", drain)["draining"] is None
    told = [topic for topic, *_ in lab.alice.messages[mark:]]
    assert not [topic for topic in told if f"/{cluster['name']}/" in topic or topic.endswith("/draining")]
    lab.alice.ok("drain_node", drain, expect={"version": found["version"]})
    lab.alice.wait_retained(
        lab.alice.topic("status", "_", "node", "n1"), lambda value: value.get("drained") is True
    )
    lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    after = homes(lab, cluster)
    assert {name for name in after if after[name] != before[name]} == {step["worker"] for step in steps}
    assert {node for node, _ in after.values()} == {"n2"}
    lab.stop(cluster)


def test_a_restart_is_planned_in_its_order(lab: Lab) -> None:
    cluster, group = lab.running(scale=3)
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    before = homes(lab, cluster)
    found, steps = plan(lab, cluster, "restart_routercluster_workergroup", both)
    assert sorted(step["worker"] for step in steps) == sorted(before)
    assert [(step["action"], step["node"]) for step in steps] == [
        ("restart", before[step["worker"]][0]) for step in steps
    ]
    assert len({step["order"] for step in steps}) == 3, "one after the other"
    assert homes(lab, cluster) == before
    mark = len(lab.alice.messages)
    lab.alice.ok("restart_routercluster_workergroup", both, expect={"version": found["version"]})
    lab.alice.wait_event("on_workergroup_updated", since=mark, oid=group["oid"])
    after = homes(lab, cluster)
    assert after == {name: (node, generation + 1) for name, (node, generation) in before.items()}
    stale = {
        "operation": "restart_routercluster_workergroup",
        "params": both,
        "expect_version": found["version"],
    }
    error = lab.alice.call("plan_operation", stale)["error"]
    assert error["code"] == "version_conflict" and error["errors"] == [{"pointer": "/params/expect_version"}]
    lab.stop(cluster)


def test_who_may_not_do_it_may_not_plan_it(lab: Lab) -> None:
    cluster = lab.cluster()
    asked = {"operation": "start_routercluster", "params": {"routercluster_oid": cluster["oid"]}}
    assert lab.vic.code("plan_operation", asked) == "not_authorized"
    error = lab.bob.call("plan_operation", asked)["error"]
    assert error["code"] == "not_authorized"
    assert error["errors"] == [{"pointer": "/params/params/routercluster_oid"}]
    for operation in ("add_principal", "get_node", "plan_operation", "apply_changes", "no_such"):
        error = lab.alice.call("plan_operation", {"operation": operation, "params": {}})["error"]
        assert error["code"] == "invalid_argument" and error["errors"] == [{"pointer": "/params/operation"}]
