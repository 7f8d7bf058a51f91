"""Rows in, statuses and assignments out; and what is mended on the broker."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from busbar.bus.decode import encode, read
from busbar.bus.messages import Assignment
from busbar.bus.states import ClusterState, NodeStatus, WorkerState
from busbar.manager.publish import render
from busbar.manager.publish.retained_audit import compare
from busbar.manager.store.retention import Bounds
from busbar.manager.store.rows import AssignedRow, ClusterRow, GroupRow, NodeRow, WorkerRow
from hypothesis import given
from hypothesis import strategies as st

STAMP = render.Stamp(7, 1050)


def node(**more: Any) -> NodeRow:
    facts: dict[str, Any] = dict.fromkeys(NodeRow.__struct_fields__)
    facts |= {"oid": "o", "name": "n1", "status": NodeStatus.ONLINE, "conditions": [], "runtimes": []}
    return NodeRow(
        **facts | {"assignment_version": 42, "assignment_epoch": 0, "changed": 0, "version": 3} | more
    )


def worker(**more: Any) -> WorkerRow:
    facts: dict[str, Any] = dict.fromkeys(WorkerRow.__struct_fields__)
    facts |= {"oid": "w", "name": "web-1", "state": WorkerState.RUNNING, "restarts": 0, "generation": 3}
    return WorkerRow(**facts | {"changed": 1_600_000_000_000_000_000, "version": 9} | more)


def group(**more: Any) -> GroupRow:
    facts: dict[str, Any] = dict.fromkeys(GroupRow.__struct_fields__)
    facts |= {
        "oid": "g",
        "name": "web",
        "scale": 4,
        "status": ClusterState.DEGRADED,
        "reason": "3 of 4 are ready",
    }
    return GroupRow(**facts | {"changed": 0, "version": 9} | more)


def test_the_order_of_listeners_is_part_of_a_worker_s_digest() -> None:
    def told(*names: str) -> str:
        transport = {"type": "mqtt", "listeners": {name: {} for name in names}}
        row = AssignedRow("web-1", "oid", "edge", "web", 1, "mosquitto", transport)
        return render.assignment(node(), [row], "s1", 7, 5000).workers[0].digest

    assert told("mqtt", "ws") == told("mqtt", "ws") != told("ws", "mqtt")


def test_a_group_s_status_has_the_contract_s_members() -> None:
    troubled = [("web-4", "BACKOFF", "exit code 1, next try in 4 s", "n1")]
    endpoints = [("web-1", "n1", "ws://10.0.0.5:8080/ws", "ws")]
    status = render.group_status(group(), "edge", {"RUNNING": 3, "BACKOFF": 1}, troubled, endpoints, STAMP)
    assert (status.version, status.epoch, status.sequence) == (9, 7, "0000001050")
    assert (status.status, status.name, status.scale, status.ready) == ("DEGRADED", "web", 4, 3)
    assert status.conditions == ["worker web-4: restarting, exit code 1, next try in 4 s"]
    found = read(encode(status), dict)
    assert found["endpoints"] == [
        {"worker": "web-1", "node": "n1", "url": "ws://10.0.0.5:8080/ws", "name": "ws"}
    ]


@pytest.mark.fault(94, "U")
@given(
    status=st.sampled_from([ClusterState.RUNNING, ClusterState.DEGRADED, ClusterState.ERROR]),
    stored=st.sampled_from(["all 4 workers are ready", "2 of 4 workers are ready; web-3 is BACKOFF", None]),
    states=st.lists(st.sampled_from(["RUNNING", "PENDING", "BACKOFF", "UNKNOWN"]), min_size=1, max_size=5),
)
def test_a_status_gives_the_reason_that_holds_now(
    status: ClusterState, stored: str | None, states: list[str]
) -> None:
    not_ready = [(f"web-{n}", state, None, None) for n, state in enumerate(states) if state != "RUNNING"]
    row = group(status=status, reason=stored, scale=len(states))
    counts = Counter(states)
    reason = render.group_status(row, "edge", counts, not_ready, [], STAMP).reason or ""
    ready, scale = counts["RUNNING"], len(states)
    if ready < scale:
        told = "its worker is not ready" if scale == 1 else f"{ready or 'none'} of {scale} workers"
        assert reason.startswith(told)
        assert f"; {not_ready[0][0]} is {not_ready[0][1]}" in reason
    elif status is ClusterState.RUNNING:
        assert reason == ("its worker is ready" if scale == 1 else f"all {scale} workers are ready")


def test_an_order_stays_the_reason_until_the_workers_decide() -> None:
    row = group(status=ClusterState.STARTING, reason="started by alice")
    assert render.group_status(row, "edge", {"PENDING": 4}, [], [], STAMP).reason == "started by alice"


def test_conditions_are_few_and_a_plain_start_is_none() -> None:
    plain = [("web-1", "STARTING", None, None), ("web-2", "STARTING", "port 80 is taken", None)]
    assert render.worker_conditions(plain) == ["worker web-2: starting, port 80 is taken"]
    many = [(f"web-{n}", "PENDING", "no node has room", None) for n in range(500)]
    told = render.worker_conditions(many)
    assert len(told) == render.MAX_CONDITIONS and told[-1] == "more workers are not ready"


def test_a_worker_s_status() -> None:
    status = render.worker_status(worker(pid=7, address="mqtt://h:1"), "edge", "web", "n1", STAMP)
    assert (status.status, status.conditions, status.node, status.pid) == ("RUNNING", [], "n1", 7)
    assert status.time == "2020-09-13T12:26:40.000Z"
    lost = render.worker_status(
        worker(state=WorkerState.UNKNOWN, reason="node n1 is lost"), "e", "w", None, STAMP
    )
    assert lost.conditions == ["worker web-1: unknown, node n1 is lost"]


def test_a_node_says_why_it_is_not_online() -> None:
    late = node(status=NodeStatus.LATE, reason="3 heartbeats missed", conditions=["disk almost full"])
    assert render.node_status(late, STAMP).conditions == ["late: 3 heartbeats missed", "disk almost full"]
    assert render.node_status(node(reason="heard"), STAMP).conditions == []


def test_an_assignment_is_what_an_agent_reads() -> None:
    rows = [AssignedRow("web-1", "o1", "edge", "web", 3, "crossbar", {"type": "web"})]
    wanted = render.assignment(node(), rows, "s1", 7, 5000)
    assert read(encode(wanted), Assignment) == wanted
    assert (wanted.store, wanted.epoch, wanted.version, wanted.heartbeat_ms) == ("s1", 7, 42, 5000)
    assert wanted.workers[0].digest.startswith("sha256:") and wanted.workers[0].desired == "running"
    other = [
        AssignedRow("web-1", "o1", "edge", "web", 3, "crossbar", {"type": "web", "endpoint": {"port": 1}})
    ]
    assert render.assignment(node(), other, "s1", 7, 5000).workers[0].digest != wanted.workers[0].digest


def test_an_unpaired_node_is_to_run_nothing_and_is_told_so() -> None:
    rows = [AssignedRow("web-1", "o1", "edge", "web", 3, "amqtt", None)]
    wanted = render.assignment(node(status=NodeStatus.UNPAIRED), rows, "s1", 7, 5000)
    assert b'"workers":[]' in encode(wanted)


def test_what_is_mended_on_the_broker() -> None:
    said = {"a": b"1", "b": b"2", "c": b"3"}
    assert compare(said, said, said) == compare({}, {}, {})
    wrong = compare({"a": b"1", "b": b"forged", "x": b"?"}, said, said)
    assert (wrong.unknown, wrong.stale) == (("x",), ("b", "c"))


def test_what_changed_during_the_look_is_left_alone() -> None:
    before, now = {"a": b"1", "gone": b"1"}, {"a": b"2", "new": b"1"}
    wrong = compare({"a": b"1", "gone": b"1", "new": b"1"}, before, now)
    assert (wrong.unknown, wrong.stale) == ((), ())


def test_replies_are_kept_for_a_day() -> None:
    steps = dict(Bounds().plan(now_ns=10**18))
    assert steps["requests_age"] == 10**18 - 86_400 * 10**9
    assert all(bound > 0 for bound in steps.values())


@pytest.mark.fault(112, "U")
@pytest.mark.parametrize(
    ("status", "states", "not_ready", "reason"),
    [
        (
            "DEGRADED",
            {"RUNNING": 3},
            [("web-4", "PENDING", "no room", None)],
            "3 of 4 workers are ready; web-4 is PENDING: no room",
        ),
        ("ERROR", {}, [("web-1", "BACKOFF", None, None)], "none of 4 workers are ready; web-1 is BACKOFF"),
        ("RUNNING", {"RUNNING": 4}, [], "all 4 workers are ready"),
        ("STARTING", {}, [], "the first cause"),
        ("STOPPED", {}, [], "the first cause"),
    ],
)
def test_a_reason_is_the_present_one(
    status: str, states: dict[str, int], not_ready: list[render.NotReadyWorker], reason: str
) -> None:
    """The stored one dates from the last change of status: a second cause may have followed the first."""
    row = group(status=ClusterState(status), reason="the first cause", revision=1, settled=1)
    assert render.group_status(row, "edge", states, not_ready, [], STAMP).reason == reason
    facts: dict[str, Any] = dict.fromkeys(ClusterRow.__struct_fields__)
    facts |= {"name": "edge", "status": ClusterState(status), "reason": "the first cause"}
    cluster = ClusterRow(**facts | {"changed": 0, "version": 9})
    assert render.cluster_status(cluster, 4, states, not_ready, STAMP).reason == reason


@pytest.mark.fault(112, "U")
def test_a_stopped_group_has_no_update_that_is_held_back() -> None:
    facts = {"revision": 2, "settled": 1, "held_back": "web-1 stays as it is: no room"}
    assert "no room" in render.update_condition(group(**facts), 1, ())
    assert "no room" not in render.update_condition(group(status=ClusterState.STOPPED, **facts), 1, ())


def test_a_group_of_nats_that_is_too_small_for_a_cluster_says_so() -> None:
    member = {"type": "mqtt", "listeners": {"mqtt": {}, "routes": {"type": "cluster"}}}

    def said(transport: Any = member, runtime: str = "nats", **more: Any) -> list[str]:
        row = group(runtime=runtime, **more)
        return render.small_cluster_conditions(row, transport)

    assert said(scale=1)[0].startswith("scale 1: a new cluster of nats serves no MQTT with fewer than 2")
    assert "fewer than 3" in said({**member, "options": {"members": 5}}, scale=2)[0]
    assert said(scale=2) == said(scale=0) == said(scale=1, status=ClusterState.STOPPED) == []
    assert said({"type": "mqtt"}, scale=1) == said(scale=1, runtime="mosquitto") == said(None, scale=1) == []
