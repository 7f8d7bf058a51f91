"""A broker with a small packet limit: nothing above it is ever sent, all else goes on, and it is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.client.operations.clusters import ClusterOperations
from busbar.bus.client.operations.groups import GroupOperations
from busbar.bus.client.operations.realm import RealmOperations
from busbar.bus.client.references import References
from busbar.bus.connection.link import Link
from busbar.bus.connection.packet_limit import publish_size
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.messages import Applied, NodeState, Reported, ReportedWorker
from busbar.bus.testing import MemoryBroker
from busbar.manager.service import Manager

from tests.integration.manager.fixtures import TOPICS, Client, Net, client_on, manager_on

LIMIT = 12_000
WEB = {"type": "web", "endpoint": {"type": "tcp", "port": "8000-8999"}}


def net_of(broker: MemoryBroker) -> Net:
    return Net(lambda name, will=None: broker.link(name, will=will), broker)


def transport(size: int) -> dict[str, Any]:
    return {**WEB, "paths": {"/": {"type": "json", "value": "x" * size}}}


def assert_bounded(broker: MemoryBroker, limit: int = LIMIT) -> None:
    sizes = {message.topic: publish_size(message.topic, message.payload, 1) for message in broker.journal}
    assert all(size <= limit for size in sizes.values()), sizes


async def online(link: Link, node: str, *, shares: bool = True) -> None:
    """The birth and the report of an agent."""
    capacity = {"shared_definitions": True} if shares else {}
    await link.publish(TOPICS.node(node, "state"), encode(NodeState("ready", "b1", 1)), retain=True)
    report = Reported("b1", 1, [], applied=Applied(), capacity=capacity, runtimes=["crossbar", "amqtt"])
    await link.publish(TOPICS.node(node, "reported"), encode(report), retain=True)


async def node_of(client: Client, name: str = "n1", **more: Any) -> str:
    oid = (await client.node(name))["oid"]
    await online(client.link, name, **more)
    await client.until(lambda: (client.status("_", "node", name) or {}).get("status") == "online")
    return str(oid)


@asynccontextmanager
async def realm(folder: Path, limit: int) -> AsyncIterator[tuple[Manager, Client, MemoryBroker]]:
    broker = MemoryBroker(limit)
    async with client_on(net_of(broker)) as client, manager_on(net_of(broker), folder) as manager:
        yield manager, client, broker


async def started(client: Client, scale: int, definition: dict[str, Any], node: str) -> dict[str, Any]:
    cluster = await client.cluster("big", transport=definition)
    await client.call(
        "alice", "add_routercluster_node", {"routercluster_oid": cluster["oid"], "node_oid": node}
    )
    group = await client.group(cluster, name="w", scale=scale)
    await client.call("alice", "start_routercluster", {"routercluster_oid": cluster["oid"]})
    return {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}


@pytest.mark.fault(57, "S L")
async def test_a_state_that_is_too_large_already_is_held_back_and_can_be_commanded_back(
    tmp_path: Path,
) -> None:
    """An agent that needs a definition per worker; a broker that takes less than the one before."""
    folder = tmp_path / "manager"
    async with realm(folder, 1 << 20) as (_, client, _broker):
        node = await node_of(client, shares=False)
        group = await started(client, 6, transport(4_000), node)
        await client.until(lambda: len(client.assignment("n1").get("workers", ())) == 6)
    async with realm(folder, LIMIT) as (manager, client, broker):
        link = client.link
        await client.until(lambda: client.status("_", "node", "n1"))
        await client.until(lambda: "held back" in str((client.status("_", "node", "n1") or {})["conditions"]))
        assert any("assignment is held back" in text for text in manager.conditions()), manager.conditions()
        assert link.connected and link.conn == 1, "the connection is left alone"
        await online(client.link, "n1", shares=False)
        await client.call("alice", "scale_routercluster_workergroup", {**group, "scale": 1})
        await client.until(lambda: len(client.assignment("n1").get("workers", ())) == 1)
        await client.until(
            lambda: "held back" not in str((client.status("_", "node", "n1") or {})["conditions"])
        )
        assert manager.conditions() == []
        assert_bounded(broker)
        oid = {"routercluster_oid": group["routercluster_oid"]}
        await client.call("alice", "stop_routercluster", oid)


@pytest.mark.fault(58, "S")
async def test_a_reply_too_large_is_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "manager"
    async with realm(folder, 1 << 20) as (_, client, _broker):
        cluster = await client.cluster("big", transport=transport(20_000))
    async with realm(folder, LIMIT) as (_manager, client, broker):
        oid = {"routercluster_oid": cluster["oid"]}
        error = await client.refused("alice", "get_routercluster", oid)
        assert error.code == "payload_too_large" and "the broker takes" in error.detail
        removed = await client.call("alice", "delete_routercluster", oid)
        assert removed["oid"] == cluster["oid"] and removed["transport"] is None
        assert_bounded(broker)


SMALL = {"routercluster_name": "small"}
LABELS = {f"{number:02}" + "n" * 50: "v" * 230 for number in range(20)}
TEXTS = {"description": "é" * 4_000, "tags": [f"{number:02}" + "é" * 50 for number in range(50)]}


@pytest.mark.fault(58, "S")
async def test_what_no_reply_could_show_is_not_created_and_texts_added_one_by_one_are_refused(
    tmp_path: Path,
) -> None:
    """Each request is below the limit, what it asks for is above it."""
    async with realm(tmp_path / "manager", LIMIT) as (manager, client, broker):
        texts = {"description": "x" * 4_000, "tags": [f"{n:02}" + "é" * 60 for n in range(59)]}
        whole = {"name": "a" * 60, "label": "l" * 250, **texts}
        labels = {f"{n:02}" + "n" * 50: "v" * 230 for n in range(41)}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("create_routercluster", {"routercluster": whole}),
            ("pair_node", {"node": {"name": "n1", "labels": labels}}),
        ]
        for op, params in cases:
            error = await client.refused("alice", op, params)
            assert error.code == "payload_too_large" and error.pointers, (op, error)
            assert "would have" in error.detail and "leaves" in error.detail
        assert await client.call("alice", "list_routerclusters") == []
        assert await client.call("alice", "list_nodes") == []
        cluster = await client.cluster("big", transport=transport(2_700), description="x" * 4_000)
        group = {"name": "g", "transport": transport(2_700), "description": "x" * 4_000}
        made = await client.group(cluster, **group)
        oids = {"routercluster_oid": cluster["oid"]}
        refused = [
            ("update_routercluster", {**oids, "routercluster": {"tags": texts["tags"]}}),
            (
                "update_routercluster_workergroup",
                {**oids, "workergroup_oid": made["oid"], "workergroup": {"tags": texts["tags"]}},
            ),
        ]
        for op, params in refused:
            assert (await client.refused("alice", op, params)).code == "payload_too_large", op
        assert (await client.call("alice", "get_routercluster", oids))["tags"] is None
        assert len(await client.call("alice", "list_audit", {"limit": 1})) == 1
        assert manager.conditions() == []
        assert_bounded(broker)


@pytest.mark.fault(58, "S K")
async def test_objects_that_are_too_large_already_are_commanded_and_their_events_come(tmp_path: Path) -> None:
    folder = tmp_path / "manager"
    async with realm(folder, 1 << 20) as (_, client, _broker):
        cluster = await client.cluster("big", **TEXTS)
        group = await client.group(cluster, name="g", **TEXTS)
        await client.call("alice", "pair_node", {"node": {"name": "n1", "labels": {"l": "v" * 256}}})
    async with realm(folder, 4_000) as (manager, client, broker):
        oids = {"routercluster_oid": cluster["oid"]}
        both = {**oids, "workergroup_oid": group["oid"]}
        scaled = await client.call("alice", "scale_routercluster_workergroup", {**both, "scale": 2})
        assert (scaled["scale"], scaled["description"]) == (2, None)
        node = await client.call("alice", "get_node_by_name", {"node_name": "n1"})
        drained = await client.call("alice", "drain_node", {"node_oid": node["oid"], "reason": "é" * 256})
        assert drained["draining"]
        shorter = {"description": "short", "tags": []}
        assert (await client.call("alice", "update_routercluster", {**oids, "routercluster": shorter}))["oid"]
        assert (await client.call("alice", "get_routercluster", oids))["description"] == "short"
        assert (await client.call("alice", "remove_routercluster_workergroup", both))["oid"] == group["oid"]
        await client.until(lambda: "workergroup_removed" in client.event_names())
        asked = {"limit": 1, "operation": "create_routercluster"}
        assert len(await client.call("alice", "list_audit", asked)) == 1
        assert manager.conditions() == []
        assert_bounded(broker, 4_000)


async def test_a_request_too_large_is_refused_by_the_caller_at_once(tmp_path: Path) -> None:
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, _broker):
        error = await asyncio.wait_for(
            client.refused("alice", "create_routercluster", {"routercluster": {"name": "x" * LIMIT}}), 5
        )
        assert error.code == "payload_too_large"


async def test_statuses_shrink_to_what_the_broker_takes(tmp_path: Path) -> None:
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, broker):
        await client.node("n1")
        await client.link.publish(
            TOPICS.node("n1", "state"), encode(NodeState("ready", "b1", 1)), retain=True
        )
        report = Reported("b1", 1, [], conditions=["c" * 200] * 50)
        await client.link.publish(TOPICS.node("n1", "reported"), encode(report), retain=True)
        await client.until(lambda: (client.status("_", "node", "n1") or {}).get("conditions"))
        assert_bounded(broker)


@pytest.mark.fault(57, "S")
async def test_what_no_assignment_could_hold_is_refused_with_pointer_and_figures(tmp_path: Path) -> None:
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, broker):
        big = {"name": "big", "transport": transport(4_000)}
        error = await client.refused("alice", "create_routercluster", {"routercluster": big})
        assert error.row.status == 422 and error.pointers == ("/params/routercluster/transport",)
        assert "3000" in error.detail, error.detail
        node = await node_of(client)
        group = await started(client, 2, transport(2_000), node)
        await client.until(lambda: len(client.assignment("n1").get("workers", ())) == 2)
        error = await client.refused("alice", "scale_routercluster_workergroup", {**group, "scale": 60})
        assert error.row.status == 422 and error.pointers == ("/params/scale",)
        assert "60 workers" in error.detail
        more = {"scale": 1, "name": "v", "transport": transport(1_500)}
        oid = {"routercluster_oid": group["routercluster_oid"]}
        error = await client.refused("alice", "add_routercluster_workergroup", {**oid, "workergroup": more})
        assert error.row.status == 422 and "node 'n1'" in error.detail
        assert_bounded(broker)


@pytest.mark.fault(57, "S")
async def test_equal_definitions_are_sent_once(tmp_path: Path) -> None:
    """A definition of 200 kB, six workers on one node, a broker of 1 MiB."""
    async with realm(tmp_path / "manager", 1 << 20) as (_manager, client, broker):
        node = await node_of(client)
        group = await started(client, 1, transport(200_000), node)
        await client.call("alice", "scale_routercluster_workergroup", {**group, "scale": 6})
        await client.until(lambda: len(client.assignment("n1").get("workers", ())) == 6)
        assert len(client.assignment("n1")["definitions"]) == 1
        assert len(broker.retained[TOPICS.node("n1", "assignment")]) < 210_000
        assert_bounded(broker, 1 << 20)


@pytest.mark.fault(58, "S L")
async def test_workers_beyond_what_a_nodes_messages_hold_wait_with_the_reason(tmp_path: Path) -> None:
    """One node of two is lost: those that were spread over both do not all fit on the other."""
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, broker):
        first, second = await node_of(client, "n1"), (await client.node("n2"))["oid"]
        cluster = await client.cluster("many")
        for oid in (first, second):
            params = {"routercluster_oid": cluster["oid"], "node_oid": oid}
            await client.call("alice", "add_routercluster_node", params)
        await client.group(cluster, name="w", scale=16)
        await client.call("alice", "start_routercluster", {"routercluster_oid": cluster["oid"]})
        await client.until(lambda: "n1 is full" in str(client.status("many", "worker", "w-16")))
        assert 8 <= len(client.assignment("n1")["workers"]) < 16
        assert_bounded(broker)


class Operations(ClusterOperations, GroupOperations, RealmOperations):
    """The client's generated methods, as alice."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, operation: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        return await self._client.call("alice", operation, params)


