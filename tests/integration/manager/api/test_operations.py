"""Every operation of the contract, over a real broker and over the one in memory: what it does, what it
tells, and every error that it may answer with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS
from busbar.manager.api.operations import CHANGES, PLANS, READS

from tests.brokers import mosquitto
from tests.integration.manager.fixtures import TOPICS, Client, memory_net, mqtt_net, new_id, rig_on

WEB = {
    "type": "web",
    "endpoint": {"type": "tcp", "port": 8080, "shared": True},
    "paths": {"ws": {"type": "websocket"}},
}
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(params=["memory", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    if request.param == "memory":
        async with rig_on(memory_net(), tmp_path / "manager") as (_, client):
            yield client
        return
    with mosquitto(tmp_path) as port:
        async with rig_on(mqtt_net(port), tmp_path / "manager") as (_, client):
            yield client


def test_every_row_has_exactly_one_handler() -> None:
    handlers = [*READS, *PLANS, *CHANGES]
    assert len(set(handlers)) == len(handlers) and set(handlers) == set(OPERATIONS)
    assert {name for name, row in OPERATIONS.items() if row.change} == set(CHANGES)


async def test_a_cluster_from_its_creation_to_its_end(client: Client) -> None:
    made = await client.cluster("edge", label="Edge", tags=["a"], transport=WEB)
    assert made["status"] == "STOPPED" and made["version"] == 1 and made["transport"] == WEB
    owner = {p["name"]: p["oid"] for p in await client.call("vera", "list_principals")}["alice"]
    assert made["owner_oid"] == owner
    ref = {"routercluster_oid": made["oid"]}
    assert await client.call("vera", "get_routercluster", ref) == made
    by_name = await client.call("vera", "get_routercluster_by_name", {"routercluster_name": "edge"})
    assert by_name == made
    await client.until(lambda: client.status("edge", "routercluster", "edge"))

    started = await client.call("alice", "start_routercluster", ref)
    assert started["status"] == "STARTING" and started["version"] == 2
    assert started["who"] == {"authid": "alice", "authrole": "owner", "session": "t1"}
    await client.until(lambda: _is(client, "edge", "RUNNING"))
    assert (await client.refused("alice", "start_routercluster", ref)).code == "cannot_start"
    assert (await client.refused("alice", "delete_routercluster", ref)).code == "not_stopped"
    stopped = await client.call("alice", "stop_routercluster", ref)
    assert stopped["status"] == "STOPPING"
    await client.until(lambda: _is(client, "edge", "STOPPED"))
    assert (await client.refused("alice", "stop_routercluster", ref)).code == "cannot_stop"
    gone = await client.call("alice", "delete_routercluster", ref)
    assert gone["oid"] == made["oid"]
    await client.until(lambda: client.status("edge", "routercluster", "edge") is None)
    assert await client.call("vera", "list_routerclusters") == []
    names = [name for name in client.event_names() if name.startswith("routercluster")]
    assert names == [
        f"routercluster_{verb}"
        for verb in ("created", "starting", "started", "stopping", "stopped", "deleted")
    ]


def _is(client: Client, name: str, status: str) -> bool:
    found = client.status(name, "routercluster", name)
    return found is not None and found["status"] == status


async def test_clusters_are_listed_by_name(client: Client) -> None:
    made = {name: await client.cluster(name) for name in ("zeta", "alpha", "mid")}
    names = await client.call("vera", "list_routerclusters", {"return_names": True})
    assert names == ["alpha", "mid", "zeta"]
    assert await client.call("vera", "list_routerclusters") == [made[name]["oid"] for name in names]


async def test_a_cluster_is_refused_for_its_name_or_its_transport(client: Client) -> None:
    await client.cluster("edge")
    twice = await client.refused("alice", "create_routercluster", {"routercluster": {"name": "edge"}})
    assert (twice.code, twice.pointers) == ("already_exists", ("/params/routercluster/name",))
    climbing = {"type": "web", "paths": {"/": {"type": "static", "directory": "../etc"}}}
    wrong = await client.refused(
        "alice", "create_routercluster", {"routercluster": {"name": "b", "transport": climbing}}
    )
    assert wrong.code == "invalid_configuration"
    assert wrong.pointers == ("/params/routercluster/transport/paths/~1/directory",)


@pytest.mark.parametrize(
    "op",
    sorted(
        name for name, row in OPERATIONS.items() if "no_such_object" in row.errors and name != "list_workers"
    ),
)
async def test_what_does_not_exist_is_said_so(client: Client, op: str) -> None:
    params: dict[str, Any] = {}
    for member in OPERATIONS[op].params.__struct_fields__:
        if member.endswith("_oid"):
            params[member] = NOBODY
        elif member.endswith("_name"):
            params[member] = "nobody"
    params |= {
        "update_routercluster": {"routercluster": {}},
        "add_routercluster_workergroup": {"workergroup": {"scale": 1}},
        "scale_routercluster_workergroup": {"scale": 1},
        "update_routercluster_workergroup": {"workergroup": {}},
        "label_node": {"labels": {"zone": "a"}},
        "set_principal_role": {"role": "viewer"},
        "apply_rebalance": {"moves": {NOBODY: NOBODY}, "fence": {}},
        "explain": {"object": "nobody"},
        "get_routercluster_revision": {"revision": 1},
        "rollback_routercluster": {"revision": 1},
        "plan_routercluster_rollback": {"revision": 1},
        "plan_operation": {"operation": "drain_node", "params": {"node_oid": NOBODY}},
        "get_definitions": {"clusters": ["nobody"]},
        "apply_changes": {
            "desired": {"busbar": 1, "clusters": {"edge": {"nodes": {"nobody": {}}}}},
            "fence": {"/clusters/edge": 0},
        },
    }.get(op, {})
    error = await client.refused("alice", op, params)
    assert error.code == "no_such_object" and error.pointers


async def test_an_update_of_nats_that_would_leave_messages_behind_is_refused(client: Client) -> None:
    cluster = await client.cluster()
    ref = {"routercluster_oid": cluster["oid"]}
    alone = {"type": "mqtt", "listeners": {"mqtt": {}}}
    member = {"type": "mqtt", "listeners": {"mqtt": {}, "routes": {"type": "cluster"}}}
    group = {"name": "web", "scale": 1, "runtime": "nats", "transport": alone}
    made = await client.call("alice", "add_routercluster_workergroup", {**ref, "workergroup": group})
    mine = {**ref, "workergroup_oid": made["oid"]}
    joined = {**mine, "workergroup": {"transport": member}}
    changed = await client.call("alice", "update_routercluster_workergroup", joined)
    assert changed["transport"] == member, "stopped, it has given them up"
    await client.call("alice", "start_routercluster", ref)
    apart = {**mine, "workergroup": {"transport": alone}}
    refused = await client.refused("alice", "update_routercluster_workergroup", apart)
    assert refused.code == "invalid_configuration" and "add another group" in str(refused)
    assert refused.pointers == ("/params/workergroup/transport",)
    other = {**mine, "workergroup": {"transport": {**member, "options": {"replicas": 1}}}}
    assert (await client.call("alice", "update_routercluster_workergroup", other))["revision"] > 1
    apart["workergroup"] |= {"runtime": "amqtt"}
    assert (await client.call("alice", "update_routercluster_workergroup", apart))["runtime"] == "amqtt"


async def test_members(client: Client) -> None:
    cluster, one, two = await client.cluster(), await client.node("n1"), await client.node("n2")
    both = {"routercluster_oid": cluster["oid"], "node_oid": two["oid"]}
    limits = {"config": {"hardlimit": 4, "softlimit": 2}}
    added = await client.call("alice", "add_routercluster_node", both | limits)
    assert added == {"cluster_oid": cluster["oid"], "node_oid": two["oid"], "hardlimit": 4, "softlimit": 2}
    again = await client.refused("alice", "add_routercluster_node", both)
    assert (again.code, again.pointers) == ("already_exists", ("/params/node_oid",))
    odd = await client.refused(
        "alice",
        "add_routercluster_node",
        {**both, "node_oid": one["oid"], "config": {"hardlimit": 1, "softlimit": 2}},
    )
    assert (odd.code, odd.pointers) == ("invalid_argument", ("/params/config/softlimit",))
    assert await client.call("vera", "get_routercluster_node", both) == added
    await client.call("alice", "add_routercluster_node", {**both, "node_oid": one["oid"]})
    ref = {"routercluster_oid": cluster["oid"]}
    assert await client.call("vera", "list_routercluster_nodes", ref) == [one["oid"], two["oid"]]
    named = await client.call("vera", "list_routercluster_nodes", ref | {"return_names": True})
    assert named == ["n1", "n2"]
    online = await client.call("vera", "list_routercluster_nodes", ref | {"filter_by_status": "online"})
    assert online == []
    assert await client.call("alice", "remove_routercluster_node", both) == added
    assert (await client.refused("vera", "get_routercluster_node", both)).code == "no_such_object"
    names = [name for name in client.event_names() if "node_" in name and "cluster" in name]
    assert names == ["routercluster_node_added", "routercluster_node_added", "routercluster_node_removed"]


async def test_members_of_one_cluster_are_not_those_of_another(client: Client) -> None:
    one, other, node = await client.cluster("one"), await client.cluster("other"), await client.node("n1")
    await client.call(
        "alice", "add_routercluster_node", {"routercluster_oid": one["oid"], "node_oid": node["oid"]}
    )
    found = await client.call("vera", "list_routercluster_nodes", {"routercluster_oid": other["oid"]})
    assert found == []


async def test_worker_groups(client: Client) -> None:
    cluster = await client.cluster()
    first = await client.group(cluster, scale=2)
    assert (first["name"], first["runtime"], first["status"], first["scale"]) == (
        "group1",
        "amqtt",
        "STOPPED",
        2,
    )
    assert (first["lost_after"], first["start_deadline"]) == (30.0, 60.0)
    second = await client.group(cluster, name="web", transport=WEB, lost_after=5)
    assert (second["runtime"], second["lost_after"], second["scale"]) == ("crossbar", 5.0, 1)
    third = await client.group(cluster)
    assert third["name"] == "group2"
    ref = {"routercluster_oid": cluster["oid"]}
    web = ref | {"workergroup_oid": second["oid"]}
    assert await client.call("vera", "get_routercluster_workergroup", web) == second
    by_name = {"routercluster_name": "edge", "workergroup_name": "web"}
    assert await client.call("vera", "get_routercluster_workergroup_by_name", by_name) == second
    listed = await client.call("vera", "list_routercluster_workergroups", ref | {"return_names": True})
    assert listed == ["group1", "group2", "web"]
    running = ref | {"filter_by_status": "RUNNING"}
    assert await client.call("vera", "list_routercluster_workergroups", running) == []
    scaled = await client.call("alice", "scale_routercluster_workergroup", web | {"scale": 7})
    assert (scaled["scale"], scaled["version"]) == (7, 2)
    assert await client.call("alice", "remove_routercluster_workergroup", web) == scaled
    await client.until(lambda: client.status("edge", "workergroup", "web") is None)
    told = [name for name in client.event_names() if name.startswith("workergroup")]
    assert told == ["workergroup_added"] * 3 + ["workergroup_scaled", "workergroup_removed"]


async def test_a_group_of_a_started_cluster_starts_and_can_not_be_removed(client: Client) -> None:
    cluster = await client.cluster()
    await client.call("alice", "start_routercluster", {"routercluster_oid": cluster["oid"]})
    group = await client.group(cluster, name="web", scale=1)
    assert group["status"] == "STARTING"
    ref = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    error = await client.refused("alice", "remove_routercluster_workergroup", ref)
    assert (error.code, error.pointers) == ("not_stopped", ("/params/workergroup_oid",))
    pending = await client.until(lambda: _pending(client))
    assert pending["reason"] and pending["node"] is None
    stat = await client.call("vera", "stat_routercluster_workergroup", ref)
    assert (stat["scale"], stat["pending"], stat["ready"]) == (1, 1, 0)
    assert stat["workers"][0]["name"] == "web-1" and stat["workers"][0]["workergroup"] == "web"
    whole = await client.call("vera", "stat_routercluster", {"routercluster_oid": cluster["oid"]})
    assert whole["workergroups"][0]["name"] == "web" and whole["pending"] == 1
    oids = await client.call("vera", "list_workers", {"workergroup_oid": group["oid"]})
    worker = await client.call("vera", "get_worker", {"worker_oid": oids[0]})
    assert (worker["name"], worker["state"], worker["cluster"]) == ("web-1", "PENDING", "edge")
    stopped = {"filter_by_status": "STOPPED", "return_names": True}
    assert await client.call("vera", "list_workers", stopped) == []
    assert await client.call("vera", "list_workers", {"return_names": True}) == ["web-1"]


async def test_workers_of_what_does_not_exist(client: Client) -> None:
    for member in ("routercluster_oid", "workergroup_oid", "node_oid"):
        error = await client.refused("vera", "list_workers", {member: NOBODY})
        assert (error.code, error.pointers) == ("no_such_object", (f"/params/{member}",))


def _pending(client: Client) -> dict[str, Any] | None:
    found = client.status("edge", "worker", "web-1")
    return found if found and found["status"] == "PENDING" else None


@pytest.mark.parametrize(
    ("wish", "code", "pointer"),
    [
        ({"runtime": "crossbar"}, "invalid_configuration", "/params/workergroup/runtime"),
        (
            {"runtime": "amqtt", "transport": WEB},
            "invalid_configuration",
            "/params/workergroup/transport/type",
        ),
        (
            {"runtime": "mosquitto", "transport": WEB},
            "invalid_configuration",
            "/params/workergroup/transport/type",
        ),
        ({"transport": {"type": "tcp"}}, "invalid_configuration", "/params/workergroup/transport/type"),
        (
            {"transport": {"type": "carrier-pigeon"}},
            "invalid_configuration",
            "/params/workergroup/transport/type",
        ),
        ({"name": "web"}, "already_exists", "/params/workergroup/name"),
        ({"name": "We b"}, "invalid_argument", "/params/workergroup/name"),
        ({"scale": -1}, "invalid_argument", "/params/workergroup/scale"),
        ({"scale": "4"}, "invalid_argument", "/params/workergroup/scale"),
        ({"sclae": 4}, "invalid_argument", "/params/workergroup/sclae"),
    ],
)
async def test_a_group_is_refused(tmp_path: Path, wish: dict[str, Any], code: str, pointer: str) -> None:
    async with rig_on(memory_net(), tmp_path / "manager") as (_, client):
        cluster = await client.cluster()
        await client.group(cluster, name="web")
        params = {"routercluster_oid": cluster["oid"], "workergroup": {"scale": 1} | wish}
        error = await client.refused("alice", "add_routercluster_workergroup", params)
        assert (error.code, error.pointers) == (code, (pointer,))


async def test_an_operators_own_runtime_takes_any_transport(client: Client) -> None:
    group = await client.group(await client.cluster(transport=WEB), runtime="nginx")
    assert group["runtime"] == "nginx"


async def test_nodes(client: Client) -> None:
    node = await client.call("bob", "pair_node", {"node": {"name": "n1", "labels": {"site": "north"}}})
    assert (node["status"], node["labels"], node["workers"]) == ("offline", {"site": "north"}, 0)
    assignment = await client.until(lambda: client.assignment("n1"))
    assert assignment["workers"] == [] and assignment["version"] == 1
    command = await client.until(lambda: [m for m in client.seen if m.topic == TOPICS.node("n1", "command")])
    assert json.loads(command[0].payload) == {"resync": True}
    again = await client.refused("bob", "pair_node", {"node": {"name": "n1"}})
    assert (again.code, again.pointers) == ("already_exists", ("/params/node/name",))
    assert await client.call("vera", "list_nodes", {"return_names": True}) == ["n1"]
    assert await client.call("vera", "list_nodes", {"filter_by_status": "online"}) == []
    by_name = await client.call("vera", "get_node_by_name", {"node_name": "n1"})
    assert by_name == await client.call("vera", "get_node", {"node_oid": node["oid"]})
    status = await client.until(lambda: client.status("_", "node", "n1"))
    assert status["status"] == "offline"

    assert (await client.refused("bob", "unpair_node", {"node_oid": node["oid"]})).code == "not_authorized"
    gone = await client.call("alice", "unpair_node", {"node_oid": node["oid"]})
    assert (gone["status"], gone["oid"]) == ("unpaired", node["oid"])
    await client.until(
        lambda: client.assignment("n1")["version"] == 2 and client.status("_", "node", "n1") is None
    )
    assert client.assignment("n1")["workers"] == []
    assert await client.call("vera", "list_nodes") == []
    assert await client.call("vera", "list_nodes", {"filter_by_status": "unpaired"}) == [node["oid"]]
    back = await client.call("bob", "pair_node", {"node": {"name": "n1"}})
    assert (back["oid"], back["status"], back["labels"]) == (node["oid"], "offline", None)
    await client.until(lambda: client.assignment("n1")["version"] == 3)


async def test_an_unpaired_node_leaves_its_clusters(client: Client) -> None:
    cluster, node = await client.cluster(), await client.node("n1")
    both = {"routercluster_oid": cluster["oid"], "node_oid": node["oid"]}
    await client.call("alice", "add_routercluster_node", both)
    await client.call("alice", "unpair_node", {"node_oid": node["oid"]})
    ref = {"routercluster_oid": cluster["oid"]}
    assert await client.call("vera", "list_routercluster_nodes", ref) == []
    assert (await client.refused("alice", "add_routercluster_node", both)).code == "no_such_object"


async def test_principals_and_their_names(client: Client) -> None:
    made = await client.call("alice", "add_principal", {"principal": {"name": "dave", "role": "viewer"}})
    assert (made["name"], made["role"]) == ("dave", "viewer")
    twice = await client.refused("alice", "add_principal", {"principal": {"name": "dave", "role": "owner"}})
    assert twice.code == "already_exists"
    changed = await client.call("alice", "set_principal_role", {"principal_name": "vera", "role": "operator"})
    assert changed["role"] == "operator"
    await client.cluster("veras", who="vera")
    await client.call("alice", "remove_principal", {"principal_name": "vera"})
    assert (await client.refused("vera", "list_nodes")).code == "no_such_principal"
    assert (
        await client.refused("bob", "add_principal", {"principal": {"name": "x", "role": "owner"}})
    ).code == "not_authorized"
    last = await client.refused("alice", "remove_principal", {"principal_name": "alice"})
    assert last.code == "not_authorized"
    assert (
        await client.refused("alice", "set_principal_role", {"principal_name": "alice", "role": "viewer"})
    ).code == "not_authorized"
    # Brokers know principals and nodes by one kind of user name.
    assert (await client.refused("alice", "pair_node", {"node": {"name": "bob"}})).code == "already_exists"
    await client.node("n1")
    clash = await client.refused("alice", "add_principal", {"principal": {"name": "n1", "role": "viewer"}})
    assert clash.code == "already_exists"


async def test_roles_and_ownership(client: Client) -> None:
    bobs = await client.cluster("bobs", who="bob")
    ref = {"routercluster_oid": bobs["oid"]}
    assert (
        await client.refused("vera", "create_routercluster", {"routercluster": {"name": "x"}})
    ).code == "not_authorized"
    assert (await client.refused("mallory", "list_routerclusters")).code == "no_such_principal"
    node = await client.node("n1")
    foreign: dict[str, dict[str, Any]] = {
        "update_routercluster": {"routercluster": {}},
        "start_routercluster": {},
        "stop_routercluster": {},
        "rollback_routercluster": {"revision": 1},
        "delete_routercluster": {},
        "add_routercluster_node": {"node_oid": node["oid"]},
        "remove_routercluster_node": {"node_oid": node["oid"]},
        "add_routercluster_workergroup": {"workergroup": {"scale": 1}},
        "remove_routercluster_workergroup": {"workergroup_oid": new_id()},
        "scale_routercluster_workergroup": {"workergroup_oid": new_id(), "scale": 1},
        "update_routercluster_workergroup": {"workergroup_oid": new_id(), "workergroup": {}},
        "start_routercluster_workergroup": {"workergroup_oid": new_id()},
        "stop_routercluster_workergroup": {"workergroup_oid": new_id()},
        "restart_routercluster_workergroup": {"workergroup_oid": new_id()},
        "restart_routercluster_worker": {"workergroup_oid": new_id(), "worker_oid": new_id()},
    }
    assert set(foreign) == {name for name, row in OPERATIONS.items() if row.owned == "cluster"}
    for op, more in foreign.items():
        error = await client.refused("carol", op, ref | more)
        assert (op, error.code) == (op, "not_authorized")
    assert (await client.call("bob", "start_routercluster", ref))["status"] == "STARTING"
    assert (await client.call("alice", "stop_routercluster", ref))["status"] == "STOPPING"


@pytest.mark.fault(80, "P")
async def test_a_nodes_owner_is_who_paired_it(client: Client) -> None:
    """Draining moves the workers of whoever runs there: it is the node's owner's, or a realm owner's."""
    node = await client.call("bob", "pair_node", {"node": {"name": "n1"}})
    ref = {"node_oid": node["oid"]}
    who = {row["name"]: row["oid"] for row in await client.call("vera", "list_principals")}
    assert node["owner_oid"] == who["bob"]
    tries: dict[str, dict[str, Any]] = {
        "drain_node": ref,
        "undrain_node": ref,
        "cordon_node": ref,
        "uncordon_node": ref,
        "label_node": ref | {"labels": {"zone": "a"}},
    }
    assert {*tries, "forget_node"} == {name for name, row in OPERATIONS.items() if row.owned == "node"}
    for op, params in tries.items():
        error = await client.refused("carol", op, params)
        assert (error.code, error.pointers) == ("not_authorized", ("/params/node_oid",))
        await client.call("bob", op, params)
        await client.call("alice", op, params)
    assert (await client.refused("bob", "unpair_node", ref)).code == "not_authorized"
    await client.call("alice", "unpair_node", ref)
    again = await client.call("carol", "pair_node", {"node": {"name": "n1"}})
    assert again["owner_oid"] == who["carol"]
    assert (await client.refused("bob", "drain_node", ref)).code == "not_authorized"
    await client.call("alice", "remove_principal", {"principal_name": "carol"})
    await client.call(
        "alice", "add_principal", {"principal": {"name": "carol", "role": "operator"}, "reuse": True}
    )
    assert (await client.refused("carol", "drain_node", ref)).code == "not_authorized"


