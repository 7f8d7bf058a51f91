"""What the manager says outward survives brokers that forget, forgers, and connections that break."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.connection.link import Message
from busbar.bus.decode import encode
from busbar.bus.messages import ManagerState
from busbar.bus.testing import MemoryBroker
from busbar.bus.topics import NO_CLUSTER
from busbar.manager import service
from busbar.manager.leader.fencing import FencedError
from busbar.manager.leader.state_folder import take_over
from busbar.manager.publish import publisher as publishing
from busbar.manager.publish import retained, retained_audit
from busbar.manager.service import Manager, run
from busbar.manager.store import Tx

from tests.brokers import free_port, mosquitto, until
from tests.integration.manager.fixtures import (
    CLOCK,
    TOPICS,
    Client,
    Net,
    client_on,
    manager_on,
    memory_net,
    mqtt_net,
    open_store,
    rig_on,
)
from tests.pace import bound


@pytest.fixture
def net() -> Net:
    return memory_net()


@pytest.fixture
def broker(net: Net) -> MemoryBroker:
    assert net.memory is not None
    return net.memory


@pytest.fixture
async def rig(net: Net, tmp_path: Path) -> AsyncIterator[tuple[Manager, Client]]:
    async with rig_on(net, tmp_path / "manager") as rig:
        yield rig


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "SETTLE_S", 0.05)


async def _furnish(client: Client) -> None:
    cluster, node = await client.cluster(), await client.node("n1")
    await client.call(
        "alice", "add_routercluster_node", {"routercluster_oid": cluster["oid"], "node_oid": node["oid"]}
    )
    await client.group(cluster, name="web")


def _state_of_all(broker: MemoryBroker) -> dict[str, dict[str, Any]]:
    """What is retained, but for the sequence: that is of the moment when a status was rendered."""
    found = {topic: json.loads(body) for topic, body in broker.retained.items() if "/manager/" not in topic}
    for body in found.values():
        body.pop("sequence", None)
    return found


async def test_a_broker_that_forgot_everything_is_told_everything(
    rig: tuple[Manager, Client], broker: MemoryBroker
) -> None:
    manager, client = rig
    await _furnish(client)
    await until(lambda: manager.publisher.idle)
    before = _state_of_all(broker)
    tails = {topic.removeprefix(TOPICS.prefix) for topic in before}
    assert tails == {
        "/status/edge/routercluster/edge",
        "/status/edge/workergroup/web",
        "/status/_/node/n1",
        "/node/n1/assignment",
    }
    broker.retained.clear()
    broker.drop("manager")
    await until(lambda: _state_of_all(broker) == before)


async def test_the_epoch_and_the_manager_s_state_go_before_all_else(net: Net, tmp_path: Path) -> None:
    async with client_on(net) as client:
        for epoch in (1, 2):
            start = len(client.seen)
            async with manager_on(net, tmp_path / "manager") as manager:
                if epoch == 1:
                    await _furnish(client)
                await until(lambda manager=manager: manager.publisher.idle)
                # The probe of a store that is new to the realm is not retained.
                own = client.seen[start : start + 3 - epoch]
                assert {message.topic for message in own} == {TOPICS.manager_state("m1")}
                facts = [json.loads(message.payload) for message in own]
                said = [(each["state"], each["epoch"]) for each in facts]
                assert said == [("starting", 1)] * (2 - epoch) + [("online", epoch)]
            await client.until(lambda: _manager(client) == "offline")
            assert client.assignment("n1")["epoch"] == epoch


def _manager(client: Client) -> str:
    return str(json.loads(client.retained[TOPICS.manager_state("m1")])["state"])


async def test_a_will_that_comes_late_is_contradicted(rig: tuple[Manager, Client]) -> None:
    manager, client = rig
    will = encode(ManagerState("offline", "m1", manager.store.id, manager.store.epoch))
    await client.link.publish(TOPICS.manager_state("m1"), will, retain=True)
    await client.until(lambda: _manager(client) == "offline")
    await client.until(lambda: _manager(client) == "online")


async def test_a_killed_manager_is_told_by_its_will(
    rig: tuple[Manager, Client], broker: MemoryBroker
) -> None:
    manager, client = rig
    manager.link.reachable.clear()  # type: ignore[attr-defined]
    broker.drop("manager")
    await client.until(lambda: _manager(client) == "offline")


async def test_events_keep_their_order_under_load(rig: tuple[Manager, Client]) -> None:
    _, client = rig
    await asyncio.gather(*(client.cluster(f"c{number:03}") for number in range(200)))
    events = await client.until(lambda: (e := client.events()) and len(e) == 200 and e)
    assert [int(event["sequence"]) for event in events] == list(range(1, 201))


@pytest.mark.fault(62, "L C")
@pytest.mark.parametrize("part", ["/event/", "/status/edge/workergroup/", "/response/"])
async def test_a_message_that_cant_be_sent_holds_up_nothing(
    rig: tuple[Manager, Client], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    manager, client = rig
    send, failed = manager.link.send, asyncio.Event()

    def fails(topic: str, *more: Any, **named: Any) -> None:
        if part in topic and not failed.is_set():
            failed.set()
            raise ValueError("no such topic")
        send(topic, *more, **named)

    monkeypatch.setattr(manager.link, "send", fails)
    cluster = await client.cluster("edge")
    await client.group(cluster, name="web")
    await asyncio.wait_for(failed.wait(), bound(10))
    await until(lambda: manager.publisher.idle)
    other = await client.cluster("other")
    await client.until(lambda: client.status("other", "routercluster", "other"))
    assert other["name"] == "other"


@pytest.mark.fault(62, "L C")
async def test_a_status_that_cant_be_rendered_holds_up_no_other(
    rig: tuple[Manager, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client = rig
    bad = await client.cluster("bad")
    monkeypatch.setattr(publishing, "RETRY_S", 0.01)
    builder = manager.publisher._builder
    build, tries = builder.status, 0

    def status(key: Any, stamp: Any) -> Any:
        nonlocal tries
        if key == ("routercluster", bad["oid"]) and tries < 3:
            tries += 1
            raise ValueError("can't be rendered")
        return build(key, stamp)

    monkeypatch.setattr(builder, "status", status)
    manager.publisher.publish_all()
    await client.cluster("good")
    await client.until(lambda: client.status("good", "routercluster", "good"))
    await until(lambda: tries == 3 and manager.publisher.idle)


async def test_what_does_not_fit_in_memory_is_read_from_the_table(
    rig: tuple[Manager, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "QUEUE_LIMIT", 5)
    monkeypatch.setattr(publishing, "PAGE", 7)
    manager, client = rig

    def many(tx: Tx) -> None:
        for number in range(100):
            tx.send(f"{TOPICS.prefix}/event/_/node/n{number}/online", b'{"sequence": "%d"}' % number)

    await manager.store.write(many)
    events = await client.until(lambda: (e := client.events()) and len(e) >= 100 and e)
    assert [int(event["sequence"]) for event in events] == list(range(100))
    await until(lambda: manager.store.reads.outbox_count() == 0)


@pytest.mark.parametrize("patience", [60.0, 0.05])
async def test_statuses_give_way_to_writes_for_a_while_and_assignments_do_not(
    rig: tuple[Manager, Client], monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(publishing, "YIELD_WRITES", 1)
    monkeypatch.setattr(publishing, "YIELD_S", patience)
    manager, client = rig
    oid = (await client.node("n1"))["oid"]
    await until(lambda: manager.publisher.idle)
    before, busy = client.assignment("n1")["version"], threading.Event()

    def change(tx: Tx) -> None:
        tx.bump_assignment(oid)
        tx.update_node(oid, reason="first")

    def last(tx: Tx) -> None:
        tx.update_node(oid, reason="last")

    def flood(_: object) -> None:
        manager.store.fault = lambda point: busy.wait(bound(10)) and None
        manager.store.submit(last, lambda _: None)

    def reason() -> str:
        return str((client.status(NO_CLUSTER, "node", "n1") or {})["reason"])

    try:
        manager.store.submit(change, flood)
        await client.until(lambda: client.assignment("n1")["version"] > before)
        if patience < 1:
            await client.until(lambda: reason() == "first")
        await client.call("vera", "list_nodes")
        assert (reason() == "first") == (patience < 1)
    finally:
        busy.set()
    await client.until(lambda: reason() == "last")


@pytest.mark.fault(47, "D A")
async def test_rows_that_a_broken_connection_swallowed_are_sent_again(
    rig: tuple[Manager, Client], broker: MemoryBroker
) -> None:
    manager, client = rig
    manager.link.reachable.clear()  # type: ignore[attr-defined]
    broker.drop("manager")
    assert manager.link.connected is False
    for number in range(3):
        await manager.store.write(lambda tx, n=number: tx.send(f"{TOPICS.prefix}/event/_/node/n/v{n}", b"{}"))
    assert manager.store.reads.outbox_count() == 3
    manager.link.reachable.set()  # type: ignore[attr-defined]
    await client.until(lambda: len(client.events()) == 3)
    assert [m.topic[-2:] for m in client.seen if "/event/" in m.topic] == ["v0", "v1", "v2"]


# --- audit of retained topics


@pytest.mark.fault(44, "C")
async def test_forged_deleted_and_foreign_retained_topics_are_mended(
    quick: None, rig: tuple[Manager, Client], broker: MemoryBroker
) -> None:
    manager, client = rig
    await _furnish(client)
    await until(lambda: manager.publisher.idle)
    before = _state_of_all(broker)
    for topic, payload in (
        (TOPICS.node("n1", "assignment"), b'{"store": "forged", "epoch": 99, "version": 1, "workers": []}'),
        (TOPICS.status("edge", "routercluster", "edge"), b""),
        (TOPICS.status("ghost", "routercluster", "ghost"), b'{"status": "RUNNING"}'),
        (TOPICS.node("stranger", "assignment"), b'{"workers": []}'),
    ):
        await client.link.publish(topic, payload, retain=True)
    assert _state_of_all(broker) != before
    manager.retained_audit.wake()
    await until(lambda: _state_of_all(broker) == before)


@pytest.mark.fault(44, "C")
async def test_the_managers_own_state_is_mended(rig: tuple[Manager, Client], broker: MemoryBroker) -> None:
    topic = TOPICS.manager_state("m1")
    true = broker.retained[topic]
    for payload in (b"", b"nonsense", true.replace(b"online", b"offline")):
        await rig[1].link.publish(topic, payload, retain=True)
        await until(lambda: broker.retained.get(topic) == true)


async def test_the_broker_is_looked_at_often_while_it_holds_little() -> None:
    said: dict[str, bytes] = {}
    audit = retained_audit.RetainedAudit(MemoryBroker().link("m"), TOPICS, CLOCK, lambda: said, lambda: True)
    assert audit._next_interval() == retained_audit.MIN_INTERVAL_S
    said.update({f"t/{number}": b"" for number in range(1_000)})
    assert audit._next_interval() == 20.0
    said.update({f"t/{number}": b"" for number in range(100_000)})
    assert audit._next_interval() == retained_audit.MAX_INTERVAL_S


@pytest.mark.mosquitto
async def test_a_left_over_status_is_cleared_from_a_real_broker(quick: None, tmp_path: Path) -> None:
    with mosquitto(tmp_path) as port:
        net = mqtt_net(port)
        async with client_on(net) as client:
            ghost = TOPICS.status("ghost", "routercluster", "ghost")
            await client.link.publish(ghost, b'{"status": "RUNNING"}', retain=True)
            async with manager_on(net, tmp_path / "manager"):
                await client.cluster()
                await client.until(lambda: client.retained.get(ghost) == b"")
                await client.until(lambda: client.status("edge", "routercluster", "edge"))


# --- a real broker comes and goes


@pytest.mark.mosquitto
@pytest.mark.fault(42, "C")
async def test_a_broker_that_is_killed_and_comes_back_empty(tmp_path: Path) -> None:
    port = free_port()
    net = mqtt_net(port)
    with mosquitto(tmp_path, port=port):
        client_context, manager_context = client_on(net), manager_on(net, tmp_path / "manager")
        client = await client_context.__aenter__()
        manager = await manager_context.__aenter__()
        try:
            await _furnish(client)
            await client.until(lambda: client.status("edge", "workergroup", "web"))
        except BaseException:
            await manager_context.__aexit__(None, None, None)
            await client_context.__aexit__(None, None, None)
            raise
    try:
        await until(lambda: not manager.link.connected)
        client.retained.clear()
        with mosquitto(tmp_path, port=port):
            await client.until(lambda: client.status("edge", "workergroup", "web"), timeout=20)
            await client.until(lambda: client.assignment("n1").get("version") == 1)
            assert len(await client.call("vera", "list_routerclusters")) == 1
            await manager_context.__aexit__(None, None, None)
            await client_context.__aexit__(None, None, None)
    except BaseException:
        await manager_context.__aexit__(None, None, None)
        await client_context.__aexit__(None, None, None)
        raise


# --- fences


@pytest.mark.fault(9, "M")
async def test_on_a_new_connection_it_listens_before_it_speaks(
    rig: tuple[Manager, Client], broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says begins with its own state, and events keep their order, whatever happens meanwhile."""
    manager, client = rig
    await client.cluster("one")
    monkeypatch.setattr(service, "FENCE_WAIT_S", 0.5)
    link: Any = manager.link
    link.reachable.clear()
    broker.drop("manager", will=False)
    await until(lambda: not link.connected)
    start = len(client.seen)

    def create(name: str) -> None:
        payload = json.dumps({"id": name, "params": {"routercluster": {"name": name}}}).encode()
        manager.dispatch.handle(Message(TOPICS.request("alice", "create_routercluster"), payload))

    create("two")
    await until(lambda: len(manager.store.reads.outbox(0, 10)) == 2)
    link.reachable.set()
    await until(lambda: link.connected)
    create("three")
    await client.link.publish(TOPICS.request("vera", "list_routerclusters"), b'{"params": {}}')
    await client.until(lambda: client.events(start)[1:] and client.replies("vera", start))
    assert [event["data"]["name"] for event in client.events(start)] == ["two", "three"]
    said = [m.topic for m in client.seen[start:] if "/request/" not in m.topic]
    assert said[0] == TOPICS.manager_state("m1")


