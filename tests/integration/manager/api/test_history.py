"""What a cluster was to be, by whom and when, and the way back, over the bus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from busbar.manager.api.operations.history import KEPT

from tests.integration.manager.fixtures import Client, memory_net, rig_on

MQTT = {"type": "mqtt", "endpoint": {"type": "tcp", "port": 24000}}


async def history(client: Client, cluster: dict[str, Any], **more: int) -> list[dict[str, Any]]:
    params = {"routercluster_oid": cluster["oid"], **more}
    found: list[dict[str, Any]] = await client.call("vera", "list_routercluster_revisions", params)
    return found


async def definition(client: Client, cluster: dict[str, Any], revision: int) -> dict[str, Any]:
    params = {"routercluster_oid": cluster["oid"], "revision": revision}
    found = await client.call("vera", "get_routercluster_revision", params)
    assert found["revision"] == revision
    return dict(found["definition"])


async def test_every_change_is_a_revision_and_so_is_the_way_back(tmp_path: Path) -> None:
    async with rig_on(memory_net(), tmp_path) as (_, client):
        node = await client.node("n1")
        cluster = await client.cluster(who="bob", label="first")
        ref = {"routercluster_oid": cluster["oid"]}
        await client.call("alice", "add_routercluster_node", ref | {"node_oid": node["oid"]})
        group = await client.group(cluster, name="web")
        of_group = ref | {"workergroup_oid": group["oid"]}
        await client.call("alice", "start_routercluster", ref)
        await client.call("bob", "scale_routercluster_workergroup", of_group | {"scale": 3})
        await client.call("bob", "scale_routercluster_workergroup", of_group | {"scale": 3})
        update = {"routercluster": {"transport": MQTT, "label": None}}
        await client.call("bob", "update_routercluster", ref | update)
        found = await history(client, cluster)
        assert [(each["revision"], each["caller"], each["changed"]) for each in found] == [
            (5, "bob", ["/label", "/transport"]),
            (4, "bob", ["/groups/web/scale"]),
            (3, "alice", ["/groups"]),
            (2, "alice", ["/nodes"]),
            (1, "bob", ["/label"]),
        ]
        assert found[0]["operation"] == "update_routercluster" and found[0]["request_id"]
        assert await history(client, cluster, limit=2, after=3) == found[3:]

        plan = await client.call("bob", "plan_routercluster_rollback", ref | {"revision": 3})
        assert plan["refused"] == [] and plan["changes"][0]["members"] == [
            {"pointer": "/transport", "before": MQTT, "after": None},
            {"pointer": "/label", "before": None, "after": "first"},
        ]
        foreign = await client.call("carol", "plan_routercluster_rollback", ref | {"revision": 3})
        assert {each["code"] for each in foreign["refused"]} == {"not_authorized"}
        assert await history(client, cluster) == found, "nothing was changed"

        before = await client.call("vera", "get_routercluster_workergroup", of_group)
        done = await client.call("bob", "rollback_routercluster", ref | {"revision": 3})
        assert [(each["pointer"], each["action"]) for each in done["changes"]] == [
            ("/clusters/edge", "update"),
            ("/clusters/edge/groups/web", "update"),
        ]
        assert [each["pointer"] for each in plan["changes"]] == [each["pointer"] for each in done["changes"]]
        now = await client.call("vera", "get_routercluster_workergroup", of_group)
        assert now["scale"] == 1 and now["revision"] == before["revision"] + 1, "it rolls like an update"
        assert (await client.call("vera", "get_routercluster", ref))["status"] != "STOPPED"
        (last, *_) = await history(client, cluster, limit=1)
        assert (last["revision"], last["operation"]) == (6, "rollback_routercluster")
        assert await definition(client, cluster, 6) == await definition(client, cluster, 3)
        assert (await client.call("bob", "rollback_routercluster", ref | {"revision": 6}))["changes"] == []

        plan = await client.call("bob", "plan_routercluster_rollback", ref | {"revision": 2})
        assert [(each["pointer"], each["code"]) for each in plan["refused"]] == [
            ("/clusters/edge/groups/web", "not_stopped")
        ]
        error = await client.refused("bob", "rollback_routercluster", ref | {"revision": 2})
        assert error.code == "not_stopped" and error.detail.startswith("/clusters/edge/groups/web: ")
        error = await client.refused("bob", "rollback_routercluster", ref | {"revision": 99})
        assert (error.code, error.pointers) == ("no_such_object", ("/params/revision",))
        await client.call("alice", "unpair_node", {"node_oid": node["oid"]})
        (last, *_) = await history(client, cluster, limit=1)
        assert (last["operation"], last["changed"]) == ("unpair_node", ["/nodes"])
        error = await client.refused("bob", "rollback_routercluster", ref | {"revision": 6})
        assert error.code == "no_such_object" and "no node named 'n1'" in error.detail


async def test_a_bounded_number_is_kept_and_goes_with_the_cluster(tmp_path: Path) -> None:
    async with rig_on(memory_net(), tmp_path) as (manager, client):
        cluster = await client.cluster()
        ref = {"routercluster_oid": cluster["oid"]}
        for number in range(KEPT + 3):
            await client.call(
                "alice", "update_routercluster", ref | {"routercluster": {"label": str(number)}}
            )
        found = await history(client, cluster, limit=100)
        assert [each["revision"] for each in found] == list(range(KEPT + 4, 4, -1))
        assert found[-1]["changed"] == [], "what it was before is not known any more"
        await client.call("alice", "delete_routercluster", ref)
        rows = manager.store.reads.db.execute("SELECT count(*) FROM cluster_revisions").fetchall()
        assert rows == [(0,)]


async def test_the_first_revision_is_what_was_created(tmp_path: Path) -> None:
    """It is taken from the request's row, without a look at the store: both must say the same."""
    async with rig_on(memory_net(), tmp_path) as (_, client):
        facts = {"label": "x", "description": "y", "tags": ["b", "a"], "transport": MQTT}
        for number, given in enumerate([{}, facts, *({name: each} for name, each in facts.items())]):
            cluster = await client.cluster(f"c{number}", who="bob", **given)
            whole = await client.call("vera", "get_definitions", {"clusters": [cluster["name"]]})
            told = {k: v for k, v in whole["clusters"][cluster["name"]].items() if k != "running"}
            assert await definition(client, cluster, 1) == told
            assert {k: told[k] for k in given} == given