async def test_labels_of_a_node_are_set_changed_and_taken_away(client: Client) -> None:
    node = await client.call("alice", "pair_node", {"node": {"name": "n1", "labels": {"site": "north"}}})
    ref = {"node_oid": node["oid"]}
    both = await client.call("alice", "label_node", ref | {"labels": {"zone": "a", "rack": "r1"}})
    assert both["labels"] == {"site": "north", "zone": "a", "rack": "r1"}
    fewer = await client.call(
        "alice", "label_node", ref | {"labels": {"zone": "b", "rack": None, "gpu": None}}
    )
    assert fewer["labels"] == {"site": "north", "zone": "b"} and fewer["version"] == both["version"] + 1
    same = await client.call("alice", "label_node", ref | {"labels": {"zone": "b", "rack": None}})
    assert same["version"] == fewer["version"], "nothing has changed"
    told = [e["data"] for e in await client.call("alice", "get_events", {"types": ["node_labelled"]})]
    assert [(e["labels"], e["reason"], e["who"]["authid"]) for e in told] == [
        ({"zone": "a", "rack": "r1"}, "zone=a, rack=r1", "alice"),
        ({"zone": "b", "rack": None}, "zone=b, rack-", "alice"),
    ]
    error = await client.refused("alice", "label_node", ref | {"labels": {f"k{n}": "" for n in range(63)}})
    assert (error.code, error.pointers) == ("invalid_argument", ("/params/labels",))
    for labels in ({}, {"no such": "a"}, {"a": 1}):
        assert (
            await client.refused("alice", "label_node", ref | {"labels": labels})
        ).code == "invalid_argument"
    late = ref | {"labels": {"zone": "c"}}
    assert (await client.refused("alice", "label_node", late, expect_version=1)).code == "version_conflict"
    bare = await client.call("alice", "label_node", ref | {"labels": {"site": None, "zone": None}})
    assert bare["labels"] == {}, "and not null, which the agent's own labels would fill"
    await client.call("alice", "unpair_node", ref)
    assert (await client.refused("alice", "label_node", late)).code == "no_such_object"


