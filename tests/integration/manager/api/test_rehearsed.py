"""Single changes planned on a real store: nothing is changed, and then what was planned happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS, PLANNER
from busbar.bus.errors import BusError
from busbar.bus.plans import OperationPlan
from busbar.bus.states import WorkerState
from busbar.manager.store import Tx
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import convert

from tests.integration.manager.api.test_declared import MQTT, begun, document, edge
from tests.integration.manager.declaring import Realm, held, realm_in
from tests.integration.manager.fixtures import Client, memory_net, rig_on

PLANNED = sorted(name for name, row in OPERATIONS.items() if row.planned_by == PLANNER)
NOBODY = "00000000-0000-0000-0000-000000000000"


class Scene:
    """Cluster `edge` runs two workers on n1 and n2, of one version each; `west` is stopped, and n3 spare."""

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        reads = realm.store.reads
        clusters = {row.name: row.oid for row in reads.clusters()}
        groups = {(row.cluster_oid, row.name): row.oid for row in reads.groups()}
        self.nodes = {row.name: row.oid for row in reads.nodes()}
        self.workers = {row.name: row.oid for row in reads.workers()}
        self.edge = {"routercluster_oid": clusters["edge"]}
        self.west = {"routercluster_oid": clusters["west"]}
        self.web, self.off, self.old = (
            {"routercluster_oid": clusters[name], "workergroup_oid": groups[clusters[name], group]}
            for name, group in (("edge", "web"), ("edge", "off"), ("west", "old"))
        )

    def params(self) -> dict[str, dict[str, Any]]:
        """For each change one that is possible here."""
        n1, n3 = {"node_oid": self.nodes["n1"]}, {"node_oid": self.nodes["n3"]}
        return {
            "create_routercluster": {"routercluster": {"name": "east"}},
            "update_routercluster": {**self.edge, "routercluster": {"transport": MQTT}},
            "delete_routercluster": self.west,
            "start_routercluster": self.west,
            "stop_routercluster": self.edge,
            "add_routercluster_node": {**self.edge, **n3},
            "remove_routercluster_node": {**self.edge, **n1},
            "add_routercluster_workergroup": {**self.edge, "workergroup": {"scale": 2}},
            "remove_routercluster_workergroup": self.old,
            "scale_routercluster_workergroup": {**self.web, "scale": 4},
            "update_routercluster_workergroup": {
                **self.web,
                "workergroup": {"runtime": "mosquitto"},
                "max_surge": 1,
            },
            "start_routercluster_workergroup": self.off,
            "stop_routercluster_workergroup": self.web,
            "restart_routercluster_workergroup": self.web,
            "restart_routercluster_worker": {**self.web, "worker_oid": self.workers["web-2"]},
            "pair_node": {"node": {"name": "n9"}},
            "forget_node": {"node_oid": self.nodes["n5"]},
            "drain_node": n1,
            "undrain_node": n1,
            "cordon_node": n1,
            "uncordon_node": n1,
            "label_node": {**n1, "labels": {"zone": "c"}},
            "unpair_node": n1,
        }

    def plan(self, op: str, params: dict[str, Any] | None = None, **more: Any) -> OperationPlan:
        given = self.params()[op] if params is None else params
        found: OperationPlan = self.realm.read(PLANNER, operation=op, params=given, **more)
        return found

    async def do(self, op: str, params: dict[str, Any] | None = None) -> None:
        given = self.params()[op] if params is None else params
        await self.realm.change(op, convert(given, OPERATIONS[op].params))

    async def happens(self, op: str, params: dict[str, Any] | None = None) -> OperationPlan:
        """Plan, do it, and hold what was planned against what then happened."""
        return await held(self.realm, lambda: self.plan(op, params), lambda plan: self.do(op, params))


async def scene_in(realm: Realm, **more: Any) -> Scene:
    desired = document(edge=edge(**more), west={"nodes": {"n1": {}}, "groups": {"old": {"scale": 1}}})
    desired["clusters"]["edge"]["groups"]["off"] = {"scale": 1, "stopped": True}
    desired["nodes"] = {"n5": {}}
    await begun(realm, desired)
    return Scene(realm)


def steps(plan: OperationPlan) -> list[tuple[str, str, str | None, str | None]]:
    return [(step.worker, step.action, step.before, step.node) for step in plan.workers]


@pytest.mark.parametrize("op", PLANNED)
async def test_a_change_planned_is_no_change_and_done_it_is_what_was_planned(op: str) -> None:
    with realm_in() as realm:
        scene = await scene_in(realm)
        assert set(scene.params()) == set(PLANNED), "each has its example"
        plan = await scene.happens(op)
        named = {"routercluster_oid", "workergroup_oid", "node_oid"} & scene.params()[op].keys()
        assert (plan.version is not None) is bool(named)


async def test_a_drain_moves_one_of_each_group_at_a_time_and_says_what_stays() -> None:
    with realm_in() as realm:
        scene = await scene_in(realm, scale=4)
        plan = await scene.happens("drain_node")
        assert steps(plan) == [
            ("edge/web-1", "move", "n1", "n2"), ("edge/web-3", "move", "n1", "n2")
        ]  # fmt: skip
        assert plan.workers[0].order < plan.workers[1].order
        assert {step.reason for step in plan.workers} == {"n1 is draining"}
        assert scene.plan("drain_node", {"node_oid": scene.nodes["n1"]}).workers == [], "all have gone"
        last = {"node_oid": scene.nodes["n2"]}
        plan = await scene.happens("drain_node", last)
        assert steps(plan) == [(f"edge/web-{n}", "wait", "n2", "n2") for n in (1, 2, 3, 4)]
        assert {step.reason for step in plan.workers} == {"n1 is draining; n2 is draining"}
        assert plan.complete


async def test_restarts_go_as_the_limits_let_them() -> None:
    with realm_in() as realm:
        scene = await scene_in(realm, scale=3)
        plan = await scene.happens("restart_routercluster_workergroup")
        orders = [step.order for step in plan.workers]
        assert [step.action for step in plan.workers] == ["restart"] * 3 and len(set(orders)) == 3
        plan = await scene.happens("restart_routercluster_workergroup", {**scene.web, "max_unavailable": 3})
        assert [(step.order, step.action) for step in plan.workers] == [(1, "restart")] * 3
        plan = await scene.happens(
            "restart_routercluster_workergroup", {**scene.web, "max_unavailable": 0, "max_surge": 1}
        )
        told = [(step.worker, step.action) for step in plan.workers]
        assert told[0] == ("edge/web-4", "start") and told[-1] == ("edge/web-4", "stop")
        assert told[1:-1] == [(f"edge/web-{n}", "restart") for n in (1, 2, 3)]


async def test_a_worker_that_is_not_ready_is_restarted_at_once_and_a_ready_one_waits_for_it() -> None:
    with realm_in() as realm:
        scene = await scene_in(realm)
        first, second = ({**scene.web, "worker_oid": scene.workers[f"web-{n}"]} for n in (1, 2))
        await realm.store.write(
            lambda tx: tx.update_worker(
                scene.workers["web-1"], state=WorkerState.BACKOFF, reason="it crashed"
            )
        )
        plan = scene.plan("restart_routercluster_worker", second)
        assert steps(plan) == [("edge/web-2", "wait", "n2", "n2")]
        assert plan.workers[0].reason == "1 of 2 workers of group web are ready"
        plan = await scene.happens("restart_routercluster_worker", first)
        assert steps(plan) == [("edge/web-1", "restart", "n1", "n1")]
        assert plan.workers[0].reason == "restart ordered by alice"


async def test_what_it_was_planned_with_is_the_version_of_the_object() -> None:
    with realm_in() as realm:
        scene = await scene_in(realm)
        row = realm.store.reads.group(scene.web["workergroup_oid"])
        assert row is not None
        assert scene.plan("scale_routercluster_workergroup").version == row.version
        assert scene.plan("restart_routercluster_worker", expect_version=row.version).version == row.version
        with pytest.raises(BusError) as raised:
            scene.plan("scale_routercluster_workergroup", expect_version=row.version + 1)
        assert (raised.value.code, raised.value.pointers) == ("version_conflict", ("/params/expect_version",))
        with pytest.raises(BusError) as raised:
            scene.plan("create_routercluster", expect_version=1)
        assert (raised.value.code, raised.value.pointers) == ("invalid_argument", ("/params/expect_version",))


@pytest.mark.parametrize("op", [*sorted(set(OPERATIONS) - set(PLANNED)), "no_such"])
async def test_what_can_not_be_planned_is_refused_with_a_hint(op: str) -> None:
    with realm_in() as realm:
        await realm.begin()
        facts = realm.facts()
        with pytest.raises(BusError) as raised:
            realm.read(PLANNER, operation=op, params={})
        assert (raised.value.code, raised.value.pointers) == ("invalid_argument", ("/params/operation",))
        other = OPERATIONS[op].planned_by if op in OPERATIONS else None
        assert (other or op) in raised.value.detail and realm.facts() == facts


NODES, GROUPS = st.sampled_from(["n1", "n2", "n3", "n4"]), st.sampled_from(["web", "off"])
ORDERS = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                *("drain_node", "undrain_node", "cordon_node", "uncordon_node", "unpair_node"),
                *("add_routercluster_node", "remove_routercluster_node"),
            ]
        ),
        NODES,
    ),
    st.tuples(
        st.sampled_from([f"{verb}_routercluster_workergroup" for verb in ("start", "stop", "remove")]), GROUPS
    ),
    st.tuples(
        st.just("restart_routercluster_workergroup"), GROUPS, st.sampled_from([(1, 0), (0, 1), (2, 1)])
    ),
    st.tuples(st.just("scale_routercluster_workergroup"), GROUPS, st.integers(0, 5)),
    st.tuples(st.just("restart_routercluster_worker"), st.sampled_from(["web-1", "web-2", "web-3"])),
    st.tuples(st.sampled_from(["start_routercluster", "stop_routercluster"])),
    st.tuples(st.just("a worker fails"), st.sampled_from(["web-1", "web-2"])),
)
"""An operation, and of what."""


def asked(scene: Scene, op: str, *words: Any) -> dict[str, Any]:
    members = set(OPERATIONS[op].params.__struct_fields__)
    found: dict[str, Any] = scene.edge if "routercluster_oid" in members else {}
    if "worker_oid" in members:
        return {**scene.web, "worker_oid": scene.workers.get(words[0], NOBODY)}
    if "node_oid" in members:
        return {**found, "node_oid": scene.nodes[words[0]]}
    if "workergroup_oid" not in members:
        return found
    found = {"web": scene.web, "off": scene.off}[words[0]]
    if op.startswith("restart_"):
        return {**found, "max_unavailable": words[1][0], "max_surge": words[1][1]}
    return {**found, "scale": words[1]} if op.startswith("scale_") else found


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(ORDERS, min_size=4, max_size=8))
def test_whatever_was_ordered_before_the_next_order_goes_as_planned(orders: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        with realm_in() as realm:
            scene = await scene_in(realm, scale=3)
            for op, *words in orders:
                scene.workers = {row.name: row.oid for row in realm.store.reads.workers()}
                if op == "a worker fails":
                    await fails(realm, words[0])
                    continue
                params = asked(scene, op, *words)
                try:
                    scene.plan(op, params)
                except BusError as error:
                    with pytest.raises(BusError) as raised:
                        await scene.do(op, params)
                    assert (raised.value.code, raised.value.detail) == (error.code, error.detail)
                else:
                    await scene.happens(op, params)

    asyncio.run(run())


async def fails(realm: Realm, name: str) -> None:
    """A worker that runs crashes, and goes on crashing."""

    def fail(tx: Tx) -> None:
        for row in tx.workers():
            if row.name == name and row.state is WorkerState.RUNNING:
                tx.update_worker(row.oid, state=WorkerState.BACKOFF, reason="it crashed")

    await realm.store.write(fail)
    await realm.settle()


# --- over the bus


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with rig_on(memory_net(), tmp_path / "manager") as (_, client):
        yield client


async def refused_alike(client: Client, who: str, op: str, params: dict[str, Any], **more: Any) -> BusError:
    """The error of a plan, which is that of the change but for its place."""
    asked = {"operation": op, "params": params, **more}
    planned = await client.refused(who, PLANNER, asked)
    done = await client.refused(who, op, params, **more)
    assert (planned.code, planned.detail) == (done.code, done.detail)
    wanted = (
        "/params/expect_version" if at.startswith("/expect") else f"/params{at}" for at in done.pointers
    )
    assert planned.pointers == tuple(wanted)
    return planned


@pytest.mark.parametrize("op", PLANNED)
async def test_who_may_not_do_it_may_not_plan_it(client: Client, op: str) -> None:
    row = OPERATIONS[op]
    bobs = await client.cluster("bobs", who="bob")
    node = await client.call("bob", "pair_node", {"node": {"name": "n1"}})
    known = {"routercluster_oid": bobs["oid"], "node_oid": node["oid"]}
    filled = {
        "routercluster": {"name": "x"} if op == "create_routercluster" else {},
        "workergroup": {"scale": 1} if op == "add_routercluster_workergroup" else {},
        "scale": 1, "labels": {"zone": "a"}, "node": {"name": "n2"},
    }  # fmt: skip
    params = {
        name: known.get(name, NOBODY) if name.endswith("_oid") else filled[name]
        for name in row.params.__struct_encode_fields__
        if name.endswith("_oid") or name in filled
    }
    viewer = await client.refused("vera", PLANNER, {"operation": op, "params": params})
    assert viewer.code == "not_authorized"
    assert (await client.refused("mallory", PLANNER, {"operation": op, "params": params})).code == (
        "no_such_principal"
    )
    if row.owned or "operator" not in row.roles:
        error = await refused_alike(client, "carol", op, params)
        assert error.code == "not_authorized"


async def test_errors_of_a_plan_point_into_the_change(client: Client) -> None:
    cluster = await client.cluster()
    group = await client.group(cluster)
    ref = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    for op, params, code in (
        ("drain_node", {"node_oid": NOBODY}, "no_such_object"),
        ("drain_node", {"node": "n1"}, "invalid_argument"),
        ("scale_routercluster_workergroup", {**ref, "scale": -1}, "invalid_argument"),
        ("restart_routercluster_workergroup", ref, "cannot_start"),
        ("stop_routercluster", {"routercluster_oid": cluster["oid"]}, "cannot_stop"),
        ("create_routercluster", {"routercluster": {"name": cluster["name"]}}, "already_exists"),
    ):
        error = await refused_alike(client, "alice", op, params)
        assert error.code == code and error.pointers[0].startswith("/params/params/")
    late = {**ref, "scale": 2}
    error = await refused_alike(client, "alice", "scale_routercluster_workergroup", late, expect_version=99)
    assert error.code == "version_conflict"


async def test_a_plan_is_told_to_nobody_and_takes_no_request_id(client: Client) -> None:
    cluster = await client.cluster()
    await client.group(cluster, name="web", scale=2)
    ref = {"routercluster_oid": cluster["oid"]}
    asked = {"operation": "start_routercluster", "params": ref}
    changes = await client.call("alice", "list_audit")
    before = (await client.call("alice", "get_manager"))["sequence"]
    plan = await client.call("alice", PLANNER, asked, request_id="r-1")
    assert [(step["worker"], step["action"]) for step in plan["workers"]] == [
        ("edge/web-1", "wait"), ("edge/web-2", "wait")
    ]  # fmt: skip
    assert (await client.call("alice", "get_manager"))["sequence"] == before
    assert await client.call("alice", "list_audit") == changes
    done = await client.call(
        "alice", "start_routercluster", ref, request_id="r-1", expect_version=plan["version"]
    )
    assert done["status"] == "STARTING", "the id is still free"
