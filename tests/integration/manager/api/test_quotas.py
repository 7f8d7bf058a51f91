"""What an operator may own is bounded, and a name that nobody answers to can be had again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.decode import encode
from busbar.bus.messages import NodeState
from busbar.manager.quotas import Quotas

from tests.integration.manager.fixtures import TOPICS, Client, memory_net, rig_on

FEW = Quotas(nodes=3, clusters=2, groups=4)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with rig_on(memory_net(), tmp_path / "manager", quotas=FEW) as (_, made):
        yield made


def node(name: str) -> dict[str, Any]:
    return {"node": {"name": name}}


@pytest.mark.fault(86, "S")
async def test_an_operator_pairs_so_many_nodes_and_no_more(client: Client) -> None:
    made = [await client.call("bob", "pair_node", node(f"n{number}")) for number in range(FEW.nodes)]
    assert (await client.refused("bob", "pair_node", node("more"))).code == "quota_exceeded"
    await client.call("carol", "pair_node", node("carols"))
    for number in range(FEW.nodes + 2):
        await client.call("alice", "pair_node", node(f"a{number}"))
    await client.call("alice", "unpair_node", {"node_oid": made[0]["oid"]})
    await client.call("bob", "pair_node", node("more"))
    assert (await client.refused("bob", "pair_node", node("n0"))).code == "quota_exceeded"


@pytest.mark.fault(86, "S")
async def test_an_operators_clusters_and_their_groups_are_bounded(client: Client) -> None:
    clusters = [await client.cluster(f"c{number}", "bob") for number in range(FEW.clusters)]
    error = await client.refused("bob", "create_routercluster", {"routercluster": {"name": "more"}})
    assert error.code == "quota_exceeded"
    await client.cluster("carols", "carol")
    for number in range(FEW.groups):
        await client.group(clusters[number % 2], "bob", name=f"g{number}", runtime="exec", scale=0)
    ref = {"routercluster_oid": clusters[0]["oid"], "workergroup": {"scale": 0, "runtime": "exec"}}
    assert (await client.refused("bob", "add_routercluster_workergroup", ref)).code == "quota_exceeded"
    await client.call("alice", "add_routercluster_workergroup", ref)
    limits = (await client.call("vera", "get_manager"))["limits"]
    assert (limits["operator_nodes"], limits["operator_clusters"], limits["operator_groups"]) == (3, 2, 4)


@pytest.mark.fault(86, "S")
async def test_a_node_that_was_never_heard_can_be_forgotten_and_its_name_is_free(client: Client) -> None:
    """By who paired it, or by an owner; a person may then have the name, or another node."""
    made = await client.call("bob", "pair_node", node("dave"))
    cluster = await client.cluster()
    await client.call(
        "alice",
        "add_routercluster_node",
        {"routercluster_oid": cluster["oid"], "node_oid": made["oid"]},
    )
    assignment = TOPICS.node("dave", "assignment")
    await client.until(lambda: client.retained.get(assignment) and client.status("_", "node", "dave"))
    ref = {"node_oid": made["oid"]}
    assert (await client.refused("carol", "forget_node", ref)).code == "not_authorized"
    await client.call("bob", "forget_node", ref)
    await client.until(lambda: not client.retained[assignment] and not client.status("_", "node", "dave"))
    assert (await client.refused("alice", "get_node", ref)).code == "no_such_object"
    members = await client.call("vera", "list_routercluster_nodes", {"routercluster_oid": cluster["oid"]})
    assert members == []
    assert "node_forgotten" in client.event_names()
    await client.call("alice", "add_principal", {"principal": {"name": "dave", "role": "viewer"}})


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.fault(86, "M")
async def test_a_node_that_was_heard_is_not_forgotten(client: Client, again: bool) -> None:
    """Also not when it was paired anew: its agent may be away with an assignment of a greater version."""
    made = await client.call("bob", "pair_node", node("n1"))
    ref = {"node_oid": made["oid"]}
    birth = encode(NodeState("ready", "boot-1", 1))
    await client.link.publish(TOPICS.node("n1", "state"), birth, retain=True)
    await client.until(lambda: (client.status("_", "node", "n1") or {}).get("status") == "online")
    if again:
        await client.call("alice", "unpair_node", ref)
        await client.call("bob", "pair_node", node("n1"))
    error = await client.refused("alice", "forget_node", ref)
    assert (error.code, error.pointers) == ("not_stopped", ("/params/node_oid",))
    found = await client.call("vera", "get_node", ref)
    assert found["assignment_version"] == (3 if again else 1)
    assert json.loads(birth)["boot"] == "boot-1"


@pytest.mark.fault(86, "S")
async def test_the_name_of_a_node_that_was_heard_is_had_again_by_a_person(client: Client) -> None:
    made = await client.call("bob", "pair_node", node("dora"))
    birth = encode(NodeState("ready", "boot-1", 1))
    await client.link.publish(TOPICS.node("dora", "state"), birth, retain=True)
    await client.until(lambda: (client.status("_", "node", "dora") or {}).get("status") == "online")
    person = {"principal": {"name": "dora", "role": "viewer"}}
    for reuse in (False, True):
        error = await client.refused("alice", "add_principal", person | {"reuse": reuse})
        assert error.code == "already_exists", "it is paired"
    await client.call("alice", "unpair_node", {"node_oid": made["oid"]})
    error = await client.refused("alice", "add_principal", person)
    assert error.code == "already_exists" and "'reuse'" in error.detail
    await client.call("alice", "add_principal", person | {"reuse": True})
    assert (await client.refused("bob", "pair_node", node("dora"))).code == "already_exists"
    # What the person may write at the broker is not taken for the node's.
    await client.link.publish(TOPICS.node("dora", "state"), birth, retain=True)
    assert (await client.call("vera", "get_node", {"node_oid": made["oid"]}))["status"] == "unpaired"
