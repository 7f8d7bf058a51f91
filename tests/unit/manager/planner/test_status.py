"""Group and cluster statuses, row by row of the contract's section 5."""

from __future__ import annotations

import pytest
from busbar.bus.states import ClusterState
from busbar.manager.planner.model import GroupView, SetCluster, SetGroup
from busbar.manager.planner.status import judge_cluster, judge_group, judge_statuses
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, cluster, group, worker


def web(status: str, *states: str, scale: int | None = None, since: float = 1.0, **more: object) -> GroupView:
    """A group in `status` for `since` seconds, with workers in these states."""
    workers = [worker("web", i + 1, state, on="n1") for i, state in enumerate(states)]
    return group("web", len(states) if scale is None else scale, workers, status, since=NOW - since, **more)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (web("STOPPED"), "STARTING"),
        (web("PAUSED"), "STARTING"),
        (web("STOPPING"), "STOPPED"),
        (web("STARTING"), "RUNNING"),
        (web("STARTING", "RUNNING", "RUNNING"), "RUNNING"),
        (web("STARTING", "RUNNING", "STARTING"), "STARTING"),
        (web("STARTING", "RUNNING", scale=2), "STARTING"),
        (web("STARTING", "PENDING", since=59), "STARTING"),
        (web("STARTING", "PENDING", since=60), "ERROR"),
        (web("STARTING", "RUNNING", "BACKOFF", since=600), "STARTING"),
        (web("STARTING", "STARTING", since=20, start_deadline=10.0), "ERROR"),
        (web("RUNNING", "RUNNING"), "RUNNING"),
        (web("RUNNING", "RUNNING", "UNKNOWN"), "DEGRADED"),
        (web("RUNNING", "UNKNOWN"), "DEGRADED"),
        (web("RUNNING", "RUNNING", scale=2), "DEGRADED"),
        (web("RUNNING", "RUNNING", "RUNNING", "STOPPING", scale=2), "RUNNING"),
        (web("RUNNING", "RUNNING", "STOPPING", "RUNNING", scale=2), "DEGRADED"),
        (web("DEGRADED", "RUNNING", "RUNNING"), "RUNNING"),
        (web("DEGRADED", "RUNNING", "BACKOFF", since=999), "DEGRADED"),
        (web("DEGRADED", "BACKOFF", since=59), "DEGRADED"),
        (web("DEGRADED", "BACKOFF", since=60), "ERROR"),
        (web("DEGRADED", "BACKOFF", since=999, none_ready_since=NOW - 5), "DEGRADED"),
        (web("DEGRADED", "BACKOFF", since=999, none_ready_since=NOW - 61), "ERROR"),
        (web("DEGRADED", "BACKOFF", since=5, none_ready_since=NOW - 99), "DEGRADED"),
        (web("ERROR", "BACKOFF", since=999), "ERROR"),
        (web("ERROR", "BACKOFF", since=1), "ERROR"),
        (web("ERROR", "RUNNING", "BACKOFF"), "DEGRADED"),
        (web("ERROR", "RUNNING", "RUNNING"), "RUNNING"),
        (web("ERROR"), "RUNNING"),
    ],
)
@pytest.mark.parametrize("of", ["STARTING", "RUNNING", "DEGRADED", "ERROR"])
def test_a_group_of_a_started_cluster(view: GroupView, expected: str, of: str) -> None:
    status, reason = judge_group(view, cluster(view, status=of), NOW)
    assert status is ClusterState(expected)
    assert reason


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (web("STARTING", "STARTING"), "STOPPING"),
        (web("RUNNING"), "STOPPING"),
        (web("DEGRADED", "BACKOFF"), "STOPPING"),
        (web("ERROR", "PENDING"), "STOPPING"),
        (web("STOPPING", "STOPPING", "STOPPED"), "STOPPING"),
        (web("STOPPING", "STOPPED", "STOPPED"), "STOPPED"),
        (web("STOPPING", scale=3), "STOPPED"),
        (web("STOPPED", "STOPPED"), "STOPPED"),
    ],
)
@pytest.mark.parametrize("of", ["STOPPING", "STOPPED"])
def test_a_group_of_a_cluster_that_is_to_stop(view: GroupView, expected: str, of: str) -> None:
    assert judge_group(view, cluster(view, status=of), NOW)[0] is ClusterState(expected)