@pytest.mark.fault(58, "S")
async def test_what_is_too_large_for_one_reply_is_read_in_pages(tmp_path: Path) -> None:
    """Statistics of 60 workers, lists of 300 nodes, 200 events: on a broker that takes 12,000 bytes."""
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, broker):
        cluster = await client.cluster("many")
        names = [f"node-{'x' * 50}-{number:03d}" for number in range(300)]
        for name in names:
            await client.node(name)
        for number in range(8):
            node = (await client.call("alice", "get_node_by_name", {"node_name": names[number]}))["oid"]
            params = {"routercluster_oid": cluster["oid"], "node_oid": node}
            await client.call("alice", "add_routercluster_node", params)
        await client.group(cluster, name="w", scale=60)
        await client.call("alice", "start_routercluster", {"routercluster_oid": cluster["oid"]})
        await client.until(lambda: client.status("many", "worker", "w-60"))
        error = await client.refused("alice", "list_nodes", {"return_names": True})
        assert error.code == "payload_too_large" and "limit, after" in error.detail
        bus = Operations(client)
        assert await bus.list_nodes(return_names=True) == names
        assert len(set(await bus.list_nodes())) == 300
        stat = await bus.stat_routercluster(routercluster_oid=cluster["oid"])
        assert [worker.name for worker in stat.workers] == [f"w-{number}" for number in range(1, 61)]
        assert stat.scale == 60 and stat.pending == 60
        assert await bus.list_nodes(return_names=True, limit=3, after=names[4]) == names[5:8]
        events = await bus.get_events(limit=200)
        assert [int(event.sequence) for event in events] == list(range(1, 201))
        assert_bounded(broker)