async def test_a_groups_placement_is_stored_in_its_normal_form_and_may_be_left_out(client: Client) -> None:
    cluster = await client.cluster("edge")
    ref = {"routercluster_oid": cluster["oid"]}
    plain = await client.call(
        "alice", "add_routercluster_workergroup", ref | {"workergroup": {"scale": 1, "name": "old"}}
    )
    assert plain["placement"] is None
    wanted = {"require": {"zone": ["b", "a", "b"], "disk": ["ssd"]}, "spread": "zone"}
    new = {"scale": 1, "name": "web", "placement": wanted}
    group = await client.call("alice", "add_routercluster_workergroup", ref | {"workergroup": new})
    normal = {"require": {"disk": "ssd", "zone": ["a", "b"]}, "spread": "zone"}
    assert group["placement"] == normal
    both = ref | {"workergroup_oid": group["oid"]}
    op = "update_routercluster_workergroup"
    kept = await client.call("alice", op, both | {"workergroup": {"label": "L"}})
    assert kept["placement"] == normal, "a client that knows nothing of it leaves it alone"
    less = await client.call("alice", op, both | {"workergroup": {"placement": {"spread": "rack"}}})
    assert (less["placement"], less["revision"]) == ({"spread": "rack"}, 1), "no worker is replaced"
    gone = await client.call("alice", op, both | {"workergroup": {"placement": None}})
    assert gone["placement"] is None
    empty = await client.call("alice", op, both | {"workergroup": {"placement": {}}})
    assert empty["placement"] is None
    for wrong in ({"near": "a"}, {"require": {"zone": []}}, {"spread": ""}):
        error = await client.refused("alice", op, both | {"workergroup": {"placement": wrong}})
        assert error.code == "invalid_argument" and error.pointers[0].startswith(
            "/params/workergroup/placement"
        )


