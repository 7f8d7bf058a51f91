"""A rebalance planned and ordered on a real store: the plan says what happens then, and changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.plans import Rebalanced, RebalancePlan
from busbar.manager.store.rows import WorkerRow

from tests.integration.manager.api.test_declared import document, edge
from tests.integration.manager.declaring import Realm, new_oid, realm_in

IN_B: dict[str, Any] = {"require": {"zone": "b"}}


def planned(realm: Realm, who: str = "alice", **scope: str) -> RebalancePlan:
    found: RebalancePlan = realm.read("plan_rebalance", who, **scope)
    return found


async def ordered(realm: Realm, plan: RebalancePlan, who: str = "alice") -> Rebalanced:
    moves = {move.worker_oid: move.node_oid for move in plan.moves}
    found: Rebalanced = await realm.change("apply_rebalance", p.ApplyRebalance(moves, plan.fence), who)
    return found


async def unbalanced(realm: Realm, who: str = "alice") -> None:
    """Four workers on n1; n2, n3 (which takes two) and n4 came later."""
    await realm.begin()
    nodes = ("n1", "n2", "n3", "n4")
    await realm.apply(document(edge=edge(4, "n1")), who=who)
    await realm.settle()
    await realm.apply(document(edge=edge(4, *nodes)), who=who)
    await realm.settle()
    assert {place[1] for place in realm.places().values()} == {"n1"}, "nothing moves by itself"


def workers(realm: Realm) -> dict[str, WorkerRow]:
    return {row.name: row for row in realm.store.reads.workers()}


async def test_what_is_planned_happens_one_worker_of_a_group_at_a_time_and_once() -> None:
    with realm_in() as realm:
        await unbalanced(realm)
        facts = realm.facts()
        plan = planned(realm)
        assert realm.facts() == facts, "a plan changes nothing"
        ways = [(m.order, m.worker, m.before, m.node, m.reason, m.waits) for m in plan.moves]
        assert ways == [
            (1, "edge/web-4", "n1", "n2", "of edge/web, n1 has 4 and n2 0", None),
            (3, "edge/web-3", "n1", "n3", "of edge/web, n1 has 3 and n3 0", None),
            (5, "edge/web-2", "n1", "n4", "of edge/web, n1 has 2 and n4 0", None),
        ]
        assert plan.complete and not (plan.refused or plan.under_way or plan.hold)
        before = realm.places()
        done = await ordered(realm, plan)
        told, asked = ([(m.worker, m.before, m.node) for m in each] for each in (done.moves, plan.moves))
        assert told == asked
        for move in done.moves:
            assert workers(realm)[move.worker.partition("/")[2]].version == move.version
        assert planned(realm).under_way == [f"edge/web-{n}" for n in (2, 3, 4)] and not planned(realm).moves
        away = Counter[int]()
        for _ in range(40):
            changed = await realm.monitor.step()
            away[sum(row.state != "RUNNING" for row in workers(realm).values())] += 1
            changed |= await realm.store.write(realm._obey)
            if not changed:
                break
        assert set(away) == {0, 1}, "one at a time"
        after = realm.places()
        assert {name: node for name, (_, node) in after.items()} == {
            name: next((m.node for m in plan.moves if m.worker == name), before[name][1]) for name in before
        }
        assert all(row.move is None for row in workers(realm).values())
        again = planned(realm)
        assert not again.moves and not again.under_way, "balanced"


async def test_workers_go_to_the_labels_that_they_need() -> None:
    with realm_in() as realm:
        await unbalanced(realm)
        await realm.apply(document(edge=edge(4, "n1", "n2", "n3", "n4", placement=IN_B)))
        plan = planned(realm)
        assert {m.node for m in plan.moves} == {"n2"} and len(plan.moves) == 4
        assert plan.moves[0].reason == "n1 has label zone=a (zone=b is required)"
        await ordered(realm, plan)
        await realm.settle()
        assert {place[1] for place in realm.places().values()} == {"n2"}
        assert not planned(realm).moves


async def test_an_order_is_of_the_plan_or_refused_and_nothing_is_noted() -> None:
    with realm_in() as realm:
        await unbalanced(realm)
        plan = planned(realm)
        moves = {move.worker_oid: move.node_oid for move in plan.moves}

        async def refused(moves: dict[str, str], fence: dict[str, int], who: str = "alice") -> BusError:
            facts = realm.facts()[2]
            with pytest.raises(BusError) as error:
                await realm.change("apply_rebalance", p.ApplyRebalance(moves, fence), who)
            assert realm.facts()[2] == facts
            return error.value

        assert (await refused(moves, {})).code == "version_conflict"
        less = {pointer: version for pointer, version in plan.fence.items() if pointer != "/nodes/n2"}
        assert "/nodes/n2 was not planned" in (await refused(moves, less)).detail
        assert (await refused(moves, plan.fence | {"/clusters/edge": 1})).code == "version_conflict"
        for worker, node in ((new_oid(), plan.moves[0].node_oid), (plan.moves[0].worker_oid, new_oid())):
            error = await refused({worker: node}, plan.fence)
            assert (error.code, error.pointers) == ("no_such_object", (f"/params/moves/{worker}",))
        assert (await refused(moves, plan.fence, "bob")).code == "not_authorized", "alice's cluster"
        row = realm.store.reads.node_by_name("n2")
        assert row is not None
        await realm.change("cordon_node", p.CordonNode(row.oid))
        assert (await refused(moves, plan.fence)).code == "version_conflict"
        assert "n2" not in {move.node for move in planned(realm).moves}
        await ordered(realm, planned(realm))
        with pytest.raises(BusError, match="plan again"):
            await ordered(realm, plan)


async def test_an_operator_moves_the_workers_of_its_own_clusters_alone() -> None:
    with realm_in() as realm:
        await unbalanced(realm, who="bob")
        assert planned(realm, "bob").moves and not planned(realm, "bob").refused
        theirs = planned(realm, "carol")
        assert not theirs.moves
        left = [(each.pointer, each.code) for each in theirs.refused]
        assert left == [("/clusters/edge", "not_authorized")]
        await ordered(realm, planned(realm, "bob"), "bob")


async def test_what_is_asked_for_bounds_it() -> None:
    with realm_in() as realm:
        await unbalanced(realm)
        (cluster,), (group,) = realm.store.reads.clusters(), realm.store.reads.groups()
        both = {"routercluster_oid": cluster.oid, "workergroup_oid": group.oid}
        assert planned(realm, **both).moves == planned(realm).moves
        for scope in ({"routercluster_oid": new_oid()}, both | {"workergroup_oid": new_oid()}):
            with pytest.raises(BusError, match="no "):
                planned(realm, **scope)
        with pytest.raises(BusError, match="cluster is missing"):
            planned(realm, workergroup_oid=group.oid)


async def test_an_order_ends_with_what_overtakes_it() -> None:
    with realm_in() as realm:
        await unbalanced(realm)
        await ordered(realm, planned(realm))
        node = realm.store.reads.node_by_name("n4")
        assert node is not None
        await realm.change("cordon_node", p.CordonNode(node.oid))
        (cluster,), (group,) = realm.store.reads.clusters(), realm.store.reads.groups()
        ref = {"routercluster_oid": cluster.oid, "workergroup_oid": group.oid}
        await realm.change("scale_routercluster_workergroup", p.ScaleGroup(**ref, scale=3))
        await realm.settle()
        assert all(row.move is None for row in workers(realm).values())
        where = {name: place[1] for name, place in realm.places().items()}
        assert where == {"edge/web-1": "n1", "edge/web-2": "n1", "edge/web-3": "n3"}
        await realm.change("stop_routercluster", p.ClusterRef(cluster.oid))
        await realm.settle()
        assert {(row.state, row.move) for row in workers(realm).values()} == {("STOPPED", None)}


async def test_who_is_misplaced_and_has_nowhere_to_go_is_told() -> None:
    """One node has the label at first, then none, then another one."""
    with realm_in() as realm:
        await realm.begin()
        nodes = ("n1", "n2")
        labelled = document(edge=edge(1, *nodes, placement={"require": {"disk": "ssd"}}))
        await realm.apply(labelled | {"nodes": {"n1": {"labels": {"disk": "ssd"}}}})
        await realm.settle()
        assert planned(realm).misplaced == []
        oids = {name: row.oid for name in nodes if (row := realm.store.reads.node_by_name(name))}
        await realm.change("label_node", p.LabelNode(oids["n1"], {"disk": None}))
        plan = planned(realm)
        lacks = "edge/web-1 stays on n1, which has no label disk (disk=ssd is required)"
        assert (plan.moves, plan.misplaced) == ([], [lacks])
        await realm.change("label_node", p.LabelNode(oids["n2"], {"disk": "ssd"}))
        plan = planned(realm)
        assert ([move.node for move in plan.moves], plan.misplaced) == (["n2"], [])
        await ordered(realm, plan)
        assert planned(realm).misplaced == [], "it is on its way"
