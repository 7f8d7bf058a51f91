"""Crossbar workers on one shared port: liveness is asked of each one, and never of its neighbours."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busbar.agent.planner.lifecycle import WorkerTiming
from busbar.agent.processes import procfs
from msgspec.structs import replace

from tests.agents import Bench, bench, worker
from tests.brokers import lacking
from tests.pace import bound


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


ASKED = 8
"""A probe that reached any listener would find the suspended one with a chance of 1 - 2^-8."""


def router_of(pid: int) -> int:
    """The router process of a Crossbar node: its controller's child, which listens."""
    children = [stat for each in procfs.pids() if (stat := procfs.read(each)) and stat.ppid == pid]
    (router,) = [stat.pid for stat in children if not stat.dead]
    return router


@pytest.mark.crossbar
@pytest.mark.timeout(400)
@pytest.mark.fault(63, "K H C")
async def test_a_suspended_router_process_is_restarted_and_its_neighbour_is_not(node: Bench) -> None:
    patient = WorkerTiming(live_every=0.5, live_misses=10**6)
    agent = await node.start(patient)
    if "crossbar" in agent.specs.unavailable():
        lacking(agent.specs.unavailable()["crossbar"])
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    endpoint = {"type": "tcp", "port": port, "shared": True}
    transport = {"type": "web", "realms": ["com.example.shop"], "endpoint": endpoint}
    node.assign(*(worker(name, "crossbar", transport=transport) for name in ("web-1", "web-2")))
    before = {name: (await node.state(name, "RUNNING", 60))["pid"] for name in ("web-1", "web-2")}
    os.kill(router_of(before["web-2"]), signal.SIGSTOP)
    controller = agent.supervisor.controller
    one, other = (controller.registry[f"oid-{name}"] for name in ("web-1", "web-2"))
    ask = controller.runner.probe
    assert [await ask(one, live=True, timeout_s=bound(2)) for _ in range(ASKED)] == [None] * ASKED
    assert await ask(other, live=True, timeout_s=2.0) is not None
    controller.timing = replace(patient, live_misses=3)
    again = await node.state("web-2", "RUNNING", 90, restarts=1)
    assert again["pid"] != before["web-2"] and "hung" in again["reason"]
    assert again["address"].endswith(f":{port}/ws")
    healthy = [each for report in node.reports for each in report["workers"] if each["worker"] == "web-1"]
    assert healthy[-1]["pid"] == before["web-1"] and healthy[-1]["state"] == "RUNNING"
    assert {each["restarts"] for each in healthy} == {0}