@pytest.mark.parametrize(
    ("of", "groups", "expected"),
    [
        ("STARTING", [], "RUNNING"),
        ("STARTING", [web("RUNNING", "RUNNING")], "RUNNING"),
        ("STARTING", [web("RUNNING", "RUNNING"), web("STARTING", "STARTING")], "STARTING"),
        ("STARTING", [web("RUNNING", "RUNNING"), web("ERROR", "BACKOFF")], "STARTING"),
        ("STARTING", [web("ERROR", "BACKOFF")], "ERROR"),
        ("STARTING", [web("ERROR", "BACKOFF"), web("RUNNING", scale=0)], "ERROR"),
        ("STARTING", [web("ERROR", "BACKOFF"), web("STARTING", "STARTING")], "STARTING"),
        ("RUNNING", [], "RUNNING"),
        ("RUNNING", [web("RUNNING", "RUNNING"), web("DEGRADED", "BACKOFF")], "DEGRADED"),
        ("RUNNING", [web("RUNNING", "RUNNING"), web("STARTING", "STARTING")], "DEGRADED"),
        ("RUNNING", [web("RUNNING", "RUNNING"), web("ERROR", "BACKOFF")], "DEGRADED"),
        ("RUNNING", [web("ERROR", "BACKOFF")], "ERROR"),
        ("DEGRADED", [web("RUNNING", "RUNNING")], "RUNNING"),
        ("DEGRADED", [web("ERROR", "UNKNOWN")], "ERROR"),
        ("ERROR", [web("ERROR", "BACKOFF")], "ERROR"),
        ("ERROR", [web("ERROR", "BACKOFF"), web("STARTING", "STARTING")], "ERROR"),
        ("ERROR", [web("DEGRADED", "RUNNING", "BACKOFF")], "DEGRADED"),
        ("ERROR", [web("RUNNING", "RUNNING")], "RUNNING"),
        ("STOPPING", [], "STOPPED"),
        ("STOPPING", [web("STOPPED", "STOPPED")], "STOPPED"),
        ("STOPPING", [web("STOPPED", "STOPPED"), web("STOPPING", "STOPPING")], "STOPPING"),
        ("STOPPING", [web("STOPPED", "STOPPING")], "STOPPING"),
        ("STOPPED", [], "STOPPED"),
        ("STOPPED", [web("STOPPED", "STOPPED")], "STOPPED"),
        ("PAUSED", [web("RUNNING", "RUNNING")], "PAUSED"),
    ],
)
def test_a_cluster(of: str, groups: list[GroupView], expected: str) -> None:
    named = [replace(each, oid=f"g{i}") for i, each in enumerate(groups)]
    after = {each.oid: each.status for each in named}
    assert judge_cluster(cluster(*named, status=of), after)[0] is ClusterState(expected)


def test_statuses_have_their_reasons() -> None:
    view = replace(
        web("RUNNING", "RUNNING", "BACKOFF", "RUNNING"),
        workers=(
            worker("web", 1, on="n1"),
            worker("web", 2, "BACKOFF", on="n1", reason="exit code 1, next try in 4 s"),
            worker("web", 3, on="n1"),
        ),
    )
    reason = "2 of 3 workers are ready; web-2 is BACKOFF: exit code 1, next try in 4 s"
    assert judge_statuses(cluster(view), NOW) == [
        SetGroup("web", ClusterState.DEGRADED, reason),
        SetCluster("edge", ClusterState.DEGRADED, reason),
    ]


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (web("STARTING"), "no worker is asked for"),
        (web("STARTING", "RUNNING"), "its worker is ready"),
        (web("STARTING", "RUNNING", "RUNNING"), "all 2 workers are ready"),
        (web("RUNNING", "RUNNING", scale=3), "1 of 3 workers is ready"),
        (web("STARTING", "PENDING", since=61), "its worker is not ready after 60 s; web-1 is PENDING"),
    ],
)
def test_reasons(view: GroupView, reason: str) -> None:
    assert judge_group(view, cluster(view), NOW)[1] == reason


def test_a_group_that_starts_with_its_cluster_runs_in_one_pass_after_the_other() -> None:
    (first, *rest) = judge_statuses(cluster(web("STOPPED", "RUNNING"), status="STARTING"), NOW)
    assert first == SetGroup("web", ClusterState.STARTING, "its cluster is started")
    assert rest == []