async def test_expected_versions(client: Client) -> None:
    cluster = await client.cluster()
    group = await client.group(cluster, name="web")
    ref = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    await client.call("alice", "scale_routercluster_workergroup", ref | {"scale": 2}, expect_version=1)
    late = await client.refused(
        "alice", "scale_routercluster_workergroup", ref | {"scale": 3}, expect_version=1
    )
    assert (late.code, late.pointers) == ("version_conflict", ("/expect/version",))
    found = await client.call("vera", "get_routercluster_workergroup", ref)
    assert found["scale"] == 2
    whole = {"routercluster_oid": cluster["oid"]}
    assert (
        await client.refused("alice", "start_routercluster", whole, expect_version=9)
    ).code == "version_conflict"
    await client.call("alice", "start_routercluster", whole, expect_version=1)
    odd = await client.refused(
        "alice", "create_routercluster", {"routercluster": {"name": "x"}}, expect_version=1
    )
    assert (odd.code, odd.pointers) == ("invalid_argument", ("/expect",))


async def test_events_have_the_contracts_form_and_no_gaps(client: Client) -> None:
    await client.cluster("edge", who="bob")
    await client.call("alice", "pair_node", {"node": {"name": "n1"}}, request_id="r-77")
    events = await client.until(lambda: len(client.events()) >= 2 and client.events())
    created, paired = events[:2]
    assert created["specversion"] == "1.0" and created["type"] == "busbar.on_routercluster_created"
    assert created["subject"] == "routercluster/edge" and created["datacontenttype"] == "application/json"
    store = (await client.call("vera", "get_manager"))["store"]
    assert created["id"] == f"{store}-0000000001" and created["source"] == f"/busbar/lab/{store}"
    assert created["data"]["who"] == {"authid": "bob", "authrole": "operator", "session": "t1"}
    assert created["data"]["version"] == 1 and created["data"]["epoch"] == 1
    assert paired["data"]["request_id"] == "r-77" and paired["subject"] == "node/n1"
    stored = await client.call("vera", "get_events", {"since": 0, "limit": 10})
    assert stored[:2] == [created, paired]
    assert await client.call("vera", "get_events", {"since": "0000000001", "limit": 1}) == [paired]
    assert [event["sequence"] for event in stored] == [f"{n:010d}" for n in range(1, len(stored) + 1)]


async def test_the_manager_tells_about_itself(client: Client) -> None:
    await client.cluster()
    info = await client.call("vera", "get_manager")
    assert (info["manager"], info["state"], info["epoch"], info["realm"]) == ("m1", "online", 1, "lab")
    assert (
        info["clusters"] == {"STOPPED": 1} and info["limits"]["in_flight"] == 256 and info["conditions"] == []
    )
    state = json.loads(client.retained[TOPICS.manager_state("m1")])
    assert state["state"] == "online" and state["store"] == info["store"] and state["epoch"] == 1