class Finder(Operations, References):
    """The client's look-ups, as alice."""


@pytest.mark.fault(58, "S L")
async def test_objects_that_are_too_large_already_are_found_by_name(tmp_path: Path) -> None:
    """A broker that takes less than the one before: what stops or shrinks an object looks it up first."""
    folder = tmp_path / "manager"
    async with realm(folder, 1 << 20) as (_, client, _broker):
        cluster = await client.cluster("big", transport=transport(2_000), **TEXTS)
        group = await client.group(cluster, name="g", **TEXTS)
        await client.call("alice", "pair_node", {"node": {"name": "n1", "labels": LABELS}})
        await online(client.link, "n1")
    async with realm(folder, 4_000) as (manager, client, broker):
        find = Finder(client)
        found = await find.find_cluster("big")
        assert (found.oid, found.description, found.tags) == (cluster["oid"], None, None)
        assert found.left_out == ["description", "tags", "transport"]
        assert await find.cluster_oid("big") == cluster["oid"]
        assert (await find.find_group("big/g")).oid == group["oid"]
        assert (await find.find_node("n1")).left_out == ["labels"]
        with pytest.raises(BusError, match=r"payload_too_large: .*brief"):
            await find.find_cluster("big", whole=True)
        await find.start_routercluster(routercluster_oid=await find.cluster_oid("big"))
        await find.stop_routercluster(routercluster_oid=await find.cluster_oid("big"))
        small = await client.call("alice", "create_routercluster", {"routercluster": {"name": "small"}})
        for params in (SMALL, {**SMALL, "brief": True}):
            assert "left_out" not in await client.call("alice", "get_routercluster_by_name", params)
        assert small["oid"] and manager.conditions() == []
        assert_bounded(broker, 4_000)


