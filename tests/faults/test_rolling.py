"""Faults during a rolling update: the manager killed at each step, a lost node, a newer update."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import serving
from tests.faults.census import until
from tests.faults.failing import AFTER, BEFORE, command
from tests.faults.yard import Cluster, Yard
from tests.pace import bound

pytestmark = pytest.mark.timeout(180)

POINTS = ("before_commit", "after_commit")


def _dies(here: Yard) -> None:
    """Wait until the manager has died at its failpoint."""
    assert here.stack.processes.pop("manager").wait(bound(20)) == -9


def _wish(cluster: Cluster, port: int) -> dict[str, Any]:
    transport = {"type": "tcp", "endpoint": {"type": "tcp", "port": f"{port}-{port + 19}"}}
    params = {"routercluster_oid": cluster.oid, "workergroup_oid": cluster.group}
    return {**params, "workergroup": {"transport": transport}}


@pytest.mark.fault(6, "B C D")
def test_the_manager_is_killed_at_each_step_of_an_update(here: Yard) -> None:
    """Around the commits of the request, of each worker's replacement, and of the completion."""
    cluster = here.cluster(3)
    before = cluster.running(3)
    wish = _wish(cluster, 27000)
    with serving.watching(lambda: cluster.ports().values()) as asked:
        for request_id in (f"{BEFORE}update", f"{AFTER}update"):
            if "manager" in here.stack.processes:
                here.kill("manager")
            here.start_manager(*command("commits"))
            here.manager_is_up()
            here.alice.push("update_routercluster_workergroup", wish, request_id)
            _dies(here)
        steps = [("replace", point) for _ in range(3) for point in POINTS] + [("complete_rollout", p) for p in POINTS]
        for action, point in steps:
            here.start_manager(*command(f"step:{action}:{point}"))
            _dies(here)
        here.start_manager()
        again = here.alice.ask("update_routercluster_workergroup", wish, id=f"{AFTER}update")
        assert again["ok"] and again["result"]["revision"] == 2, "it was acknowledged once, and applied once"
        after = cluster.updated(2)
    assert asked.least == 2 and asked.looks > 10, "one at a time, and no more"
    assert all(27000 <= port < 27020 for port in cluster.ports().values())
    assert here.census.most[cluster.name] == 3
    started = here.census.ever(cluster.name) - {life.key for life in before.values()}
    assert started == {life.key for life in after.values()}, "each was replaced once"
    told = {e["id"]: e["type"] for e in here.alice.events() if e["data"].get("oid") == cluster.group}
    assert list(told.values()).count("busbar.on_workergroup_updated") == 1
    here.check()
    cluster.stop()


@pytest.mark.fault(53, "B C K")
def test_an_update_with_a_lost_node_is_superseded_and_the_node_comes_back(here: Yard) -> None:
    cluster = here.cluster(4, lost_after=60)
    before = cluster.running(4)
    away = {name: life for name, life in before.items() if life.node == "n1"}
    here.kill("n1")
    here.node("n1", "lost")
    cluster.update(27100)
    with serving.watching(lambda: cluster.ports().values()) as asked:
        here.alice.wait_retained(
            here.alice.topic("status", cluster.name, "workergroup", "web"),
            lambda value: value.get("updated") == 0 and "UNKNOWN" in (value.get("reason") or ""),
        )
        cluster.update(27200, max_unavailable=3)
        until(lambda: _on(cluster, 27200) == 2, 15, "those that can be heard are updated")
        assert {n: x for n, x in here.census.leaders(cluster.name).items() if n in away} == away
        cluster.update(27300, max_unavailable=3)
        until(lambda: _on(cluster, 27300) == 2, 15, "the newer update has superseded it")
        here.start_agent("n1")
        after = cluster.updated(4)
    assert asked.least >= 1 and asked.looks > 3
    assert _on(cluster, 27300) == 4 and {x.node for x in after.values()} == {"n1", "n2"}
    # At most four at first, two each of both updates there, and those of n1 once; one
    # that was superseded at once may have come and gone between two scans.
    assert 4 + 2 + 2 < len(here.census.ever(cluster.name)) <= 4 + 2 + 2 + 2
    assert here.census.most[cluster.name] == 4
    here.check()
    cluster.stop()


