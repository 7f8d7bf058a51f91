"""What nodes are told of a meshed group's workers, with a real store."""

from __future__ import annotations

from pathlib import Path

from busbar.bus.decode import digest
from busbar.manager.publish import render

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