@pytest.mark.fault(58, "S")
async def test_what_a_node_reports_of_itself_keeps_nobody_from_finding_it(tmp_path: Path) -> None:
    """It grows with the node's runtimes, at no operation that could refuse it."""
    async with realm(tmp_path / "manager", 6_000) as (_manager, client, broker):
        await client.node("n1")
        await client.link.publish(
            TOPICS.node("n1", "state"), encode(NodeState("ready", "b1", 1)), retain=True
        )
        names = [f"{'r' * 60}{number:03d}" for number in range(60)]
        report = Reported(
            "b1", 1, [], capacity={"cpus": 2, "note": "x" * 900}, runtimes=names, conditions=["c" * 99] * 7
        )
        await client.link.publish(TOPICS.node("n1", "reported"), encode(report), retain=True)
        await client.until(lambda: "ccc" in str(client.status("_", "node", "n1")))
        await client.until(lambda: (client.status("_", "node", "n1") or {})["status"] == "online")
        found = await Finder(client).find_node("n1")
        assert found.left_out == ["capacity", "conditions", "runtimes"]
        assert (found.runtimes, found.conditions) == ([], ["c" * 80] * 4)
        assert_bounded(broker, 6_000)


@pytest.mark.fault(58, "S")
async def test_statistics_of_many_groups_are_read_in_pages(tmp_path: Path) -> None:
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, broker):
        cluster = await client.cluster("many")
        names = [f"{'g' * 50}{number:03d}" for number in range(130)]
        for name in names:
            await client.group(cluster, name=name, scale=int(name.endswith("7")))
        asked = {"routercluster_oid": cluster["oid"]}
        first = await client.call("alice", "stat_routercluster", {**asked, "limit": 2})
        assert [each["name"] for each in first["workergroups"]] == names[:2]
        behind = {"limit": 3, "after": first["workergroups"][-1]["oid"]}
        following = await client.call("alice", "stat_routercluster", {**asked, **behind})
        assert [each["name"] for each in following["workergroups"]] == names[2:5]
        assert following["workers"] == [] and following["scale"] == 13
        stat = await Operations(client).stat_routercluster(**asked)
        assert [each.name for each in stat.workergroups] == names
        await client.call("alice", "start_routercluster", asked)
        await client.until(lambda: client.status("many", "worker", f"{names[127]}-1"))
        stat = await Operations(client).stat_routercluster(**asked)
        assert len(stat.workers) == 13 and [each.name for each in stat.workergroups] == names
        assert_bounded(broker)


