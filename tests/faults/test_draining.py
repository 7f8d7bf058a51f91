"""Faults during a drain: the agent offline for a short or a long time, and the manager killed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import serving
from tests.faults.census import until
from tests.faults.failing import command
from tests.faults.yard import Yard
from tests.pace import bound

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(autouse=True)
def _as_before(here: Yard) -> Iterator[None]:
    yield
    here.alice.sure("undrain_node", {"node_oid": here.oids["n1"]})


def _drain(here: Yard) -> None:
    here.alice.sure("drain_node", {"node_oid": here.oids["n1"], "reason": "new disk"})


def _drain_to_death(here: Yard) -> None:
    """Retry a request with one id until the manager dies of its effects; the reply may be lost."""
    manager = here.stack.processes.pop("manager")

    def dead() -> int | None:
        here.alice.push("drain_node", {"node_oid": here.oids["n1"], "reason": "new disk"}, "drain-to-death")
        with contextlib.suppress(subprocess.TimeoutExpired):
            manager.wait(0.7)
        return manager.returncode

    assert until(dead, 20, "the manager has died of the drain") == -9


def _drained(here: Yard) -> Any:
    topic = here.alice.topic("status", "_", "node", "n1")
    return here.alice.wait_retained(topic, lambda value: value.get("drained") is True)


@pytest.mark.fault(56, "B C K")
def test_a_node_is_drained_while_its_agent_is_offline(here: Yard) -> None:
    cluster = here.cluster(4, lost_after=60)
    before = cluster.running(4)
    here.kill("n1")
    here.node("n1", "lost")  # before that its first worker would be moved
    _drain(here)

    def told() -> bool:
        node = here.alice.sure("get_node", {"node_oid": here.oids["n1"]})
        assert not node["drained"]
        return any("2 workers are to move" in text for text in node["conditions"])

    until(told, 10, "the node says how many are to move")
    cluster.kept(before)
    with serving.watching(lambda: cluster.ports().values()) as asked:
        here.start_agent("n1")
        _drained(here)
        after = cluster.running(4)
    assert {life.node for life in after.values()} == {"n2"}
    assert asked.least == 3 and asked.looks > 3, "one is moved at a time"
    kept = {name for name, life in before.items() if life.node == "n2"}
    assert {n: after[n].key for n in kept} == {n: before[n].key for n in kept}
    assert here.census.most[cluster.name] == 4
    here.check()
    cluster.stop()


@pytest.mark.fault(56, "B C H")
def test_a_draining_node_whose_agent_stays_offline_becomes_lost(here: Yard) -> None:
    cluster = here.cluster(2, lost_after=1)
    before = cluster.running(2)
    mine = {life.key for life in before.values() if life.node == "n1"}
    here.census.watch_doubles = False  # the documented exception: an unreachable worker can't be stopped
    here.proxies["n1"].blackhole()
    _drain(here)
    here.node("n1", "lost")
    cluster.is_("RUNNING", ready=2)
    assert {w["node"] for w in cluster.stat()["workers"]} == {"n2"} and mine <= cluster.pids()
    told = here.alice.sure("get_node", {"node_oid": here.oids["n1"]})
    assert not told["drained"], "it still runs its worker, unaware of the drain"
    here.proxies["n1"].heal()
    _drained(here)
    until(lambda: not mine & cluster.pids(), 10, "n1 has dropped what is elsewhere now")
    here.census.watch_doubles = True
    assert {life.node for life in cluster.running(2).values()} == {"n2"}
    cluster.stop()


@pytest.mark.fault(56, "B C")
def test_the_manager_is_killed_at_each_step_of_a_drain(here: Yard) -> None:
    cluster = here.cluster(4)
    before = cluster.running(4)
    with serving.watching(lambda: cluster.ports().values()) as asked:
        here.kill("manager")
        here.start_manager(*command("step:unassign:before_commit"))
        _drain_to_death(here)
        for step in ("place:before_commit", "unassign:after_commit", "place:after_commit"):
            here.start_manager(*command(f"step:{step}"))
            assert here.stack.processes.pop("manager").wait(bound(20)) == -9
        here.start_manager()
        _drained(here)
        after = cluster.running(4)
    assert {life.node for life in after.values()} == {"n2"}
    assert asked.least == 3 and here.census.most[cluster.name] == 4
    assert len(here.census.ever(cluster.name)) == 6, "each moved worker was started once"
    assert sum(before[name].key == life.key for name, life in after.items()) == 2
    here.check()
    cluster.stop()
