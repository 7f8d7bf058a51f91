"""What nodes are told of a meshed group's workers, with a real store."""

from __future__ import annotations

import json
from pathlib import Path

from busbar.bus.decode import digest
from busbar.bus.messages import MeshSeen
from busbar.manager.publish import render
from busbar.manager.publish.statuses import StatusBuilder

from tests.integration.watching import Watch, fleet, watching

STARTING = {"state": "STARTING"}


def peers(watch: Watch, node: str) -> list[str]:
    """`worker at node` of every peer in a node's assignment."""
    row = watch.node(node)
    rows = watch.store.reads.assigned(row.oid)
    wanted = render.assignment(row, rows, watch.store.id, watch.store.epoch, 5000)
    found = wanted.peers if isinstance(wanted.peers, dict) else {}
    assert set(found) <= {"edge/web"}
    return [f"{peer.worker} at {peer.listeners['default']}" for peer in found.get("edge/web", [])]


async def test_workers_are_told_of_each_other_before_they_are_ready(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2, obey=False, mesh=True)
        await watch.rest()
        assert peers(watch, "n1") == []
        for agent, worker in zip(agents, ("web_1", "web_2"), strict=True):
            agent.obey(**{worker: STARTING})
        await watch.pass_time(2, *agents)
        both = ["web-1 at mqtt://n1:1001", "web-2 at mqtt://n2:1002"]
        assert peers(watch, "n1") == peers(watch, "n2") == both


async def test_a_silent_node_is_no_peers_home_after_three_heartbeats_and_is_one_again(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2, lost_after=600.0, mesh=True)
        await watch.pass_time(60, *agents)
        generations = {row.name: row.generation for row in watch.store.reads.workers()}
        assert len(peers(watch, "n1")) == 2
        await watch.pass_time(17, agents[0])
        assert peers(watch, "n1") == ["web-1 at mqtt://n1:1001"]
        agents[1].beat()
        await watch.pass_time(2, *agents)
        assert len(peers(watch, "n1")) == 2
        assert {row.name: row.generation for row in watch.store.reads.workers()} == generations


async def test_peers_change_no_digest(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2, mesh=True)
        await watch.pass_time(2, *agents)
        row = watch.node("n1")
        rows = watch.store.reads.assigned(row.oid)
        wanted = render.assignment(row, rows, watch.store.id, watch.store.epoch, 5000)
        assert [each.digest for each in wanted.workers] == [digest("amqtt", None)]


async def test_many_reports_within_a_second_are_one_message_to_each_node(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=20, obey=False, mesh=True)
        await watch.pass_time(2, *agents)
        before = watch.node("n1").assignment_version
        for ordinal in range(1, 21):
            agents[(ordinal - 1) % 2].obey(**{f"web_{ordinal}": STARTING})
            await watch.rest()
        await watch.pass_time(2, *agents)
        assert len(peers(watch, "n1")) == 20
        assert watch.node("n1").assignment_version - before <= 2


async def test_who_is_not_connected_to_whom_is_a_condition_for_as_long_as_it_is_so(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2, mesh=True)

        def told() -> tuple[object, list[str]]:
            builder = StatusBuilder(watch.store, 5000)
            _, payload = builder.status(("workergroup", watch.group().oid), builder.stamp()) or ("", b"{}")
            status = json.loads(payload)
            return status["mesh"], status["conditions"]

        assert told() == ({"of": 0, "connected": 0, "missing": []}, [])
        agents[0].obey(web_1={"mesh": MeshSeen(1, 0, ["web-2"])})
        agents[1].obey(web_2={"mesh": MeshSeen(1, 1)})
        await watch.until(lambda: watch.worker("web-2").mesh)
        assert told() == (
            {"of": 2, "connected": 1, "missing": []},
            ["worker web-1: not connected to web-2"],
        )
        agents[0].obey(web_1={"mesh": MeshSeen(1, 1)})
        await watch.until(lambda: told()[1] == [])
        agents[0].obey(web_1={"mesh": MeshSeen(1)})
        await watch.until(lambda: told() == ({"of": 2, "connected": None, "missing": []}, []))
        agents[0].obey(web_1={"state": "BACKOFF", "reason": "exit code 1", "pid": None, "address": None})
        await watch.until(lambda: watch.worker("web-1").mesh is None)


async def test_a_group_of_another_runtime_has_no_mesh_in_its_status(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await fleet(watch, 1, scale=1)
        builder = StatusBuilder(watch.store, 5000)
        _, payload = builder.status(("workergroup", watch.group().oid), builder.stamp()) or ("", b"{}")
        assert "mesh" not in json.loads(payload)
