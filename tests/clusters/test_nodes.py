"""The loss of a broker node: manager and agents go to another, and no worker is touched.

Here on two bridged mosquittos; `make scale` runs it on three NATS servers and on three aedes over Redis.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clusters.fleet import BOUND_S, Fleet, fleet
from tests.faults.census import Life
from tests.faults.yard import Cluster

CLUSTERS = os.environ.get("BUSBAR_CLUSTERS", "bridge").split(",")


@pytest.mark.timeout(500)
@pytest.mark.mosquitto
@pytest.mark.parametrize("kind", CLUSTERS)
def test_broker_nodes_are_killed_and_return_and_no_worker_is_touched(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, kind) as here:
        services = here.pids()
        cluster = here.cluster(2)
        first = cluster.running(2, BOUND_S)
        more = the_managers_broker_is_lost(here, cluster, first)
        less = an_agents_broker_is_lost(here, cluster, more)
        assert here.pids() == services, "the services are the same processes"
        an_agent_dies_with_its_broker(here, cluster, less)
        cluster.stop(BOUND_S)


def the_managers_broker_is_lost(here: Fleet, cluster: Cluster, first: dict[str, Life]) -> dict[str, Life]:
    loses_its_broker(here, 0, ["manager"])
    here.alice.sure("get_manager", timeout=BOUND_S)
    cluster.scale(4)
    more = cluster.running(4, BOUND_S)
    assert first.items() <= more.items(), "those that ran go on"
    returns(here, 0)
    return more


def an_agents_broker_is_lost(here: Fleet, cluster: Cluster, more: dict[str, Life]) -> dict[str, Life]:
    node = at(here, "n1")
    loses_its_broker(here, node, ["n1"])
    cluster.scale(3)
    less = cluster.running(3, BOUND_S)
    assert less.items() <= more.items(), "those that are left go on"
    all_online(here)
    returns(here, node)
    all_online(here)
    cluster.kept(less)
    return less


def an_agent_dies_with_its_broker(here: Fleet, cluster: Cluster, before: dict[str, Life]) -> None:
    """Whether or not another node tells its will, the manager finds out, and the agent finds its workers."""
    node = at(here, "n1")
    here.brokers.nodes[node].kill()
    here.kill("n1")
    here.node("n1", "lost", timeout=BOUND_S)
    here.start_agent("n1")
    all_online(here)
    cluster.is_("RUNNING", ready=3, timeout=BOUND_S)
    cluster.kept(before)
    returns(here, node)


def at(here: Fleet, name: str) -> int:
    """The broker that a service is connected to."""
    return [f"mqtt://127.0.0.1:{port}" for port in here.brokers.ports].index(here.connected_to(name))


def loses_its_broker(here: Fleet, node: int, who: list[str]) -> None:
    """Kill a broker under some services."""
    assert who and all(at(here, name) == node for name in who)
    here.brokers.nodes[node].kill()


def returns(here: Fleet, node: int) -> None:
    here.brokers.nodes[node].start()


def all_online(here: Fleet) -> None:
    for node in here.oids:
        here.node(node, "online", timeout=BOUND_S)
