"""`explain` of a running manager: what is asked for is found, and its events are its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.params import Explain
from busbar.manager.api.operations.base import ReadContext
from busbar.manager.api.operations.explain import explain

from tests.integration.manager.fixtures import Client, memory_net, rig_on
from tests.integration.watching import TOPICS, fleet, watching


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with rig_on(memory_net(), tmp_path / "manager") as (_, client):
        yield client


async def why(client: Client, thing: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = await client.call("vera", "explain", {"object": thing, **more})
    return found


def codes(found: dict[str, Any]) -> set[str]:
    return {each["code"] for each in found["statements"]}


async def pending(client: Client, name: str = "edge") -> dict[str, Any]:
    """A started cluster with a group `web` of one worker and a node that nobody runs."""
    cluster = await client.cluster(name)
    await client.group(cluster, name="web")
    node = await client.node(f"{name}-n")
    params = {"routercluster_oid": cluster["oid"], "node_oid": node["oid"]}
    await client.call("alice", "add_routercluster_node", params)
    await client.call("alice", "start_routercluster", {"routercluster_oid": cluster["oid"]}, request_id="go")
    await client.until(lambda: (client.status(name, "worker", "web-1") or {}).get("status") == "PENDING")
    return cluster


async def test_every_kind_of_object_by_name_and_oid(client: Client) -> None:
    cluster = await pending(client)
    worker = await why(client, "edge/web-1")
    assert (worker["kind"], worker["object"], worker["status"]) == ("worker", "edge/web-1", "PENDING")
    assert worker["well"] is False and {"node_refused", "no_place"} <= codes(worker)
    refused = next(each for each in worker["statements"] if each["code"] == "node_refused")
    assert "edge-n" in refused["text"] and "offline" in refused["text"]
    assert await why(client, worker["oid"]) | {"time": ""} == worker | {"time": ""}
    group = await why(client, "edge/web")
    assert group["kind"] == "workergroup" and {"worker_not_ready", "no_place"} <= codes(group)
    told = await why(client, "edge")
    assert (told["kind"], told["oid"]) == ("routercluster", cluster["oid"])
    started = next(each for each in told["statements"] if "was started by alice" in each["text"])
    events = {event["sequence"]: event["type"] for event in client.events()}
    assert events[started["event"]] == "busbar.on_routercluster_starting"
    node = await why(client, "edge-n")
    assert node["kind"] == "node" and "never_heard" in codes(node)
    request = await why(client, "go")
    assert request["kind"] == "request" and request["well"]
    assert any("start_routercluster" in each["text"] for each in request["statements"])
    assert any("starting" in each["text"] and each["event"] for each in request["statements"])


async def test_what_could_be_two_things_is_asked_back(client: Client) -> None:
    await pending(client)
    await client.node("edge")
    error = await client.refused("vera", "explain", {"object": "edge"})
    assert (error.code, error.pointers) == ("invalid_argument", ("/params/kind",))
    assert (await why(client, "edge", kind="node"))["kind"] == "node"
    for params in ({"object": "edge/none"}, {"object": "none"}, {"object": "edge", "kind": "worker"}):
        assert (await client.refused("vera", "explain", params)).code == "no_such_object"


async def test_a_failed_request_says_why(client: Client) -> None:
    cluster = await client.cluster("edge")
    ref = {"routercluster_oid": cluster["oid"]}
    await client.refused("alice", "stop_routercluster", ref, request_id="too-early")
    found = await why(client, "too-early")
    assert found["status"] == "cannot_stop" and "refused" in codes(found)
    assert any("STOPPED" in each["text"] for each in found["statements"])


async def test_events_of_a_former_object_of_that_name_are_not_told(client: Client) -> None:
    first = await client.cluster("edge", who="alice")
    await client.call("alice", "delete_routercluster", {"routercluster_oid": first["oid"]})
    await client.cluster("edge")
    found = await why(client, "edge")
    created = [each for each in found["statements"] if "was created" in each["text"]]
    assert len({each["event"] for each in created}) == 1 and "stopped" in codes(found)


async def test_the_chain_from_a_lost_node_to_a_worker_that_can_not_move(tmp_path: Path) -> None:
    """Decided by the manager's own snapshot, rows and events, on a clock of the test's."""
    async with watching(tmp_path) as watch:
        await fleet(watch, 1, scale=1)
        await watch.pass_time(130)
        await watch.until(lambda: watch.states() == {"web-1": "UNKNOWN n1"})
        await watch.rest()
        reads, clock = watch.store.reads, watch.clock
        ctx = ReadContext(
            reads,
            watch.memory,
            None,  # type: ignore[arg-type]
            clock.monotonic(),
            clock.time_ns(),
            TOPICS,
            watch.monitor.cache.snapshot,
        )
        found = explain(ctx, Explain(object="edge/web-1"))
        lost = [event["sequence"] for event in watch.events() if event["type"].endswith("on_node_lost")]
    told = {each.code: each for each in found.statements}
    assert [told["node_lost"].event] == lost and told["node_lost"].at_ms
    assert {"history", "unknown", "lost_after", "not_moved"} <= set(told) and not found.well
    assert "lost_after of group web: 30 s" in told["lost_after"].text
    numbers = [int(each.event) for each in found.statements if each.event]
    assert numbers == sorted(numbers) and len(numbers) >= 3
