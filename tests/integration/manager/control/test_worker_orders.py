"""One worker is restarted, and no other is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.states import WorkerState
from busbar.manager.planner.rolling import updating

from tests.integration.manager.control.test_group_orders import lives, order, through, to_group
from tests.integration.watching import Agent, Watch, fleet, watching


async def restart(watch: Watch, name: str = "web-1", group: str = "web", **given: Any) -> p.WorkerRestart:
    row = watch.group(group)
    oid = next(w.oid for w in watch.store.reads.workers_of(row.oid) if w.name == name)
    found: p.WorkerRestart = await order(
        watch, "restart_routercluster_worker", workergroup_oid=row.oid, worker_oid=oid, **given
    )
    return found


def risen(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> dict[str, int]:
    """By how much each worker's generation has risen, where it has."""
    found = {name: life[1] - before[name][1] for name, life in after.items()}
    return {name: by for name, by in found.items() if by}


async def settle(watch: Watch, agents: list[Agent]) -> None:
    def over() -> bool:
        return not updating(watch.group("web")) and watch.group("web").status == "RUNNING"

    await through(watch, agents, over)


async def test_one_worker_is_replaced_once_and_no_other(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=3)
        before = lives(watch, "web")
        found = await restart(watch, "web-2")
        assert (found.name, found.generation, found.reason) == ("web-2", 2, "restart ordered by alice")
        await settle(watch, agents)
        assert risen(before, lives(watch, "web")) == {"web-2": 1}
        told = watch.told()
        assert told.count("worker_restarting") == told.count("workergroup_updating") == 1
        assert "workergroup_updated" in told
        await watch.pass_time(60, *agents)
        assert risen(before, lives(watch, "web")) == {"web-2": 1}


async def test_two_restarts_keep_to_the_budget_one_after_the_other(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=3)
        before = lives(watch, "web")
        await restart(watch, "web-1")
        second = await restart(watch, "web-2")
        assert "it waits while 2 of 3 workers of group web are ready" in second.reason
        assert (await restart(watch, "web-2")).reason == f"to be replaced by revision {3}"
        ready: list[int] = []

        def over() -> bool:
            ready.append(sum(state == "RUNNING" for state, _ in lives(watch, "web").values()))
            return not updating(watch.group("web")) and watch.group("web").status == "RUNNING"

        await through(watch, agents, over)
        assert min(ready) >= 2
        assert risen(before, lives(watch, "web")) == {"web-1": 1, "web-2": 1}


async def test_one_that_is_not_ready_is_restarted_at_once_whatever_the_others_do(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=3)
        before = lives(watch, "web")
        for name in ("web-1", "web-2"):
            oid = next(w.oid for w in watch.store.reads.workers() if w.name == name)
            await watch.store.write(
                lambda tx, oid=oid: tx.update_worker(oid, state=WorkerState.BACKOFF, reason="exit code 1")  # type: ignore[misc]
            )
        revision = watch.group("web").revision
        found = await restart(watch, "web-1")
        assert (found.status, watch.group("web").revision) == ("STARTING", revision)
        assert risen(before, lives(watch, "web")) == {"web-1": 1}
        assert watch.told()[-2:] == ["worker_restarting", "worker_starting"]
        ready = await restart(watch, "web-3")
        assert (ready.status, "it waits while 1 of 3" in ready.reason) == ("RUNNING", True)
        await settle(watch, agents)
        assert risen(before, lives(watch, "web")) == {"web-1": 1, "web-3": 1}


async def test_a_restart_within_an_update_goes_on_with_its_limits(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=3)
        before = lives(watch, "web")
        await to_group(watch, "restart", "web", max_unavailable=2, max_surge=1)
        await restart(watch, "web-1")
        group = watch.group("web")
        assert (group.max_unavailable, group.max_surge) == (2, 1)
        await settle(watch, agents)
        assert set(risen(before, {n: v for n, v in lives(watch, "web").items() if n in before})) == set(
            before
        )


async def test_what_does_not_run_is_not_restarted(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=3)
        await order(watch, "add_routercluster_workergroup", workergroup={"name": "api", "scale": 1})
        with pytest.raises(BusError) as other:
            await order(
                watch,
                "restart_routercluster_worker",
                workergroup_oid=watch.group("api").oid,
                worker_oid=watch.store.reads.workers_of(watch.group("web").oid)[0].oid,
            )
        assert (other.value.code, other.value.pointers) == ("no_such_object", ("/params/worker_oid",))
        await to_group(watch, "stop", "web")
        with pytest.raises(BusError) as caught:
            await restart(watch, "web-1")
        assert caught.value.code == "cannot_start"
        await through(watch, agents, lambda: watch.group("web").status == "STOPPED")
        with pytest.raises(BusError, match="is STOPPED, not started"):
            await restart(watch, "web-1")


async def test_a_restart_is_waited_for_while_its_node_is_not_heard(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        before = lives(watch, "web")
        far = next(w for w in watch.store.reads.workers() if w.name == "web-2").node_oid
        near = [a for a in agents if watch.store.reads.node_by_name(a.name).oid != far]  # type: ignore[union-attr]
        await watch.pass_time(40, *near)
        found = await restart(watch, "web-2")
        assert "it waits until its node is heard" in found.reason
        await watch.rest()
        assert risen(before, lives(watch, "web")) == {}
        for agent in agents:
            agent.born()
        await settle(watch, agents)
        assert risen(before, lives(watch, "web")) == {"web-2": 1}


async def test_a_restart_that_waits_outlives_its_manager(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=3)
        before = lives(watch, "web")
        await restart(watch, "web-1")
        await restart(watch, "web-2")
        assert risen(before, lives(watch, "web")) == {"web-1": 1}
    async with watching(tmp_path) as watch:
        agents = [Agent(watch, agent.name) for agent in agents]
        for agent in agents:
            agent.born()
        await settle(watch, agents)
        assert risen(before, lives(watch, "web")) == {"web-1": 1, "web-2": 1}
