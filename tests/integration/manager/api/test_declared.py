"""A document planned and applied on a real store: the plan says what happens then, the document what is."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.plans import Plan
from busbar.bus.routers.definitions import normal, plain, read
from busbar.manager.publish.render import placement_conditions
from busbar.manager.publish.statuses import placed_workers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.manager.declaring import Realm, held, realm_in, touched

MQTT = {"type": "mqtt", "endpoint": {"type": "tcp", "port": "20000-20999"}}
OTHER = {**MQTT, "endpoint": {"type": "tcp", "port": "21000-21999"}}
WEB = {"type": "web", "endpoint": {"type": "tcp", "port": "22000-22999"}}


def document(**clusters: Any) -> dict[str, Any]:
    return {"busbar": 1, "owner": "team", "clusters": clusters}


def edge(scale: int = 2, *nodes: str, **more: Any) -> dict[str, Any]:
    members: dict[str, Any] = {name: {} for name in nodes or ("n1", "n2")}
    return {"running": True, "nodes": members, "groups": {"web": {"scale": scale, **more}}}


async def happens(realm: Realm, desired: dict[str, Any], **more: Any) -> Plan:
    """Plan, apply and settle; hold what was planned against what then happened."""
    return await held(
        realm, lambda: realm.plan(desired, **more), lambda plan: realm.apply(desired, plan, **more)
    )


async def begun(realm: Realm, desired: dict[str, Any]) -> None:
    await realm.begin()
    await realm.apply(desired)
    await realm.settle()


async def test_what_a_plan_says_of_workers_happens() -> None:
    with realm_in() as realm:
        await realm.begin()
        plan = await happens(realm, document(edge=edge()))
        assert [(c.pointer, c.action) for c in plan.changes] == [
            ("/clusters/edge", "create"),
            ("/clusters/edge/nodes/n1", "create"),
            ("/clusters/edge/nodes/n2", "create"),
            ("/clusters/edge/groups/web", "create"),
            ("/clusters/edge", "start"),
        ]
        steps = [(s.order, s.worker, s.action, s.before, s.node) for s in plan.workers]
        assert steps == [(1, "edge/web-1", "start", None, "n1"), (1, "edge/web-2", "start", None, "n2")]
        plan = await happens(realm, document(edge=edge(runtime="mosquitto")))
        steps = [(s.order, s.worker, s.action, s.before, s.node) for s in plan.workers]
        assert steps == [(1, "edge/web-1", "restart", "n1", "n1"), (2, "edge/web-2", "restart", "n2", "n2")]
        (change,) = plan.changes
        assert [(m.pointer, m.before, m.after) for m in change.members] == [
            ("/runtime", "amqtt", "mosquitto")
        ]
        plan = await happens(realm, document(edge=edge(2, "n1", "n3", runtime="mosquitto")), prune=True)
        assert [(s.worker, s.action, s.before, s.node) for s in plan.workers] == [
            ("edge/web-2", "move", "n2", "n3")
        ]
        plan = await happens(realm, document(edge=edge(5, "n3", runtime="mosquitto")), prune=True)
        assert {(s.worker, s.action) for s in plan.workers} == {
            ("edge/web-1", "stop"), ("edge/web-3", "start"), *((f"edge/web-{n}", "wait") for n in (1, 4, 5))
        }  # fmt: skip
        assert "n3 is full (2/2 workers)" in plan.workers[-1].reason
        plan = realm.plan(document(edge=edge(5, "n3", runtime="mosquitto")))
        assert plan.changes == plan.workers == [] and plan.complete


async def test_what_the_plan_of_a_rollback_says_happens() -> None:
    with realm_in() as realm:
        await begun(realm, document(edge=edge()))
        await happens(realm, document(edge=edge(3, "n1", "n3", runtime="mosquitto")), prune=True)
        found = realm.store.reads.cluster_by_name("edge")
        assert found is not None
        ref = {"routercluster_oid": found.oid, "revision": 1}
        plan = await held(
            realm,
            lambda: realm.read("plan_routercluster_rollback", **ref),
            lambda plan: realm.change("rollback_routercluster", p.RevisionRef(**ref)),
        )
        assert touched(plan) == {"edge/web-1", "edge/web-2", "edge/web-3"}
        again = realm.read("plan_routercluster_rollback", **ref)
        assert again.changes == again.workers == []


CHANGES_OF_CLUSTER = [
    ({"transport": MQTT}, {"transport": OTHER}),
    ({"transport": MQTT}, {"transport": WEB, "runtime": "crossbar"}),
    ({"transport": WEB, "runtime": "crossbar"}, {"transport": MQTT, "runtime": "mosquitto"}),
    ({}, {"transport": WEB, "runtime": "crossbar"}),
    ({"transport": WEB, "runtime": "crossbar"}, {}),
]


@pytest.mark.parametrize(("old", "new"), CHANGES_OF_CLUSTER)
async def test_a_cluster_and_its_groups_change_together(old: dict[str, Any], new: dict[str, Any]) -> None:
    """No order of single operations has to be found: what fits together only at the end is one change."""
    with realm_in() as realm:
        desired = []
        for each in (old, new):
            group = {"runtime": each["runtime"]} if "runtime" in each else {}
            desired.append(document(edge=edge(2, **group)))
            if "transport" in each:
                desired[-1]["clusters"]["edge"]["transport"] = each["transport"]
        await begun(realm, desired[0])
        await realm.apply(desired[1])
        assert realm.export()["clusters"] == plain(read(desired[1]))["clusters"]
        await realm.apply(desired[0])
        assert realm.export()["clusters"] == plain(read(desired[0]))["clusters"]


async def test_all_of_it_or_nothing_and_not_after_a_change_by_others() -> None:
    with realm_in() as realm:
        await begun(realm, document(edge=edge()))
        wrong = document(
            edge=edge(3, "n1", "nowhere"), west={"groups": {"g": {"scale": 1, "runtime": "nope"}}}
        )
        plan = realm.plan(wrong)
        assert [(r.pointer, r.code) for r in plan.refused] == [
            ("/clusters/edge/nodes/nowhere", "no_such_object"),
            ("/clusters/west/groups/g/runtime", "invalid_configuration"),
        ]
        facts = realm.facts()
        with pytest.raises(BusError) as raised:
            await realm.apply(wrong, plan)
        assert raised.value.pointers == ("/params/desired/clusters/edge/nodes/nowhere",)
        assert realm.facts()[2] == facts[2], "nothing of it was done"
        desired = document(edge=edge(3))
        plan = realm.plan(desired)
        await realm.apply(document(edge=edge(4)))
        with pytest.raises(BusError) as raised:
            await realm.apply(desired, plan)
        assert raised.value.code == "version_conflict"
        assert raised.value.pointers == ("/params/fence/~1clusters~1edge~1groups~1web",)
        with pytest.raises(BusError, match="was not planned"):
            await realm.apply(desired, realm.plan(document()))


async def test_a_node_that_got_workers_meanwhile_is_planned_with_again() -> None:
    with realm_in() as realm:
        await begun(realm, document(edge=edge()))
        desired = document(edge=edge(3))
        plan = realm.plan(desired)
        await realm.apply(document(west=edge(3)))
        await realm.settle()
        with pytest.raises(BusError) as raised:
            await realm.apply(desired, plan)
        assert raised.value.code == "version_conflict" and "nodes" in raised.value.pointers[0]


async def test_placement_is_part_of_the_file_and_what_a_plan_says_of_it_happens() -> None:
    with realm_in() as realm:
        in_a = {"require": {"zone": ["a"]}, "spread": "rack"}
        first = document(edge=edge(3, "n1", "n2", "n3", "n4", placement=in_a))
        await realm.begin()
        plan = await happens(realm, first)
        assert {step.node for step in plan.workers} == {"n1", "n3"}
        exported = realm.export()
        group = exported["clusters"]["edge"]["groups"]["web"]
        assert group["placement"] == {"require": {"zone": "a"}, "spread": "rack"}
        assert not realm.plan(exported).changes and not realm.plan(first).changes
        second = document(edge=edge(4, "n1", "n2", "n3", "n4", placement={"require": {"zone": "b"}}))
        plan = await happens(realm, second)
        assert [(step.worker, step.action, step.node) for step in plan.workers] == [
            ("edge/web-4", "start", "n2")
        ], "those that run stay where they are"
        (row,) = realm.store.reads.groups()
        told = placement_conditions(row, placed_workers(realm.store.reads, row))
        assert len(told) == 3
        assert told[0].startswith("worker web-1 stays on n1, which has label zone=a (zone=b is required): ")
        (cluster,) = realm.store.reads.clusters()
        stat = realm.read("stat_routercluster", routercluster_oid=cluster.oid)
        assert set(told) <= set(stat.conditions)
        moved = second | {"nodes": {"n2": {"labels": {"zone": "c"}}, "n4": {"labels": {"zone": "b"}}}}
        moved["clusters"]["edge"]["groups"]["web"]["scale"] = 5
        plan = await happens(realm, moved)
        assert [(step.worker, step.node) for step in plan.workers] == [("edge/web-5", "n4")]
        assert [change.pointer for change in plan.changes] == [
            "/nodes/n2", "/nodes/n4", "/clusters/edge/groups/web"
        ]  # fmt: skip
        assert len(placement_conditions(row, placed_workers(realm.store.reads, row))) == 4
        update = edge(5, "n1", "n2", "n3", "n4", placement={"require": {"zone": "b"}}, runtime="mosquitto")
        await happens(realm, document(edge=update))
        update["groups"]["web"]["placement"] = {"require": {"zone": ["b", "c"]}}
        await happens(realm, document(edge=update))
        update["groups"]["web"]["runtime"] = "amqtt"
        plan = await happens(realm, document(edge=update))
        assert {place[1] for place in realm.places().values()} == {"n2", "n4"}, "an update moves them"
        assert "update to revision" in plan.workers[0].reason


async def test_a_node_without_labels_stays_without_those_of_its_agent() -> None:
    with realm_in() as realm:
        await begun(realm, document() | {"nodes": {"n1": {"labels": {"zone": "a"}}}})
        bare = document() | {"nodes": {"n1": {}}}
        await realm.apply(bare)
        row = realm.store.reads.node_by_name("n1")
        assert row is not None and row.labels == {}, "None would be filled by its next report"
        assert realm.plan(bare).changes == []


async def test_what_means_the_same_is_no_change() -> None:
    with realm_in() as realm:
        await begun(realm, document(edge=edge()))
        group = realm.store.reads.groups()[0]
        await realm.store.write(lambda tx: tx.update_group(group.oid, tags=[]))
        before = realm.facts()[2]
        await realm.apply(document(edge=edge()))
        assert realm.facts()[2] == before


async def test_pruning_takes_what_the_file_has_created_and_lists_the_rest() -> None:
    with realm_in() as realm:
        first = document(edge=edge(), west=edge(1, "n3"))
        first["principals"] = {"dora": {"role": "viewer"}}
        await begun(realm, first)
        other = document(edge={"running": True, "groups": {"own": {"scale": 0}}}, east={"running": False})
        await realm.apply({**other, "owner": "others"})
        await realm.settle()
        wanted = document(edge=edge())
        plan = realm.plan(wanted, prune=True)
        assert [(c.pointer, c.action) for c in plan.changes] == [("/principals/dora", "delete")]
        assert [(r.pointer, r.code) for r in plan.refused] == [("/clusters/west", "not_stopped")]
        left = [(each.pointer, each.owner) for each in plan.left]
        assert left == [("/clusters/edge/groups/own", "others"), ("/clusters/east", "others")]
        assert {each.pointer for each in realm.plan(wanted).left} == {"/clusters/west", "/principals/dora"}
        plan = await happens(realm, wanted, prune=True, stop=True)
        assert ("/clusters/west", "stop") in [(c.pointer, c.action) for c in plan.changes]
        assert [(s.worker, s.action) for s in plan.workers] == [("west/web-1", "stop")]
        await happens(realm, wanted, prune=True, stop=True)
        found = realm.export()
        assert list(found["clusters"]) == ["east", "edge"] and "dora" not in found["principals"]
        assert realm.plan(wanted, prune=True).changes == []
        with pytest.raises(BusError) as raised:
            realm.plan({"busbar": 1}, prune=True)
        assert raised.value.pointers == ("/params/desired/owner",)


async def test_rights_are_those_of_each_operation() -> None:
    with realm_in() as realm:
        await begun(realm, document(edge=edge()))
        mine = document(bobs=edge(1, "n1"))
        await realm.apply(mine, who="bob")
        theirs = document(edge=edge(3), bobs=edge(2, "n1"))
        theirs |= {"principals": {"eve": {"role": "owner"}}, "nodes": {"n1": {"labels": {"a": "b"}}}}
        plan = realm.plan(theirs, who="bob")
        assert {(r.pointer, r.code) for r in plan.refused} == {
            (pointer, "not_authorized")
            for pointer in ("/principals/eve", "/nodes/n1", "/clusters/edge/groups/web")
        }
        with pytest.raises(BusError) as raised:
            await realm.apply(theirs, plan, who="bob")
        assert raised.value.code == "not_authorized"
        assert realm.plan(theirs, who="alice").refused == []


async def test_three_clusters_come_back_as_they_were() -> None:
    with realm_in() as realm:
        first = document(
            edge=edge(2, strategy={"max_surge": 1}, tags=["a"], label="L"),
            west={
                **edge(1, "n3", transport=OTHER, runtime="mosquitto"),
                "transport": MQTT,
                "description": "d",
            },
            east={"running": False, "nodes": {"n2": {"hardlimit": 3, "softlimit": 1}}},
        )
        first["clusters"]["edge"]["groups"]["off"] = {"scale": 1, "stopped": True, "lost_after": 5}
        first |= {"nodes": {"n1": {"labels": {"zone": "a"}}}, "principals": {"dora": {"role": "viewer"}}}
        await begun(realm, first)
        exported = {**realm.export(), "owner": "team"}
        nothing = {"busbar": 1, "owner": "team"}
        for _ in range(2):
            await realm.apply(nothing, prune=True, stop=True)
            await realm.settle()
        assert "clusters" not in realm.export() and "dora" not in realm.export()["principals"]
        exported["principals"]["dora2"] = exported["principals"].pop("dora")  # a name is not given twice
        await realm.apply(exported)
        await realm.settle()
        again = {**realm.export(), "owner": "team"}
        assert again["clusters"] == exported["clusters"] and again["nodes"] == exported["nodes"]
        assert realm.plan(exported).changes == []


GROUPS = st.fixed_dictionaries(
    {"scale": st.integers(0, 4), "stopped": st.sampled_from([False, False, True])},
    optional={
        "runtime": st.sampled_from(["amqtt", "mosquitto"]),
        "transport": st.sampled_from([MQTT, OTHER]),
        "strategy": st.sampled_from([{}, {"max_surge": 1}, {"max_unavailable": 2}]),
        "lost_after": st.sampled_from([5, 30]),
        "mesh": st.booleans(),
        "tags": st.just(["x"]),
        "placement": st.sampled_from(
            [
                {"require": {"zone": "a"}},
                {"require": {"zone": ["a", "b"]}, "spread": "zone"},
                {"spread": "zone"},
            ]
        ),
    },
)
MEMBERS = st.dictionaries(
    st.sampled_from(["n1", "n2", "n3", "n4"]),
    st.sampled_from([{}, {"hardlimit": 1}, {"hardlimit": 3, "softlimit": 1}]),
    min_size=1,
)
CLUSTERS = st.fixed_dictionaries(
    {
        "running": st.sampled_from([True, True, True, False]),
        "nodes": MEMBERS,
        "groups": st.dictionaries(st.sampled_from(["web", "back"]), GROUPS, min_size=1),
    },
    optional={"transport": st.sampled_from([MQTT, OTHER]), "label": st.just("L")},
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two documents that share most of what they say."""
    first, second = ({name: draw(CLUSTERS) for name in ("edge", "west")} for _ in range(2))
    for name in draw(st.sampled_from([(), ("west",), ("edge", "west"), ("edge", "west")])):
        members = st.sampled_from(["running", "nodes", "groups", "transport", "scale"])
        changed = draw(st.sets(members, min_size=1, max_size=2))
        new, second[name] = second[name], copy.deepcopy(first[name])
        for member in changed & new.keys():
            second[name][member] = new[member]
        for group, spec in second[name]["groups"].items():
            if "scale" in changed and group in new["groups"]:
                spec["scale"] = new["groups"][group]["scale"]
    if draw(st.sampled_from([False, False, True])):
        del second["west"]
    return document(**first), document(**second)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(pairs())
def test_applying_the_difference_gives_the_other_and_the_plan_named_all_it_touched(
    pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    async def run() -> None:
        with realm_in() as realm:
            await realm.begin()
            for desired in pair:
                await _until_it_is_so(realm, copy.deepcopy(desired))

    asyncio.run(run())


async def _until_it_is_so(realm: Realm, desired: dict[str, Any]) -> None:
    """What is to be deleted or started is stopped first, so a second and a third time may be needed."""
    for _ in range(4):
        plan = realm.plan(desired, prune=True, stop=True)
        if plan.refused:
            assert {each.code for each in plan.refused} <= {"cannot_start"}
        if not plan.changes:
            break
        await happens(realm, desired, prune=True, stop=True)
    found = realm.export()
    assert found.get("clusters", {}) == _so(plain(normal(read(desired))).get("clusters", {}))


def _so(clusters: dict[str, Any]) -> dict[str, Any]:
    """As the export has it: only what is stopped by itself is said to be."""
    for cluster in clusters.values():
        for group in cluster.get("groups", {}).values():
            if not group.get("stopped"):
                group.pop("stopped", None)
    return clusters