def _on(cluster: Cluster, port: int) -> int:
    return sum(port <= each < port + 20 for each in cluster.ports().values())


@pytest.mark.fault(53, "B C")
def test_workers_of_a_lost_node_are_moved_with_the_newest_revision(here: Yard) -> None:
    cluster = here.cluster(2, lost_after=1)
    before = cluster.running(2)
    here.census.watch_doubles = False  # the documented exception: unreachable workers go on there
    here.proxies["n1"].blackhole()
    here.node("n1", "lost")
    cluster.update(27400)
    cluster.updated(2)
    assert {w["node"] for w in cluster.stat()["workers"]} == {"n2"}
    assert [x.node for x in before.values() if x.key in cluster.pids()] == ["n1"], (
        "its own worker is not touched"
    )
    here.proxies["n1"].heal()
    here.node("n1", "online")
    until(lambda: _on(cluster, 27400) == len(cluster.pids()) == 2, 10, "n1 has dropped what is elsewhere now")
    here.census.watch_doubles = True
    cluster.running(2)
    cluster.stop()


@pytest.mark.fault(53, "B C")
def test_an_update_that_does_not_become_ready_halts_and_a_newer_one_fixes_it(here: Yard) -> None:
    cluster = here.cluster(3)
    before = cluster.running(3)
    params = {"routercluster_oid": cluster.oid, "workergroup_oid": cluster.group}
    broken = {**params, "workergroup": {"runtime": "crash"}}
    with serving.watching(lambda: cluster.ports().values()) as asked:
        here.alice.sure("update_routercluster_workergroup", broken)
        topic = here.alice.topic("status", cluster.name, "workergroup", "web")
        here.alice.wait_retained(topic, lambda value: "boom" in (value.get("reason") or ""))
        assert cluster.stat()["ready"] == 2
        here.alice.sure("update_routercluster_workergroup", {**params, "workergroup": {"runtime": "serve"}})
        after = cluster.updated(3)
    assert asked.least == 2
    kept = {name for name in before if before[name].key == after[name].key}
    assert len(kept) == 2, "those not yet replaced are untouched"
    here.check()
    cluster.stop()


def test_a_surge_keeps_the_desired_number_ready(here: Yard) -> None:
    cluster = here.cluster(3)
    before = cluster.running(3)
    mark = len(here.alice.messages)
    with serving.watching(lambda: cluster.ports().values()) as asked:
        cluster.update(27500, max_unavailable=0, max_surge=1)
        after = cluster.updated(2)
    assert asked.least == 3 and asked.looks > 3, "never one fewer"
    assert here.census.most[cluster.name] == 4 and _on(cluster, 27500) == 3
    assert set(after) == set(before) and not {x.key for x in after.values()} & {
        x.key for x in before.values()
    }
    since = {e["type"] for e in _events(here, mark) if e["data"].get("name") == cluster.name}
    assert "busbar.on_routercluster_degraded" not in since
    here.check()
    cluster.stop()


def _events(here: Yard, mark: int) -> list[dict[str, Any]]:
    return [json.loads(body) for topic, body, _ in here.alice.messages[mark:] if "/event/" in topic]


@pytest.mark.fault(20, "B O C")
def test_an_agent_killed_while_it_stops_a_worker_that_is_replaced(here: Yard) -> None:
    """The old process ignores SIGTERM: it is adopted, and killed before the new one starts."""
    cluster = here.cluster(1, "stubborn", nodes=("n1",))
    (old,) = cluster.running(1).values()
    mark = here.log_mark("n1")
    cluster.update(27600)
    until(lambda: "new definition" in here.log("n1")[mark:], 10, "the stop has begun")
    here.kill("n1")
    assert cluster.pids() == {old.key}, "the stop was over before the agent could be killed"
    here.start_agent("n1")
    (new,) = cluster.updated(2).values()
    assert new.key != old.key and _on(cluster, 27600) == 1
    assert here.census.most[cluster.name] == 1
    here.check()
    cluster.stop()
