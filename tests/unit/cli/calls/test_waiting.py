"""--wait tells of the object that the command changed, whatever else is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ..realm import OID, TOPICS, Line, Realm, result_of
from ..realm import line as line

ELSEWHERE = OID.replace("3", "4")


NAMES = {"workergroup": "api", "worker": "api-1", "routercluster": "edge", "node": "n1"}


def status(name: str, oid: str, **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"version": 9, "epoch": 1, "sequence": "1", "status": "RUNNING", "time": "t"}
    return (
        facts
        | {"name": name, "oid": oid, "scale": 3, "ready": 3, "revision": 3, "updated": 3, "generation": 3}
        | more
    )


def settled(name: str, oid: str) -> dict[str, Any]:
    """A status that would reach every goal."""
    reached = status(name, oid, draining="x", drained=True) | {"version": 10**6}
    del reached["updated"]  # a rollout is complete
    return reached


def a_realm(kind: str, later: Callable[[str], bool], own: dict[str, Any]) -> Realm:
    """Other objects of that kind have reached what is waited for; `own` appears after the change."""

    def answer(operation: str, given: dict[str, Any]) -> Any:
        subject = next(name for name in NAMES if name in operation)
        known = {"name": NAMES[subject], "oid": OID, "cluster_oid": OID, "status": "STARTING"}
        known |= {"cluster": "edge"}
        return result_of(operation, lambda member: known.get(member, "x")) | {"version": 1}

    realm = Realm(answer)
    where = "_" if kind == "node" else "edge"
    for name in ("aaa", "web", "zzz"):
        realm.retain(TOPICS.status(where, kind, name), settled(name, ELSEWHERE))
    realm.retain(TOPICS.status(where, kind, own["name"]), settled(own["name"], ELSEWHERE))

    def after(operation: str) -> None:
        if later(operation):
            topic = TOPICS.status(where, kind, own["name"])
            realm.retain(topic, own)
            realm.publish(topic, own)

    realm.after = after
    return realm


WAITS = [
    ("group add edge/api --scale 3", "workergroup", "add_routercluster_workergroup"),
    ("group scale edge/api 3", "workergroup", "scale_routercluster_workergroup"),
    ("group update edge/api --runtime amqtt", "workergroup", "update_routercluster_workergroup"),
    ("group start edge/api", "workergroup", "start_routercluster_workergroup"),
    ("group restart edge/api", "workergroup", "restart_routercluster_workergroup"),
    (f"worker restart {OID}", "worker", "restart_routercluster_worker"),
    ("cluster start edge", "routercluster", "start_routercluster"),
    ("node drain n1", "node", "drain_node"),
]


@pytest.mark.fault(95, "U")
@pytest.mark.parametrize(("command", "kind", "operation"), WAITS)
def test_a_wait_is_not_over_when_another_object_is_ready(
    line: Line, capsys: pytest.CaptureFixture[str], command: str, kind: str, operation: str
) -> None:
    """Not one of the same cluster, and not an earlier one of the same name."""
    own = status(NAMES[kind], OID, status="STARTING", ready=0, updated=0, draining="x", drained=False)
    realm = a_realm(kind, lambda name: name == operation, own)
    assert line.against(realm).run(*command.split(), "--wait", "--timeout", "0.3") == 6
    said = capsys.readouterr().err
    assert "3 of 3" not in said
    assert "RUNNING, 3" not in said


@pytest.mark.fault(95, "U")
@pytest.mark.parametrize(("command", "kind", "operation"), WAITS)
def test_a_wait_ends_with_its_own_object(
    line: Line, capsys: pytest.CaptureFixture[str], command: str, kind: str, operation: str
) -> None:
    own = settled(NAMES[kind], OID)
    realm = a_realm(kind, lambda name: name == operation, own)
    assert line.against(realm).run(*command.split(), "--wait", "--timeout", "5", "-o", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["oid"], shown["name"]) == (OID, NAMES[kind])


def test_another_object_of_the_name_means_that_ours_is_gone(line: Line) -> None:
    own = status("api", OID, status="STARTING", ready=0)
    realm = a_realm("workergroup", lambda name: name == "scale_routercluster_workergroup", own)
    before = realm.after

    def after(operation: str) -> None:
        before(operation)
        if operation == "scale_routercluster_workergroup":
            realm.publish(TOPICS.status("edge", "workergroup", "api"), settled("api", ELSEWHERE))

    realm.after = after
    assert line.against(realm).run("group", "scale", "edge/api", "3", "--wait", "--timeout", "5") == 4


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"status": "STOPPED", "transport": None}, 0),
        ({"status": "STOPPING", "transport": None}, 0),
        ({"status": "RUNNING", "transport": {"type": "mqtt"}}, 0),
        ({"status": "RUNNING", "transport": None}, 6),
    ],
)
def test_an_update_of_a_cluster_waits_for_the_groups_that_run_it(
    line: Line, facts: dict[str, Any], code: int
) -> None:
    def answer(operation: str, given: dict[str, Any]) -> Any:
        if operation == "list_routercluster_workergroups":
            return [OID]
        known = {"name": "edge", "oid": OID, "cluster_oid": OID, "status": "RUNNING"}
        group = facts if operation == "get_routercluster_workergroup" else {"transport": None}
        return result_of(operation, lambda member: known.get(member, "x")) | {"version": 1} | group

    run = line.against(Realm(answer)).run
    assert run("cluster", "update", "edge", "--port", "24001", "--wait", "--timeout", "0.3") == code