@pytest.mark.fault(58, "S")
async def test_a_worker_that_no_page_could_show_is_shortened(tmp_path: Path) -> None:
    """One node's report would hide its cluster's statistics."""
    async with realm(tmp_path / "manager", 6_000) as (_manager, client, broker):
        node = await node_of(client)
        group = await started(client, 2, WEB, node)
        await client.until(lambda: len(client.assignment("n1").get("workers", ())) == 2)
        given = client.assignment("n1")
        urls = {f"l{number}": f"http://{'h' * 900}:{number}" for number in range(3)}
        seen = [
            ReportedWorker(given["workers"][0]["worker"], "RUNNING", 1, 1, urls["l0"], listeners=urls),
            ReportedWorker(given["workers"][1]["worker"], "RUNNING", 1, 1, "http://n1:80"),
        ]
        applied = Applied(given["epoch"], given["version"])
        report = Reported("b1", 1, seen, given["store"], applied, runtimes=["crossbar"])
        await client.link.publish(TOPICS.node("n1", "reported"), encode(report), retain=True)
        await client.until(lambda: (client.status("big", "worker", "w-2") or {}).get("status") == "RUNNING")
        stat = await Operations(client).stat_routercluster(routercluster_oid=group["routercluster_oid"])
        assert stat.ready == 2 and str(stat.workers[0].address).endswith("…")
        assert [each.url for each in stat.endpoints if each.worker == "w-2"] == ["http://n1:80"]
        assert_bounded(broker, 6_000)


async def test_an_entry_that_is_gone_is_no_place_to_go_on(tmp_path: Path) -> None:
    async with realm(tmp_path / "manager", LIMIT) as (_manager, client, _broker):
        error = await client.refused("alice", "list_nodes", {"after": "gone"})
        assert error.code == "invalid_argument" and error.pointers == ("/params/after",)