@pytest.mark.fault(9, "M")
async def test_a_higher_epoch_of_the_same_store_fences_a_manager(net: Net, tmp_path: Path) -> None:
    async with client_on(net) as client:
        store = open_store(tmp_path / "manager")
        higher = encode(ManagerState("online", "m2", store.id, store.epoch + 5))
        async with manager_on(net, tmp_path / "manager", store) as manager:
            await _furnish(client)
            running = next(task for task in asyncio.all_tasks() if task.get_name() == "watch")
            await client.link.publish(TOPICS.manager_state("m2"), higher, retain=True)
            await asyncio.wait([running], timeout=bound(5))
            assert isinstance(running.exception(), FencedError)
            start = len(client.seen)
            assert manager.publisher.idle is False and manager.fence.reason
        # Nothing is said any more, not even a goodbye (the will aside, which the broker says).
        assert [m for m in client.seen[start:] if "/manager/m1/" not in m.topic] == []


@pytest.mark.fault(17, "M")
async def test_a_manager_restored_from_an_older_backup_says_nothing(net: Net, tmp_path: Path) -> None:
    async with client_on(net) as client:
        store = open_store(tmp_path / "manager")
        newer = encode(ManagerState("offline", "m1", store.id, store.epoch + 1))
        await client.link.publish(TOPICS.manager_state("m1"), newer, retain=True)
        said: list[Message] = client.seen
        with pytest.raises(FencedError, match="older backup"):
            async with manager_on(net, tmp_path / "manager", store):
                pass
        assert [m for m in said if m.topic == TOPICS.manager_state("m1") and m.payload != newer] == []


