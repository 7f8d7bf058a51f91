"""SIGKILL of each service: the state is restored, and only a killed worker is restarted."""

from __future__ import annotations

import time

import pytest

from tests.faults.census import until
from tests.faults.yard import Yard
from tests.pace import within

pytestmark = pytest.mark.timeout(120)


@pytest.mark.fault(1, "D C K")
def test_a_killed_manager_affects_no_worker_and_keeps_all_it_acknowledged(here: Yard) -> None:
    cluster = here.cluster(4)
    before = cluster.running(4)
    here.kill("manager")
    time.sleep(4 * here.stack.heartbeat)  # long enough for the manager to react
    cluster.kept(before)
    here.start_manager()
    cluster.running(4)
    cluster.kept(before)
    cluster.scale(5)
    assert before.items() <= cluster.running(5).items()
    cluster.stop()


@pytest.mark.fault(18, "K B")
def test_a_killed_agent_leaves_its_workers_running_and_adopts_them_on_restart(here: Yard) -> None:
    cluster = here.cluster(4)
    before = cluster.running(4)
    here.kill("n1")
    here.node("n1", "late", "lost")
    assert {w["state"] for w in cluster.stat()["workers"] if w["node"] == "n1"} == {"UNKNOWN"}
    cluster.kept(before)
    here.start_agent("n1")
    here.node("n1", "online")
    cluster.running(4)
    cluster.kept(before)
    victim = next(life for life in before.values() if life.node == "n1")
    here.census.kill(victim)  # an adopted worker is supervised like any other
    until(lambda: victim.key not in cluster.pids(), 5, "it is dead")
    cluster.running(4)
    cluster.stop()


@pytest.mark.fault(32, "C")
def test_a_killed_worker_is_ready_again_within_two_seconds_and_no_other_is_touched(here: Yard) -> None:
    cluster = here.cluster(3)
    before = cluster.running(3)
    victim = before["web-2"]
    mark = len(here.alice.messages)
    here.census.kill(victim)
    began = time.monotonic()
    here.alice.wait_event("on_worker_ready", timeout=10, since=mark, name="web-2")
    took = time.monotonic() - began
    assert took < within(2.0), f"it took {took:.2f} s"
    after = cluster.running(3)
    assert after["web-2"].key != victim.key
    assert {n: x.key for n, x in after.items() if n != "web-2"} == {
        n: x.key for n, x in before.items() if n != "web-2"
    }
    cluster.stop()


@pytest.mark.fault(42, "C K")
def test_everything_is_republished_to_a_killed_broker_that_comes_back_empty(here: Yard) -> None:
    cluster = here.cluster(3)
    before = cluster.running(3)
    here.kill("broker")
    time.sleep(4 * here.stack.heartbeat)
    cluster.kept(before)
    here.alice.retained.clear()
    here.start_broker()
    here.alice.status(cluster.name, "routercluster", cluster.name, "RUNNING")
    here.alice.status("_", "node", "n1", "online")
    cluster.running(3)
    cluster.kept(before)
    cluster.scale(4)
    assert before.items() <= cluster.running(4).items()
    cluster.stop()


@pytest.mark.fault((1, 18, 32, 42), "D C K")
def test_all_services_killed_at_once(here: Yard) -> None:
    cluster = here.cluster(4)
    before = cluster.running(4)
    for name in ("manager", "n1", "n2", "broker"):
        here.kill(name)
    cluster.kept(before)
    here.start_broker()
    here.start_manager()
    here.start_agent("n1")
    here.start_agent("n2")
    here.all_online()
    cluster.running(4)
    cluster.kept(before)
    cluster.stop()
