"""What a report changes about assigned workers: matching, columns, events."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.messages import NOT_REPLACED, Applied, Reported, ReportedWorker, serves
from busbar.bus.states import NodeStatus, WorkerState
from busbar.manager.ingest.report_diff import (
    FAILED,
    NodeUpdate,
    Origin,
    ReportDiff,
    conditions_of,
    diff_report,
    diff_worker,
    match,
    trusted_version,
)
from busbar.manager.store.rows import NodeRow, WorkerRow


def row(state: str = "RUNNING", name: str = "web-1", **more: Any) -> WorkerRow:
    facts: dict[str, Any] = {
        "oid": f"oid-{name}", "group_oid": "g", "cluster_oid": "c1", "name": name, "ordinal": 1,
        "state": WorkerState(state), "reason": None, "node_oid": "n1", "last_node_oid": None, "generation": 2,
        "unassigned_version": 7 if state == "STOPPING" else None, "address": None, "pid": 5, "restarts": 0,
        "changed": 0, "version": 1,
    }  # fmt: skip
    return WorkerRow(**(facts | more))


def seen(state: str = "RUNNING", worker: str = "web-1", **more: Any) -> ReportedWorker:
    return ReportedWorker(**({"worker": worker, "state": state, "generation": 2, "pid": 5} | more))


CLUSTERS = {"c1": "edge", "c2": "core"}


@pytest.mark.parametrize(
    ("reported", "meant"),
    [
        (seen(oid="oid-web-1", worker="api-9"), ["oid-web-1"]),
        (seen(oid="stranger"), []),
        (seen(cluster="edge"), ["oid-web-1"]),
        (seen(cluster="core"), ["other"]),
        (seen(cluster="nowhere"), []),
        (seen(worker="api-1"), ["oid-api-1"]),
        (seen(), []),
    ],
    ids=["oid", "strange oid", "cluster", "other cluster", "no cluster", "unique name", "name of two"],
)
def test_match(reported: ReportedWorker, meant: list[str]) -> None:
    rows = [row(), row(oid="other", cluster_oid="c2"), row(name="api-1")]
    assert list(match(rows, [reported], CLUSTERS)) == meant


@pytest.mark.parametrize(
    ("before", "report", "state", "verbs"),
    [
        (row("STARTING"), seen(), "RUNNING", ["ready"]),
        (row("UNKNOWN"), seen(), "RUNNING", ["ready"]),
        (row("BACKOFF"), seen(restarts=1), "RUNNING", ["ready"]),
        (row("BACKOFF"), seen(restarts=2), "RUNNING", ["failed", "ready"]),
        (row("BACKOFF"), seen("STARTING", restarts=1), "STARTING", ["starting"]),
        (row(), seen(restarts=1), "RUNNING", ["failed", "ready"]),
        (row(restarts=3), seen(restarts=3, pid=6), "RUNNING", []),
        (row(), seen("BACKOFF"), "BACKOFF", ["failed"]),
        (row("BACKOFF"), seen("BACKOFF", restarts=1), "BACKOFF", ["failed"]),
        (row("BACKOFF"), seen("BACKOFF", reason="again"), "BACKOFF", []),
        (row("BACKOFF"), seen("STARTING"), "STARTING", ["starting"]),
        (row(), seen("STARTING", restarts=1), "STARTING", ["failed", "starting"]),
        (row(), seen("STOPPING"), "STARTING", ["starting"]),
        (row(), seen("STOPPED"), "STARTING", ["starting"]),
        (row(), seen("running", pid=6), "RUNNING", []),
        (row(), None, "STARTING", ["starting"]),
        (row("UNKNOWN"), None, "STARTING", ["starting"]),
        (row("UNKNOWN"), seen(generation=1), "STARTING", ["starting"]),
        (row("STARTING"), seen(generation=0), "RUNNING", ["ready"]),
    ],
)
def test_diff_of_a_worker_that_is_to_run(
    before: WorkerRow, report: ReportedWorker | None, state: str, verbs: list[str]
) -> None:
    diff = diff_worker(before, report, applied=9, live=True)
    assert diff is not None and diff.gone is None
    assert diff.columns.get("state", before.state) == state
    assert [verb for verb, _ in diff.events] == verbs


@pytest.mark.parametrize(
    ("before", "report"),
    [
        (row(), seen()),
        (row("STARTING"), None),
        (row("STARTING"), seen(generation=1)),
        (row(), seen("DREAMING")),
        (row("STOPPED"), seen()),
    ],
)
def test_no_diff(before: WorkerRow, report: ReportedWorker | None) -> None:
    assert diff_worker(before, report, applied=9, live=True) is None


def test_why_a_node_keeps_the_former_process_is_told_for_as_long_as_it_holds() -> None:
    said = f"{NOT_REPLACED}/transport/endpoint/tls/key: can't read it"
    kept = seen(generation=1, reason=said, pid=4, address="mqtt://n1:1001")
    diff = diff_worker(row("STARTING"), kept, applied=9, live=True)
    process = {"address": kept.address, "pid": kept.pid}
    assert diff is not None and (diff.columns, diff.events) == ({"reason": said, **process}, ())
    before = row("STARTING", reason=said, **process)
    assert serves(before.state, before.reason) and not serves("STARTING", "not ready yet: no")
    assert diff_worker(before, kept, applied=9, live=True) is None
    ended = diff_worker(before, seen("BACKOFF", generation=1, reason=said), applied=9, live=True)
    assert ended is not None and (ended.columns["address"], ended.columns["pid"]) == (None, None)
    replaced = diff_worker(before, seen("STOPPING", generation=1, reason="new"), applied=9, live=True)
    assert replaced is not None and replaced.columns == {"reason": None, "address": None, "pid": None}, (
        "to end"
    )
    outdated = seen(generation=1, reason="restarted: exit code 1")
    assert diff_worker(row("STARTING"), outdated, applied=9, live=True) is None
    later = diff_worker(row("STARTING", reason=said), seen("STARTING"), applied=9, live=True)
    assert later is not None and later.columns["reason"] is None


@pytest.mark.parametrize("state", ["RUNNING", "UNKNOWN", "STARTING", "BACKOFF"])
def test_what_is_not_live_proves_no_running(state: str) -> None:
    assert diff_worker(row(state), seen("RUNNING", pid=9), applied=9, live=False) is None


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    ("report", "applied", "gone"),
    [(None, 7, True), (None, 8, True), (None, 6, False), (None, -1, False), (seen("stopped"), 7, True),
     (seen("STOPPED"), 6, False), (seen(), 7, False), (seen("STOPPING"), 9, False),
     (seen(generation=1), 9, False)],
)  # fmt: skip
def test_diff_of_a_worker_that_is_to_stop(
    report: ReportedWorker | None, applied: int, gone: bool, live: bool
) -> None:
    diff = diff_worker(row("STOPPING"), report, applied, live)
    assert (diff is not None and diff.gone is not None) is gone


@pytest.mark.fault(68, "H")
@pytest.mark.parametrize("before", [None, "does not answer: no answer within 2 s", "restarted: exit code 1"])
@pytest.mark.parametrize("now", [None, "does not answer: nothing listens"])
def test_the_reason_of_a_running_worker_is_the_one_that_its_agent_gives_now(
    before: str | None, now: str | None
) -> None:
    known = diff_worker(row("RUNNING", reason=before), seen(reason=now), 1, True)
    assert (before if known is None else known.columns.get("reason", before)) == now


def test_a_reason_does_not_outlive_its_state() -> None:
    known = diff_worker(row("UNKNOWN", reason="node n1 is late"), seen(), 1, True)
    assert known is not None and known.columns["reason"] is None
    same = diff_worker(row("STARTING", reason="n1 has room"), seen("STARTING", pid=9), 1, True)
    assert same is not None and "reason" not in same.columns
    for over in ("queued: start limit reached", "not ready yet: nothing listens on 127.0.0.1:1"):
        begun = diff_worker(row("STARTING", reason=over), seen("STARTING", pid=9), 1, True)
        assert begun is not None and begun.columns["reason"] is None
    failed = diff_worker(row(), seen("BACKOFF"), 1, True)
    assert failed is not None and failed.columns["reason"] == "its process ended"


@pytest.mark.parametrize(
    ("store", "applied", "version", "words"),
    [
        ("s1", Applied(3, 8), 8, None),
        (None, Applied(0, 0), 0, None),
        ("s1", Applied(2, 8), 8, None),
        ("s1", Applied(4, 8), -1, "epoch 4, newer than this manager's 3"),
        ("s1", Applied(9, 8), 8, None),
        ("s1", Applied(8, 8), -1, "newer than this manager's 3"),
        ("s2", Applied(3, 8), -1, "another manager's store (s2, not s1)"),
    ],
)
def test_trusted_version_and_conditions(
    store: str | None, applied: Applied, version: int, words: str | None
) -> None:
    report = Reported(boot="b", conn=1, workers=[], store=store, applied=applied)
    assert trusted_version(report, Origin("s1", 3), 9) == version
    found = conditions_of(report, Origin("s1", 3), 9)
    assert (words in found[0]) if words else not found


# --- whole updates


def node(**more: Any) -> NodeRow:
    facts: dict[str, Any] = {
        "oid": "n1", "name": "n1", "labels": {}, "status": NodeStatus.ONLINE, "reason": None, "boot": "b",
        "conn": 1, "goodbye": False, "runtimes": [], "capacity": None, "conditions": [],
        "assignment_version": 8, "applied_epoch": 0, "applied_version": 0, "changed": 0, "version": 1,
    }  # fmt: skip
    return NodeRow(**(facts | more))


def report(*workers: ReportedWorker, applied: Applied = Applied(3, 8), **more: Any) -> Reported:  # noqa: B008
    facts: dict[str, Any] = {"boot": "b", "conn": 1, "store": "s1", "applied": applied}
    return Reported(workers=[*workers], **(facts | more))


def diff(of: NodeRow, *rows: WorkerRow, **update: Any) -> ReportDiff:
    return diff_report(of, rows, CLUSTERS, NodeUpdate(**({"columns": {}} | update)), Origin("s1", 3))


def test_a_report_changes_what_differs() -> None:
    told = report(seen("BACKOFF"), runtimes=["b", "a", "a"], capacity={"max_workers": 2}, conditions=["full"])
    found = diff(node(), row(), columns={"conn": 2, "boot": "b"}, report=told, live=True, conditions=("two",))
    assert found.columns == {
        "conn": 2,
        "applied_epoch": 3,
        "applied_version": 8,
        "runtimes": ["a", "b"],
        "capacity": {"max_workers": 2},
        "conditions": ["full", "two"],
    }
    ((of, change),) = found.workers
    assert of.oid == "oid-web-1" and change.columns["state"] == "BACKOFF"
    assert list(found.measured) == ["oid-web-1"] and found.assignment is None


def test_labels_are_taken_from_the_first_report_alone() -> None:
    told = report(labels={"zone": "a"})
    assert diff(node(labels=None), report=told, live=True).columns["labels"] == {"zone": "a"}
    assert "labels" not in diff(node(labels={}), report=told, live=True).columns
    assert "labels" not in diff(node(labels=None), report=report(), live=True).columns


def test_labels_that_no_operation_would_set_are_not_taken() -> None:
    """What is exported has to be accepted again; a node that reports much takes no more room than others."""
    odd = {"Rack 7": "x", "a\nb": "x", "long": "x" * 257, "zone": "a"}
    assert diff(node(labels=None), report=report(labels=odd), live=True).columns["labels"] == {"zone": "a"}
    many = {f"l{number:03d}": "x" for number in range(500)}
    taken = diff(node(labels=None), report=report(labels=many), live=True).columns["labels"]
    assert list(taken) == list(many)[:64]


def test_without_a_report_only_the_nodes_own_columns_change() -> None:
    found = diff(node(), row("STOPPING"), columns={"goodbye": True, "boot": "b"})
    assert (found.columns, [*found.workers], found.assignment) == ({"goodbye": True}, [], None)


def test_an_unpaired_node_is_believed_in_what_is_gone_alone() -> None:
    told = report(seen("BACKOFF"), runtimes=["a"], conditions=["full"])
    rows = [row(), row("STOPPING", name="web-2"), row("RUNNING", name="web-3")]
    found = diff(node(status=NodeStatus.UNPAIRED), *rows, report=told, live=True, conditions=("two",))
    assert found.columns == {"applied_epoch": 3, "applied_version": 8}
    ((of, change),) = found.workers
    assert of.name == "web-2" and change.gone and found.measured == {}


def test_what_is_not_live_changes_no_worker_that_is_to_run_and_measures_nothing() -> None:
    rows = [row(), row("STOPPING", name="web-2")]
    found = diff(node(), *rows, report=report(seen("BACKOFF"), runtimes=["a"]))
    assert [of.name for of, _ in found.workers] == ["web-2"] and found.measured == {}
    assert found.columns["runtimes"] == ["a"]


@pytest.mark.parametrize(
    ("store", "applied", "words"),
    [
        ("s2", Applied(3, 8), "follows another manager's store (s2)"),
        ("s1", Applied(4, 8), "follows epoch 4, newer than this manager's 3"),
        ("s1", Applied(3, 8), None),
    ],
)
def test_a_node_that_follows_another_manager_says_so_and_nothing_is_gone_by_it(
    store: str, applied: Applied, words: str | None
) -> None:
    found = diff(node(), row("STOPPING"), report=report(applied=applied, store=store), live=True)
    assert found.columns.get("refuses") == words
    assert ("applied_version" in found.columns) == (words is None)
    assert len(found.workers) == (words is None)


LAST = 2**53


@pytest.mark.parametrize(
    ("store", "applied", "diverged", "assignment"),
    [
        ("s1", Applied(3, 8), True, None),
        ("s1", Applied(2, 99), True, None),
        ("s1", Applied(3, 9), False, {"assignment_version": 9}),
        ("s1", Applied(3, LAST - 1), False, {"assignment_version": LAST - 1}),
        ("s1", Applied(3, LAST), False, {"assignment_epoch": 4}),
        ("s1", Applied(4, 0), False, None),
        ("s1", Applied(4, 0), True, {"assignment_epoch": 5}),
        ("s1", Applied(LAST - 1, 0), True, {"assignment_epoch": LAST}),
        ("s1", Applied(LAST, 0), True, None),
        ("s2", Applied(3, 9), True, None),
        (None, Applied(3, 9), True, None),
    ],
)
def test_a_forged_assignment_is_superseded_and_a_newer_managers_is_not(
    store: str | None, applied: Applied, diverged: bool, assignment: dict[str, int] | None
) -> None:
    told = report(applied=applied, store=store)
    assert diff(node(), report=told, live=True, diverged=diverged).assignment == assignment


def test_an_assignment_above_the_nodes_own_epoch_is_superseded() -> None:
    """The node was given epoch 6 before, to supersede another."""
    of = node(assignment_epoch=6)
    assert diff(of, report=report(applied=Applied(6, 9)), live=True).assignment == {"assignment_version": 9}
    assert diff(of, report=report(applied=Applied(5, 99)), live=True).assignment is None


def test_updates_that_wait_together_become_one() -> None:
    first = NodeUpdate({"conn": 1, "boot": "a"}, report(), True, ("x",), True)
    birth = NodeUpdate({"conn": 2})
    assert first.merge(birth) == NodeUpdate({"conn": 2, "boot": "a"}, first.report, True, ("x",), True)
    assert birth == NodeUpdate({"conn": 2}, None, False, (), False)
    second = NodeUpdate({"conn": 3}, report(seen()), False)
    assert first.merge(second) == NodeUpdate({"conn": 3, "boot": "a"}, second.report, False, (), False)


def test_a_failure_has_its_reason_in_its_event() -> None:
    for told, words in ((seen("BACKOFF", reason="exit code 1"), "exit code 1"), (seen("BACKOFF"), FAILED)):
        found = diff_worker(row(), told, 1, True)
        assert found is not None and found.events == (("failed", words),)


def test_a_ready_worker_is_measured_anew() -> None:
    told = seen(pid=6, address="tcp://x", restarts=0, reason="restarted: x")
    found = diff_worker(row(), told, 1, True)
    assert found is not None and found.columns == {"pid": 6, "address": "tcp://x", "reason": "restarted: x"}
    absent = diff_worker(row(address="tcp://x"), None, 1, True)
    assert absent is not None and (absent.columns["pid"], absent.columns["address"]) == (None, None)


def test_conditions_are_those_of_the_agent_and_what_it_refused() -> None:
    told = report(conditions=["full"], refused="assignment 1/2 refused")
    assert conditions_of(told, Origin("s1", 3), 9) == [
        "full",
        "it refused the assignment: assignment 1/2 refused",
    ]
