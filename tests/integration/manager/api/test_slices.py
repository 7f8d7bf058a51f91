"""Plans of many workers in slices: none grows with the realm, and what is seen is of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from busbar.bus import params as p
from busbar.bus.contract import PLANNER
from busbar.manager.control.monitor import CHUNK
from busbar.manager.rehearsal import rehearsal
from busbar.manager.slices import whole

from tests.integration.manager.api.test_declared import begun, document, edge
from tests.integration.manager.declaring import Realm, realm_in

MANY = 5 * CHUNK


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many actions each slice has written."""
    counts: list[int] = []
    apply_all = rehearsal.apply_all

    def counted(tx: Any, actions: Sequence[Any], *more: Any) -> Any:
        counts.append(len(actions))
        return apply_all(tx, actions, *more)

    monkeypatch.setattr(rehearsal, "apply_all", counted)
    return counts


async def running(realm: Realm, scale: int) -> dict[str, Any]:
    """Cluster `edge` with so many workers on n1 and n2; the ids of its group."""
    await begun(realm, document(edge=edge(scale, runtime="amqtt")))
    group = realm.store.reads.groups()[0]
    return {"routercluster_oid": group.cluster_oid, "workergroup_oid": group.oid}


async def test_no_slice_writes_more_than_the_monitor_does_at_once(written: list[int]) -> None:
    with realm_in() as realm:
        group = await running(realm, 2)
        scaled = {"operation": "scale_routercluster_workergroup", "params": {**group, "scale": MANY}}
        slices = realm.slices(PLANNER, **scaled)
        count = sum(1 for _ in slices)
        assert max(written) == CHUNK and sum(written) >= MANY - 2
        assert count >= len(written) + MANY // CHUNK, "each write and each answer of the nodes is a slice"


async def test_each_cluster_of_a_document_is_a_slice() -> None:
    with realm_in() as realm:
        await begun(realm, document(edge=edge()))
        wanted = {"busbar": 1, "clusters": {f"c{number}": {} for number in range(50)}}
        slices = realm.slices("plan_changes", desired=wanted)
        assert sum(1 for _ in slices) >= 50


async def test_a_plan_is_of_the_moment_of_its_first_slice() -> None:
    with realm_in() as realm:
        group = await running(realm, 4)
        wanted = document(edge=edge(8, runtime="amqtt"))
        whole_plan = realm.plan(wanted)
        slices = realm.slices("plan_changes", desired=wanted)
        next(slices)
        await realm.change("stop_routercluster_workergroup", p.GroupRef(**group))
        await realm.settle()
        assert whole(slices) == whole_plan, "the versions of the fence too: applying is refused"
        assert realm.plan(wanted).fence != whole_plan.fence


async def test_a_plan_that_takes_too_long_is_cut_short_and_says_so() -> None:
    with realm_in() as realm:
        group = await running(realm, 4)
        restart = {"operation": "restart_routercluster_workergroup", "params": group}
        complete = realm.read(PLANNER, **restart)
        slices = realm.slices(PLANNER, **restart)
        for _ in range(6):
            next(slices)
        await realm.clock.advance(rehearsal.MAX_S + 1)
        cut = whole(slices)
        assert complete.complete and not cut.complete
        assert cut.workers and cut.workers == complete.workers[: len(cut.workers)]


async def test_a_single_pass_that_takes_too_long_is_cut_short_too() -> None:
    with realm_in() as realm:
        group = await running(realm, 2)
        scaled = {"operation": "scale_routercluster_workergroup", "params": {**group, "scale": MANY}}
        slices = realm.slices(PLANNER, **scaled)
        for _ in range(4):
            next(slices)
        await realm.clock.advance(rehearsal.MAX_S + 1)
        cut = whole(slices)
        assert not cut.complete and 0 < len(cut.workers) < MANY - 2


async def test_a_plan_given_up_halfway_leaves_nothing() -> None:
    with realm_in() as realm:
        group = await running(realm, 4)
        facts = realm.facts()
        slices = realm.slices(PLANNER, operation="restart_routercluster_workergroup", params=group)
        next(slices)
        slices.close()
        assert realm.facts() == facts
