"""The realm's definitions as one document, over the bus."""

from __future__ import annotations

import json
from pathlib import Path

from busbar.bus.routers.definitions import plain, read

from tests.integration.manager.fixtures import memory_net, rig_on

MQTT = {"type": "mqtt", "endpoint": {"type": "tcp", "port": 24000}}


async def test_the_realm_is_one_document_the_same_each_time(tmp_path: Path) -> None:
    async with rig_on(memory_net(), tmp_path) as (_, client):
        node = await client.call("alice", "pair_node", {"node": {"name": "n2", "labels": {"zone": "b"}}})
        await client.node("n1")
        await client.node("spare")
        for name in ("west", "edge"):
            cluster = await client.cluster(name, transport=MQTT, label="L", tags=["x"])
            ref = {"routercluster_oid": cluster["oid"]}
            limits = {"hardlimit": 3, "softlimit": 1}
            await client.call(
                "alice", "add_routercluster_node", ref | {"node_oid": node["oid"], "config": limits}
            )
            await client.group(cluster, name="web", scale=2, lost_after=5, runtime="mosquitto", mesh=True)
            await client.group(cluster, name="back")
        await client.call("alice", "start_routercluster", ref)
        found = await client.call("vera", "get_definitions")
        assert json.dumps(found) == json.dumps(await client.call("vera", "get_definitions"))
        assert json.dumps(plain(read(found))) == json.dumps(found)
        assert list(found["clusters"]) == ["edge", "west"] and list(found["nodes"]) == ["n1", "n2", "spare"]
        assert found["principals"]["bob"] == {"role": "operator"}
        assert found["clusters"]["edge"] == {
            "running": True,
            "label": "L",
            "tags": ["x"],
            "transport": MQTT,
            "nodes": {"n2": limits},
            "groups": {
                "back": {"scale": 1, "runtime": "amqtt"},
                "web": {"scale": 2, "runtime": "mosquitto", "lost_after": 5.0, "mesh": True},
            },
        }
        assert found["clusters"]["west"]["running"] is False
        part = await client.call("vera", "get_definitions", {"clusters": ["west"]})
        assert (
            list(part["clusters"]) == ["west"] and list(part["nodes"]) == ["n2"] and "principals" not in part
        )
        error = await client.refused("vera", "get_definitions", {"clusters": ["west", "nowhere"]})
        assert (error.code, error.pointers) == ("no_such_object", ("/params/clusters/1",))
