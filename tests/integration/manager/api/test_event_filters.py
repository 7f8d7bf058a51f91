"""Stored events by type, object and age, in pages: what a filter finds is what a scan of all would find."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.manager.fixtures import Client, memory_net, rig_on


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with rig_on(memory_net(), tmp_path / "manager") as (_, made):
        yield made


async def numbers(client: Client, **params: Any) -> list[int]:
    found = await client.call("vera", "get_events", {"limit": 1000, **params})
    return [int(event["sequence"]) for event in found]


async def test_filters_find_what_a_scan_finds(client: Client) -> None:
    edge, other = await client.cluster("edge"), await client.cluster("edge2")
    await client.node("edge")
    node = await client.node("n1")
    for cluster in (edge, other):
        await client.group(cluster, name="web")
        both = {"routercluster_oid": cluster["oid"], "node_oid": node["oid"]}
        await client.call("alice", "add_routercluster_node", both)
        await client.call("alice", "start_routercluster", {"routercluster_oid": cluster["oid"]})
        name = cluster["name"]
        await client.until(lambda name=name: client.status(name, "worker", "web-1"))
    events: list[dict[str, Any]] = await client.call("vera", "get_events", {"limit": 1000})

    def scan(*wanted: tuple[str, str | None, str | None]) -> list[int]:
        """Of events with a subject's end, in a cluster (by oid, name or none), of a type."""
        return [int(e["sequence"]) for e in events if any(_is(e, *each) for each in wanted)]

    def _is(event: dict[str, Any], subject: str, cluster: str | None, verb: str | None) -> bool:
        data = event["data"]
        of = {data.get("cluster"), data.get("cluster_oid"), data.get("routercluster_oid")}
        return (
            event["subject"].endswith(subject)
            and (cluster is None or cluster in of)
            and (verb is None or event["type"].endswith(verb))
        )

    web = [int(e["sequence"]) for e in events if e["subject"].endswith("/web") and edge["oid"] in str(e)]
    assert await numbers(client, object="edge/web") == web and web
    assert await numbers(client, object="edge/web-1") == scan(("worker/web-1", "edge", None))
    assert await numbers(client, types=["worker_pending"]) == scan(("", None, "on_worker_pending"))
    whole = await numbers(client, object="edge")
    assert set(scan(("routercluster/edge", None, None), ("node/edge", None, None))) < set(whole)
    assert set(web) < set(whole) and not set(whole) & set(await numbers(client, object="edge2"))
    assert await numbers(client, object=edge["oid"]) == scan(("routercluster/edge", None, None))
    assert await numbers(client, object="edge", types=["busbar.on_node_paired"]) == scan(
        ("node/edge", None, "paired")
    )
    assert await numbers(client, within_ms=0) == []
    assert await numbers(client, within_ms=3_600_000) == [int(e["sequence"]) for e in events]
    assert await numbers(client, object="none/such") == []
    error = await client.refused("vera", "get_events", {"types": ["node_lost", "node_found"]})
    assert (error.code, error.pointers) == ("invalid_argument", ("/params/types/1",))


async def test_pages_forwards_and_backwards_have_every_event_once(client: Client) -> None:
    for name in "abcdefg":
        await client.cluster(name)
    kinds = {"types": ["routercluster_created"]}
    every = await numbers(client, **kinds)
    assert len(every) == 7
    forwards: list[int] = []
    while page := await numbers(client, limit=3, since=forwards[-1] if forwards else 0, **kinds):
        forwards += page
    assert forwards == every
    backwards: list[int] = []
    while page := await numbers(
        client, limit=3, last=True, **kinds, **({"before": backwards[0]} if backwards else {})
    ):
        backwards = page + backwards
    assert backwards == every
