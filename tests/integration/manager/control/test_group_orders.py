"""One group is stopped, started, restarted and removed, and no other is touched."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from busbar.bus import params as p
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError
from busbar.bus.messages import Who
from busbar.manager.api.operations import CHANGES
from busbar.manager.api.operations.base import ChangeContext
from busbar.manager.planner.rolling import updating
from busbar.manager.publish.statuses import StatusBuilder
from busbar.manager.quotas import Quotas
from busbar.manager.store import Tx

from tests.integration.watching import OWNER, Agent, Watch, fleet, watching

_ids = itertools.count()


async def order(watch: Watch, operation: str, **given: Any) -> Any:
    """The operation, as the dispatcher runs it."""
    asked = msgspec.convert({"routercluster_oid": watch.cluster().oid, **given}, OPERATIONS[operation].params)
    who = Who("alice", "owner", "box")

    def change(tx: Tx) -> Any:
        return CHANGES[operation](ChangeContext(tx, who, OWNER, f"g-{next(_ids)}", Quotas()), asked)

    found = await watch.store.write(change)
    await watch.rest()
    return found


async def to_group(watch: Watch, verb: str, name: str = "api", **given: Any) -> p.Group:
    found: p.Group = await order(
        watch, f"{verb}_routercluster_workergroup", workergroup_oid=watch.group(name).oid, **given
    )
    return found


async def through(watch: Watch, agents: list[Agent], true: Callable[[], bool]) -> None:
    """The agents do as they are told until it is true."""
    for _ in range(20):
        for agent in agents:
            agent.obey()
        await watch.rest()
        if true():
            return
    raise AssertionError(watch.states())


async def two_groups(watch: Watch) -> list[Agent]:
    """Cluster edge with groups web and api, all ready."""
    agents = await fleet(watch, 2, scale=2)
    await order(watch, "add_routercluster_workergroup", workergroup={"name": "api", "scale": 2})
    await through(watch, agents, lambda: watch.group("api").status == "RUNNING")
    return agents


def lives(watch: Watch, group: str) -> dict[str, tuple[str, int]]:
    return {
        row.name: (str(row.state), row.generation)
        for row in watch.store.reads.workers_of(watch.group(group).oid)
    }


@pytest.mark.fault(96, "U")
async def test_a_group_is_stopped_and_removed_while_its_cluster_runs(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        others, mark = lives(watch, "web"), len(watch.told())
        with pytest.raises(BusError, match="stop it first"):
            await to_group(watch, "remove")
        stopped = await to_group(watch, "stop")
        assert (stopped.status, stopped.stop_ordered) == ("STOPPING", True)
        with pytest.raises(BusError, match="already"):
            await to_group(watch, "stop")
        await through(watch, agents, lambda: watch.group("api").status == "STOPPED")
        assert {state for state, _ in lives(watch, "api").values()} == {"STOPPED"}
        assert (watch.cluster().status, lives(watch, "web")) == ("RUNNING", others)
        assert watch.store.reads.cluster_scale(watch.cluster().oid)[2] == 2
        await watch.pass_time(120, *agents)
        assert watch.group("api").status == "STOPPED"
        assert await to_group(watch, "remove") is not None
        assert [group.name for group in watch.store.reads.groups()] == ["web"]
        assert (watch.cluster().status, lives(watch, "web")) == ("RUNNING", others)
        assert {"routercluster_degraded", "worker_moved"}.isdisjoint(watch.told()[mark:])


@pytest.mark.fault(96, "U")
async def test_a_group_is_started_again(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        others = lives(watch, "web")
        with pytest.raises(BusError, match="not stopped by itself"):
            await to_group(watch, "start")
        await to_group(watch, "stop")
        with pytest.raises(BusError, match="STOPPING"):
            await to_group(watch, "start")
        await through(watch, agents, lambda: watch.group("api").status == "STOPPED")
        assert (await to_group(watch, "start")).status == "STARTING"
        await through(watch, agents, lambda: watch.group("api").status == "RUNNING")
        assert {state for state, _ in lives(watch, "api").values()} == {"RUNNING"}
        assert (watch.cluster().status, lives(watch, "web")) == ("RUNNING", others)
        assert watch.told("api") == [
            "workergroup_added", "workergroup_stopping", "workergroup_starting",
        ]  # fmt: skip
        assert "worker_moved" not in watch.told()


@pytest.mark.fault(96, "U")
@pytest.mark.parametrize("stopped_first", ["cluster", "group"])
async def test_a_stopped_group_stays_so_when_its_cluster_starts(tmp_path: Path, stopped_first: str) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        if stopped_first == "group":
            await to_group(watch, "stop")
        await order(watch, "stop_routercluster")
        await through(watch, agents, lambda: watch.cluster().status == "STOPPED")
        if stopped_first == "cluster":
            assert (await to_group(watch, "stop")).status == "STOPPED"
        await order(watch, "start_routercluster")
        await through(watch, agents, lambda: watch.cluster().status == "RUNNING")
        await watch.pass_time(120, *agents)
        assert (watch.group("api").status, watch.group("web").status) == ("STOPPED", "RUNNING")
        await to_group(watch, "start")
        await through(watch, agents, lambda: watch.group("api").status == "RUNNING")


@pytest.mark.fault(96, "U")
async def test_a_start_in_a_stopped_cluster_waits_for_it(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        await to_group(watch, "stop")
        await order(watch, "stop_routercluster")
        await through(watch, agents, lambda: watch.cluster().status == "STOPPED")
        assert (await to_group(watch, "start")).status == "STOPPED"
        await order(watch, "start_routercluster")
        await through(watch, agents, lambda: watch.group("api").status == "RUNNING")


@pytest.mark.fault(96, "U")
@pytest.mark.parametrize(("limits", "least"), [({}, 1), ({"max_unavailable": 0, "max_surge": 1}, 2)])
async def test_a_restart_replaces_each_worker_once_within_its_limits(
    tmp_path: Path, limits: dict[str, int], least: int
) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        others, before = lives(watch, "web"), lives(watch, "api")
        changed = await to_group(watch, "restart", **limits)
        assert changed.revision == 2
        ready: list[int] = []

        def over() -> bool:
            ready.append(sum(state == "RUNNING" for state, _ in lives(watch, "api").values()))
            return not updating(watch.group("api")) and watch.group("api").status == "RUNNING"

        await through(watch, agents, over)
        after = {name: life for name, life in lives(watch, "api").items() if name in before}
        assert {name: generation - before[name][1] for name, (_, generation) in after.items()} == {
            "api-1": 1, "api-2": 1,
        }  # fmt: skip
        assert min(ready) >= least
        assert (lives(watch, "web"), watch.cluster().status) == (others, "RUNNING")
        assert watch.told("api")[-2:] == ["workergroup_updating", "workergroup_updated"]


@pytest.mark.fault(96, "U")
async def test_a_stopped_group_is_not_restarted(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        await to_group(watch, "stop")
        await through(watch, agents, lambda: watch.group("api").status == "STOPPED")
        with pytest.raises(BusError) as caught:
            await to_group(watch, "restart")
        assert caught.value.code == "cannot_start"


@pytest.mark.fault(96, "U")
async def test_a_group_on_a_lost_node_stops_all_the_same(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await two_groups(watch)
        await watch.pass_time(60, agents[0])
        await to_group(watch, "stop")
        await through(watch, agents[:1], lambda: True)
        await watch.pass_time(60, agents[0])
        agents[1].born()
        await through(watch, agents, lambda: watch.group("api").status == "STOPPED")
        assert watch.group("web").status in ("RUNNING", "DEGRADED")


async def test_a_smaller_scale_is_reached_once_the_surplus_workers_are_gone(tmp_path: Path) -> None:
    """Each status since the order tells them: a wait for the scale must not end while one still runs."""
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3)
        group, builder = watch.group(), StatusBuilder(watch.store, 5000)
        seen: list[tuple[str, int, int]] = []

        def see(changes: Any) -> None:
            if group.oid in changes.groups:
                _, payload = builder.status(("workergroup", group.oid), builder.stamp()) or ("", b"{}")
                told = json.loads(payload)
                seen.append((told["status"], told["ready"], told.get("surplus", 0)))

        watch.store.on_commit(see)
        await to_group(watch, "scale", "web", scale=1)
        assert seen and all(surplus == 2 for _, _, surplus in seen)
        assert seen[-1] == ("RUNNING", 1, 2), "two that have not stopped yet"
        agents[2].obey()
        await watch.rest()
        assert seen[-1] == ("RUNNING", 1, 1)
        agents[1].obey()
        await watch.until(lambda: seen[-1] == ("RUNNING", 1, 0))
        assert watch.states() == {"web-1": "RUNNING n1"}
