"""Planted situations, each with the cause that must be told; and that every worker in trouble has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from busbar.bus.causes import CAUSES, FACTS, MAX_STATEMENTS, MAX_TEXT
from busbar.bus.messages import MeshSeen
from busbar.bus.placement import Placement
from busbar.bus.plans import MoveOrder
from busbar.bus.results import Statement
from busbar.bus.states import Leaves, WorkerState
from busbar.manager.explain.groups import explain_cluster, explain_group
from busbar.manager.explain.nodes import explain_node
from busbar.manager.explain.requests import explain_request
from busbar.manager.explain.scene import Past, Scene, Told, is_well
from busbar.manager.explain.workers import explain_worker
from busbar.manager.planner import model as m
from busbar.manager.store.rows import AuditRow, RefusalRow
from hypothesis import given

from tests.unit.manager.explain.scenes import scene_of
from tests.unit.manager.planner.fleets import NOW, cluster, group, node, snapshot, worker
from tests.unit.manager.planner.test_model_properties import some_fleet

HOLD = "3 of 4 nodes lost within 60 s: nothing is moved"


IN_A = Placement({"zone": "a"})


def past(sequence: int, subject: str, verb: str, reason: str | None = None, **data: Any) -> Past:
    by = data.pop("by", None)
    return Past(f"{sequence:010d}", 1_000 * sequence, subject, verb, reason, by, data)


def one(state: str, on: str | None = "n1", *, of: dict[str, Any] | None = None, **more: Any) -> m.ClusterView:
    """A cluster on n1 with one worker, `web-1`; `of`: of its group."""
    settings = {"scale": 1, "status": "DEGRADED", "none_ready_since": NOW - 10} | (of or {})
    workers = [worker("web", 1, state, on, **more)]
    return cluster(group("web", workers=workers, **settings), members=["n1"])


def about_worker(view: m.ClusterView, *nodes: m.NodeView, **more: Any) -> Scene:
    known = {key: more.pop(key) for key in ("hold", "avoided") if key in more}
    return scene_of(snapshot(nodes or [node("n1")], view, **known), worker="web-1", **more)


LOST = {"n1": [past(7, "node", "lost", "silent for 30 s (a heartbeat is due every 5 s)")]}
UPDATED = {"web": [past(9, "workergroup", "updating", by="alice", revision=2)]}
STOPPED = {"edge": [past(4, "routercluster", "stopping", by="alice")]}
OLD = {"revision": 2, "settled": 1, "status": "RUNNING"}


def rolling(second: str = "STARTING", **more: Any) -> m.ClusterView:
    """Two workers; the first runs revision 1, and the second is on the way to revision 2."""
    workers = [worker("web", 1, "RUNNING", "n1"), worker("web", 2, second, "n1", revision=2)]
    return cluster(group("web", 2, workers, **(OLD | more)), members=["n1"])


SITUATIONS: dict[str, tuple[Scene, str, str]] = {
    "no node with the labels": (
        about_worker(one("PENDING", None, of={"placement": IN_A}), node("n1", labels={"zone": "b"})),
        "node_refused",
        "node n1 takes no worker: it has label zone=b (zone=a is required)",
    ),
    "a node that has lost its label": (
        about_worker(one("RUNNING", of={"placement": IN_A, "status": "RUNNING"})),
        "misplaced",
        "it stays on n1, which has no label zone (zone=a is required)",
    ),
    "no node": (
        about_worker(cluster(group("web", 1, [worker("web", 1, "PENDING")]))),
        "no_members",
        "add-node",
    ),
    "no room": (
        about_worker(one("PENDING", None), node("n1", max_workers=0)),
        "node_refused",
        "is full (0/0 workers)",
    ),
    "no runtime": (
        about_worker(one("PENDING", None), node("n1", runtimes=frozenset({"nats"}))),
        "node_refused",
        "does not offer runtime 'amqtt'",
    ),
    "its node was lost, and there is no other": (
        about_worker(
            one("PENDING", None, last_node_oid="n1"), node("n1", "lost", 45), events=LOST, facts=None
        ),
        "node_lost",
        "silent for 30 s",
    ),
    "room elsewhere": (about_worker(one("PENDING", None)), "to_be_placed", "next pass"),
    "crash loop": (
        about_worker(
            one("BACKOFF", failing_since=NOW - 5),
            facts={"reason": "next try in 4 s; exit code 1; last output: no such file | bye", "restarts": 3},
        ),
        "failing",
        "exit code 1",
    ),
    "crash loop during a mass failure": (
        about_worker(one("BACKOFF", failing_since=NOW - 50), hold=HOLD),
        "brake",
        "nothing is moved",
    ),
    "slow start": (
        about_worker(one("STARTING"), facts={"reason": "not ready yet: connection refused"}),
        "starting",
        "connection refused",
    ),
    "queued": (
        about_worker(one("STARTING"), facts={"reason": "queued: start limit reached"}),
        "starting",
        "start limit reached",
    ),
    "not told yet": (
        about_worker(one("STARTING"), node("n1", applied=False)),
        "not_applied",
        "not confirmed",
    ),
    "another manager": (
        about_worker(one("STARTING"), node("n1", refuses="follows store s2")),
        "node_follows_another",
        "follows store s2",
    ),
    "lost": (about_worker(one("UNKNOWN"), node("n1", "lost", 31), events=LOST), "node_lost", "is lost"),
    "lost for long": (
        about_worker(one("UNKNOWN"), node("n1", "lost", 45)),
        "not_moved",
        "it is not moved",
    ),
    "lost with many": (about_worker(one("UNKNOWN"), node("n1", "lost", 45), hold=HOLD), "brake", "not moved"),
    "late": (about_worker(one("UNKNOWN"), node("n1", "late", 16)), "node_late", "is late"),
    "left running": (
        about_worker(
            one("UNKNOWN"), node("n1", "offline", 45, goodbye=True, leaves=Leaves.RUNNING, heard_once=True)
        ),
        "node_offline",
        "is offline",
    ),
    "being stopped": (about_worker(one("STOPPING"), node("n1", applied=False)), "stopping", "being stopped"),
    "outdated, budget spent": (
        about_worker(rolling(), events=UPDATED),
        "rollout_waits",
        "1 of 2 workers are ready, and at least 1",
    ),
    "outdated": (about_worker(rolling(), events=UPDATED), "outdated", "updated by alice to revision 2"),
    "rollout halted": (
        about_worker(rolling("RUNNING", held_back="web-1 stays as it is: n1 follows store s2")),
        "rollout_halted",
        "n1 follows store s2",
    ),
    "not meshed": (
        about_worker(
            cluster(
                group("web", 2, [worker("web", 1, on="n1"), worker("web", 2, "PENDING")], mesh=True),
                members=["n1"],
            ),
            facts={"mesh": MeshSeen(1, 0, ["web-2"])},
        ),
        "not_meshed",
        "not connected to web-2; web-2 is PENDING",
    ),
    "does not answer": (
        about_worker(one("RUNNING"), facts={"reason": "does not answer: timeout"}),
        "unhealthy",
        "timeout",
    ),
    "drained, and needed": (
        about_worker(one("RUNNING", of={"scale": 2}), node("n1", draining=True)),
        "not_moved",
        "stays",
    ),
    "its node left the cluster": (
        about_worker(cluster(group("web", 1, [worker("web", 1, "RUNNING", "n1")]))),
        "not_member",
        "no longer a node of cluster edge",
    ),
    "stopped cluster": (
        about_worker(
            cluster(group("web", 1, [worker("web", 1, "STOPPED")], "STOPPED"), status="STOPPED"),
            events=STOPPED,
        ),
        "stopped",
        "stopped by alice",
    ),
    "stopped group": (
        about_worker(one("STOPPED", None, of={"stop_ordered": True})),
        "group_stopped",
        "by itself",
    ),
    "surplus": (about_worker(one("STOPPING", of={"scale": 0})), "surplus", "scaled to 0"),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_cause_is_told(name: str) -> None:
    scene, code, text = SITUATIONS[name]
    found = explain_worker(scene)
    assert [each for each in found if each.code == code and text in each.text], found
    assert not is_well(found) and "nothing_wrong" not in {each.code for each in found}


def test_the_chain_is_in_the_order_of_its_events() -> None:
    """What befell the node and the worker, by their numbers; then what holds now."""
    events = LOST | {
        "web-1": [
            past(5, "worker", "ready", None, node="n1"),
            past(8, "worker", "unknown", "node n1 is lost", node="n1"),
        ]
    }
    found = explain_worker(about_worker(one("UNKNOWN"), node("n1", "lost", 45), events=events))
    numbers = [int(each.event) for each in found if each.event]
    assert numbers == [5, 7, 8] and [each.event is None for each in found] == sorted(
        each.event is None for each in found
    )
    assert [each.at_ms for each in found[:3]] == [5_000, 7_000, 8_000]
    assert "lost_after" in {each.code for each in found}


def test_the_last_lines_of_output_are_told_one_by_one() -> None:
    scene, _, _ = SITUATIONS["crash loop"]
    lines = [each.text for each in explain_worker(scene) if each.code == "output"]
    assert lines == ["its last output: no such file", "its last output: bye"]


def test_a_healthy_worker_is_said_to_be() -> None:
    found = explain_worker(about_worker(one("RUNNING", of={"status": "RUNNING"})))
    assert is_well(found) and found[-1].code == "nothing_wrong"
    assert (
        found[-1].text == "nothing is wrong: worker edge/web-1 is RUNNING on n1, with revision 1 of its group"
    )


def test_a_node_that_would_do_is_named() -> None:
    found = explain_worker(about_worker(one("PENDING", None), node("n1", "lost", 60), node("n9")))
    assert [each.text for each in found if each.code == "node_outside"] == [
        "node n9 would take it, but is not a node of cluster edge"
    ]


def test_an_event_of_an_earlier_trouble_is_not_told_as_the_cause() -> None:
    """The fleet is judged late before that is stored: the last `late` event is an older one."""
    events = {"n1": [past(3, "node", "late", "an older story")]}
    found = explain_worker(about_worker(one("UNKNOWN"), node("n1", silence=20), events=events))
    told = [each for each in found if each.code == "node_late"]
    assert told and told[0].event is None and "older" not in told[0].text


# --- groups, clusters, nodes


def test_a_group_tells_the_causes_of_its_workers() -> None:
    scene = scene_of(snapshot([node("n1", max_workers=0)], one("PENDING", None)))
    found = explain_group(scene)
    assert {"worker_not_ready", "node_refused", "no_place"} <= {each.code for each in found}
    assert {each.object for each in found if each.code == "no_place"} == {"web-1"}


def test_a_group_tells_of_workers_on_nodes_without_its_labels() -> None:
    view = one("RUNNING", of={"placement": IN_A, "status": "RUNNING"})
    found = explain_group(scene_of(snapshot([node("n1")], view)))
    assert [(each.code, each.object) for each in found] == [("misplaced", "web-1")]
    found = explain_cluster(scene_of(snapshot([node("n1")], view), group=""))
    assert [each.code for each in found] == ["misplaced"]


def test_a_worker_tells_where_it_is_to_move_and_what_that_waits_for() -> None:
    told = MoveOrder("n2", 1, "rebalance ordered by alice")
    view = one("RUNNING", of={"status": "RUNNING"}, move=told)
    found = explain_worker(about_worker(view, node("n1"), node("n2")))
    assert [each.text for each in found if each.code == "next"] == [
        "it is to move to n2: rebalance ordered by alice"
    ]
    view = one("RUNNING", of=OLD, move=told)
    found = explain_worker(about_worker(view, node("n1"), node("n2")))
    assert "; it waits: group web is being updated" in " ".join(each.text for each in found)


def test_a_cluster_tells_of_its_groups_and_nodes() -> None:
    scene = scene_of(snapshot([node("n1", "lost", 45)], one("UNKNOWN")), group="", events=LOST)
    found = explain_cluster(scene)
    assert {"node_lost", "group_not_running", "worker_not_ready", "unknown"} <= {each.code for each in found}
    quiet = scene_of(snapshot([node("n1")], one("RUNNING", of={"status": "RUNNING"})), group="")
    assert explain_cluster(quiet)[-1].text == "nothing is wrong: cluster edge is RUNNING: its worker is ready"


@pytest.mark.parametrize(
    ("view", "facts", "code"),
    [
        (node("n1", "lost", 45), {}, "node_lost"),
        (node("n1", draining=True, drain_note="1 worker is to move"), {}, "node_draining"),
        (node("n1", cordoned=True), {"cordoned": "a slow disk"}, "node_cordoned"),
        (node("n1", applied=False), {}, "not_applied"),
        (node("n1", refuses="follows store s2"), {}, "node_follows_another"),
        (node("n1", "offline", 45, heard_once=False, known=False), {}, "never_heard"),
        (node("n1"), {"conditions": ["the disk is full"]}, "node_condition"),
    ],
)
def test_a_node_tells_what_is_wrong(view: m.NodeView, facts: dict[str, Any], code: str) -> None:
    found = explain_node(scene_of(snapshot([view], cluster()), node="n1", facts=facts))
    assert code in {each.code for each in found} and not is_well(found)


def test_a_request_tells_what_came_of_it() -> None:
    row = AuditRow(
        1, 5_000_000_000, "bob", None, "operator", "start_routercluster", "r1", None, "cannot_start", "{}"
    )
    refusal = RefusalRow(0, "bob", "list_nodes", "busy", 0, 6_000_000_000, 1, "r1", "too many")
    events = [past(3, "routercluster", "starting", name="edge", cluster="edge")]
    found = explain_request("r1", [row], [refusal], {1: "it is RUNNING"}, events)
    assert [each.code for each in found] == ["request", "refused", "refused", "history"], "the cause first"
    texts = " / ".join(each.text for each in found)
    assert "bob (operator) asked for start_routercluster" in texts and "it is RUNNING" in texts
    assert "refused: busy: too many" in texts and "caused routercluster edge starting" in texts
    fine = AuditRow(2, 0, "bob", None, "operator", "start_routercluster", "r2", None, "ok", "{}")
    assert is_well(explain_request("r2", [fine], [], {}, []))


# --- whatever the fleet


@given(some_fleet())
def test_every_worker_that_is_not_running_has_a_cause(fleet: m.Snapshot) -> None:
    for of_cluster in fleet.clusters.values():
        for of_group in of_cluster.groups:
            check(explain_group(scene_of(fleet, cluster=of_cluster.oid, group=of_group.oid)))
            for each in of_group.workers:
                scene = scene_of(fleet, cluster=of_cluster.oid, group=of_group.oid, worker=each.oid)
                found = explain_worker(scene)
                check(found)
                assert each.state is WorkerState.RUNNING or not is_well(found), (each, found)
        check(explain_cluster(scene_of(fleet, cluster=of_cluster.oid, group="")))
    for oid in fleet.nodes:
        check(explain_node(scene_of(fleet, cluster="east", node=oid)))


def check(found: list[Statement]) -> None:
    """What holds for every explanation."""
    assert found and len(found) <= MAX_STATEMENTS
    assert all(each.code in CAUSES or each.code in FACTS for each in found)
    assert all(0 < len(each.text) <= MAX_TEXT for each in found)
    assert is_well(found) is (found[-1].code == "nothing_wrong")


def test_statements_are_bounded() -> None:
    told = Told()
    for number in range(200):
        told.say("failing", f"{number} " + "x" * 5_000)
    found = told.all("")
    assert len(found) <= MAX_STATEMENTS and max(len(each.text) for each in found) <= MAX_TEXT
    assert found[-1].code == "more"
    assert not set(CAUSES) & set(FACTS)


def test_the_page_names_every_code() -> None:
    page = (Path(__file__).parents[4] / "docs" / "howto" / "why.md").read_text()
    for code, meaning in {**CAUSES, **FACTS}.items():
        assert f"| `{code}` | {meaning} |" in page