@pytest.mark.fault(17, "M")
async def test_a_restored_store_takes_over_when_told_to(net: Net, tmp_path: Path) -> None:
    folder = tmp_path / "manager"
    open_store(folder).close()
    take_over(folder, 40)
    async with client_on(net) as client, manager_on(net, folder) as manager:
        assert manager.store.epoch == 41
        with pytest.raises(ValueError, match="heartbeat_s"):
            await run(replace(manager.config, heartbeat_s=0))
        assert (await client.call("vera", "get_manager"))["epoch"] == 41


async def test_requests_that_come_before_the_manager_may_speak_are_answered_then(
    net: Net, broker: MemoryBroker, tmp_path: Path
) -> None:
    async def ask_at_once() -> dict[str, Any]:
        await until(lambda: "manager" in broker.links)
        payload = b'{"id": "r1", "reply": "raw", "params": {"routercluster": {"name": "early"}}}'
        return await client.send("alice", "create_routercluster", payload)

    async with client_on(net) as client:
        asking = asyncio.ensure_future(ask_at_once())
        async with manager_on(net, tmp_path / "manager"):
            assert (await asking)["ok"]
            assert client.seen[0].topic == TOPICS.manager_state("m1")


@pytest.mark.fault(9, "M")
async def test_a_manager_of_another_store_is_a_condition(rig: tuple[Manager, Client]) -> None:
    manager, client = rig
    other = encode(ManagerState("online", "m9", "sother", 3))
    await client.link.publish(TOPICS.manager_state("m9"), other, retain=True)
    await until(lambda: manager.conditions())
    info: dict[str, Any] = await client.call("vera", "get_manager")
    assert "another store (sother)" in info["conditions"][0]
    gone = encode(ManagerState("offline", "m9", "sother", 3))
    await client.link.publish(TOPICS.manager_state("m9"), gone, retain=True)
    await until(lambda: not manager.conditions())


@pytest.mark.fault(0, "L")
async def test_nonsense_on_the_managers_topics_ends_nothing(rig: tuple[Manager, Client]) -> None:
    _, client = rig
    for payload in (b"", b"x", b"[]", b'{"state": 5}', b"\xff" * 100, b"[" * 100_000):
        await client.link.publish(TOPICS.manager_state("m9"), payload)
    assert (await client.call("vera", "get_manager"))["state"] == "online"
