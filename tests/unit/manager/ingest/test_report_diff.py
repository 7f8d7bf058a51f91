"""What a report changes about assigned workers: matching, columns, events."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.messages import Applied, Reported, ReportedWorker
from busbar.bus.states import WorkerState
from busbar.manager.ingest.report_diff import Origin, conditions_of, diff_worker, match, trusted_version
from busbar.manager.store.rows import WorkerRow


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
