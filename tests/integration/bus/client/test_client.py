"""The client against a real stack: broker, manager and agent as processes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import busbar
import pytest
from busbar import BusClient, BusError, connect, connect_sync

from tests.pace import bound
from tests.stack import FakeNode, Stack, stack, start_embedded

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as made:
        made.start_manager()
        alice = made.client()
        made.wait_manager(alice)
        alice.ok("pair_node", {"node": {"name": "n1"}})
        node = FakeNode(made, "n1").start()
        try:
            yield made
        finally:
            node.stop()


def arguments(here: Stack, user: str = "alice") -> dict[str, Any]:
    secret = here.folder / "secrets" / user
    limits = {"timeout": bound(10), "connect_timeout": bound(5)}
    return {"url": here.urls(user), "realm": "lab", "username": user, "password_file": secret, **limits}


def connected(here: Stack, user: str = "alice", **more: Any) -> AbstractAsyncContextManager[BusClient]:
    return connect(**{**arguments(here, user), **more})


@asynccontextmanager
async def started(bus: BusClient, name: str) -> AsyncIterator[busbar.Cluster]:
    """A cluster of two workers, which is being started."""
    cluster = await bus.create_routercluster(
        name=name, transport={"type": "mqtt", "endpoint": {"type": "tcp", "port": "21100-21199"}}
    )
    await bus.add_routercluster_node(routercluster_oid=cluster.oid, node_oid=await bus.node_oid("n1"))
    await bus.add_routercluster_workergroup(routercluster_oid=cluster.oid, name="web", scale=2)
    yield cluster


async def test_a_cluster_from_its_creation_to_its_end(here: Stack) -> None:
    async with connected(here) as bus, bus.watch_events(cluster="edge") as events:
        cluster = await bus.create_routercluster(
            name="edge", transport={"type": "mqtt", "endpoint": {"type": "tcp", "port": "21000-21099"}}
        )
        assert (cluster.status, cluster.version, cluster.label) == ("STOPPED", 1, None)
        oid = cluster.oid
        await bus.add_routercluster_node(
            routercluster_oid=oid, node_oid=await bus.node_oid("n1"), hardlimit=5
        )
        group = await bus.add_routercluster_workergroup(routercluster_oid=oid, name="web", scale=2)
        assert (group.name, group.scale, group.runtime) == ("web", 2, "amqtt")
        await bus.start_routercluster(routercluster_oid=oid)
        status = await bus.wait_for_cluster("edge", timeout=bound(30))
        assert (status.status, status.ready) == ("RUNNING", 2)
        stat = await bus.stat_routercluster(routercluster_oid=oid)
        assert {worker.node for worker in stat.workers} == {"n1"} and stat.workergroups[0].ready == 2
        assert (await bus.find_worker("edge/web-1")).oid == await bus.worker_oid("web-1", "edge")
        ref = {"routercluster_oid": oid, "workergroup_oid": group.oid}
        await bus.scale_routercluster_workergroup(**ref, scale=1)
        assert (await bus.wait_for_group("edge/web", timeout=bound(30))).ready == 1
        changed = await bus.update_routercluster_workergroup(**ref, label="new", runtime="mosquitto")
        updated = await bus.wait_for_group("edge/web", revision=changed.revision, timeout=bound(30))
        assert updated.revision == 2
        await bus.stop_routercluster(routercluster_oid=oid)
        await bus.wait_for_cluster("edge", "STOPPED", timeout=bound(30))
        await bus.delete_routercluster(routercluster_oid=oid)
        await bus.wait_for_deletion("edge", timeout=bound(30))
        seen = []
        async for event in events:
            seen.append(event.type.removeprefix("busbar.on_"))
            if seen[-1] == "routercluster_deleted":
                break
        assert (
            seen[0] == "routercluster_created" and "worker_ready" in seen and "workergroup_updating" in seen
        ), seen
        stored = await bus.get_events(since=0, limit=1000)
        assert [event.sequence for event in stored] == sorted(event.sequence for event in stored)
        assert (await bus.get_manager()).realm == "lab"


async def test_wrong_input_is_refused_with_its_place(here: Stack) -> None:
    async with connected(here) as bus:
        with pytest.raises(BusError) as caught:
            await bus.create_routercluster(name="No Name")
        assert (caught.value.code, caught.value.pointers) == (
            "invalid_argument",
            ("/params/routercluster/name",),
        )
        with pytest.raises(BusError) as caught:
            await bus.add_routercluster_workergroup(routercluster_oid="edge", scale=-1)
        assert caught.value.code == "invalid_argument"
        cluster = await bus.create_routercluster(name="once", request_id="r-once")
        again = await bus.create_routercluster(name="once", request_id="r-once")
        assert again == cluster, "the same request id has one effect"
        with pytest.raises(BusError, match="request_id_reused"):
            await bus.create_routercluster(name="twice", request_id="r-once")
        with pytest.raises(BusError, match="version_conflict"):
            await bus.start_routercluster(routercluster_oid=cluster.oid, expect_version=99)
        with pytest.raises(BusError, match="no_such_object"):
            await bus.find_group("once/web")
        with pytest.raises(BusError, match="no_such_procedure"):
            await bus.call("make_coffee")
        with pytest.raises(TypeError):
            await bus.create_routercluster(name="x", label=object())  # type: ignore[arg-type]
    async with connected(here, "nobody") as bus:
        with pytest.raises(BusError, match="no_such_principal"):
            await bus.list_nodes()
    with pytest.raises(busbar.LoginRefusedError, match="does not let user 'alice' in"):
        async with connected(here, password_file=None, password="wrong"):
            pass


async def test_a_manager_that_is_killed_while_somebody_waits(here: Stack) -> None:
    async with connected(here) as bus, started(bus, "edge") as cluster:
        here.kill("manager")
        with pytest.raises(busbar.CallTimeoutError, match="manager m1 is offline") as caught:
            await bus.start_routercluster(routercluster_oid=cluster.oid, timeout=1.0)
        with pytest.raises(busbar.WaitTimeoutError, match="after 1 s: STOPPED"):
            async with bus.watch_statuses(kind="routercluster", cluster="edge") as watch:
                from busbar.bus.client.goals import started as goal

                await watch.until(goal(cluster.version), "cluster 'edge'", 1.0)
        here.start_manager()
        accepted = await bus.start_routercluster(
            routercluster_oid=cluster.oid, request_id=caught.value.request_id, timeout=30
        )
        waiting = asyncio.create_task(
            bus.wait_for_cluster("edge", version=accepted.version, timeout=bound(60))
        )
        await asyncio.to_thread(here.kill, "manager", signal.SIGTERM)
        here.start_manager()
        assert (await waiting).ready == 2


async def test_a_broker_that_goes_and_comes_back(here: Stack) -> None:
    async with connected(here) as bus, started(bus, "edge"):
        events = bus.watch_events(types=["routercluster_created"])
        await asyncio.gather(events._begin())
        await asyncio.to_thread(here.kill, "broker")
        with pytest.raises(busbar.BusOfflineError):
            await bus.list_nodes(timeout=1.0)
        assert not bus.connected
        with pytest.raises(busbar.BusOfflineError, match="can't be reached"):
            async with connected(here):
                pass
        await asyncio.to_thread(start_embedded, here)
        assert await bus.list_nodes(return_names=True, timeout=bound(30)) == ["n1"]
        await bus.create_routercluster(name="later", timeout=bound(30))
        assert (await anext(events)).data["name"] == "later"


def test_the_same_without_an_event_loop(here: Stack) -> None:
    with connect_sync(**arguments(here)) as bus:
        cluster = bus.create_routercluster(name="edge")
        assert bus.find_cluster("edge") == cluster
        with pytest.raises(BusError) as caught:
            bus.create_routercluster(name="edge")
        assert caught.value.code == "already_exists"
        with pytest.raises(busbar.WaitTimeoutError):
            bus.wait_for_cluster("edge", timeout=0.3)
        with bus.watch_statuses(kind="routercluster", idle=5.0) as statuses:
            assert next(statuses).name == "edge"
        assert list(statuses) == []
        found = [event.type for event in bus.watch_events(since=0, idle=0.5)]
        assert "busbar.on_routercluster_created" in found, "a loop over a watch ends when nothing comes"
        names: list[str] = []
        threads = [
            threading.Thread(target=lambda: names.extend(bus.list_routerclusters(return_names=True)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert names == ["edge"] * 4
        kept = bus
    assert not kept.connected
    with pytest.raises(RuntimeError, match="closed"):
        kept.list_nodes()
