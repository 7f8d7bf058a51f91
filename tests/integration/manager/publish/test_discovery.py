"""Home Assistant's discovery messages follow the realm, its births, and the option that wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.access.home_assistant import HomeAssistant
from busbar.bus.connection.link import NO_PROPERTIES
from busbar.bus.errors import MissingRightError
from busbar.bus.testing import MemoryBroker, MemoryLink
from busbar.manager.publish import discovery, retained

from tests.brokers import until
from tests.integration.manager.fixtures import Client, Net, memory_net, rig_on

HOUSE = HomeAssistant("bob")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(discovery, "PAUSE_S", 0.01)
    monkeypatch.setattr(retained, "SETTLE_S", 0.1)
    yield


def configs(broker: MemoryBroker, prefix: str = "homeassistant") -> dict[str, Any]:
    found = {topic: payload for topic, payload in broker.retained.items() if topic.startswith(f"{prefix}/")}
    return {topic: json.loads(payload) for topic, payload in found.items() if topic.endswith("/config")}


def entities(broker: MemoryBroker, oid: str) -> set[str]:
    """Of one object: the components and the last parts of their ids."""
    return {topic for topic in configs(broker) if topic.split("/")[3].startswith(oid)}


def publish(broker: MemoryBroker, topic: str, payload: bytes, retain: bool = False) -> None:
    broker.route(topic, payload, 1, retain, NO_PROPERTIES)


async def test_objects_come_and_go_with_their_messages(tmp_path: Path) -> None:
    net = memory_net()
    assert net.memory is not None
    broker: MemoryBroker = net.memory
    async with rig_on(net, tmp_path / "manager", home_assistant=HOUSE) as (_, client):
        node, cluster = await client.node("n1"), await client.cluster("edge", "bob")
        await until(lambda: len(entities(broker, node["oid"])) == 3 and entities(broker, cluster["oid"]))
        group = await client.group(cluster, name="web")
        await until(lambda: any("/button/" in topic for topic in entities(broker, group["oid"])))

        # A birth: all are published again, though they are still retained.
        before = set(configs(broker))
        mark = len(broker.journal)
        publish(broker, "homeassistant/status", b"online")
        await until(lambda: before <= {message.topic for message in broker.journal[mark:]})
        mark = len(broker.journal)
        publish(broker, "homeassistant/status", b"offline")

        # Forged, deleted and left over.
        forged, deleted = sorted(before)[:2]
        wanted = dict(broker.retained)
        left_over = "homeassistant/sensor/busbar-lab/of-somebody-gone/config"
        publish(broker, left_over, b"{}", retain=True)
        publish(broker, forged, b'{"name": "forged"}', retain=True)
        publish(broker, deleted, b"", retain=True)
        publish(broker, "homeassistant/sensor/busbar-yard/x/config", b"{}", retain=True)
        await until(
            lambda: (
                left_over not in broker.retained
                and all(broker.retained.get(topic) == wanted[topic] for topic in (forged, deleted))
            )
        )
        assert "homeassistant/sensor/busbar-yard/x/config" in broker.retained, "that is another realm's"
        assert not {m.topic for m in broker.journal[mark:]} >= before, "no birth, nothing is published again"

        await remove(client, cluster, group)
        await until(lambda: not entities(broker, group["oid"]) and not entities(broker, cluster["oid"]))
        assert entities(broker, node["oid"])
        await client.call("alice", "unpair_node", {"node_oid": node["oid"]})
        await until(lambda: not entities(broker, node["oid"]))


async def remove(client: Client, cluster: dict[str, Any], group: dict[str, Any]) -> None:
    where = {"routercluster_oid": cluster["oid"]}
    await client.call("alice", "remove_routercluster_workergroup", {**where, "workergroup_oid": group["oid"]})
    await client.call("alice", "delete_routercluster", where)


async def test_buttons_follow_the_role_of_home_assistants_user(tmp_path: Path) -> None:
    net = memory_net()
    assert net.memory is not None
    broker: MemoryBroker = net.memory
    async with rig_on(net, tmp_path / "manager", home_assistant=HOUSE) as (_, client):
        cluster = await client.cluster("edge", "bob")
        group = await client.group(cluster, name="web")

        def has_button() -> bool:
            return any("/button/" in topic for topic in entities(broker, group["oid"]))

        await until(has_button)
        for role, wanted in (("viewer", False), ("operator", True)):
            await client.call("alice", "set_principal_role", {"principal_name": "bob", "role": role})
            await until(lambda wanted=wanted: has_button() is wanted)  # type: ignore[misc]


async def with_messages(folder: Path) -> tuple[Net, MemoryBroker]:
    """A broker on which a manager that has ended left discovery messages of a realm with one node."""
    net = memory_net()
    assert net.memory is not None
    broker: MemoryBroker = net.memory
    async with rig_on(net, folder, home_assistant=HOUSE) as (_, client):
        await client.node("n1")
        await until(lambda: len(configs(broker)) == 3)
    return net, broker


async def test_what_is_wanted_no_more_is_removed_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "manager"
    net, broker = await with_messages(folder)
    publish(broker, "homeassistant/light/hall/config", b"{}", retain=True)
    assert len(configs(broker)) == 4, "they outlive the manager: its own state makes them unavailable"

    async with rig_on(net, folder, home_assistant=HomeAssistant("bob", "home")) as (manager, _):
        await until(lambda: len(configs(broker, "home")) == 3 and len(configs(broker)) == 1)
        await until(lambda: manager.store.reads.meta("home_assistant") == '["home"]')

    async with rig_on(net, folder) as (manager, _):
        await until(lambda: not configs(broker, "home"))
        await until(lambda: manager.store.reads.meta("home_assistant") == "[]")
    async with rig_on(net, folder) as (manager, _):
        assert not manager.discovery.needed
    assert list(configs(broker)) == ["homeassistant/light/hall/config"], "what is not ours stays"


async def test_a_former_prefix_that_may_not_be_written_keeps_nothing_else_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever changes the prefix gives the rights of the new one: old messages stay, which is said once."""
    folder = tmp_path / "manager"
    net, broker = await with_messages(folder)
    publish_of_link = MemoryLink.publish

    async def refusing(link: MemoryLink, topic: str, *more: Any, **options: Any) -> None:
        if topic.startswith("homeassistant/"):
            raise MissingRightError("manager", "write", topic)
        await publish_of_link(link, topic, *more, **options)

    monkeypatch.setattr(MemoryLink, "publish", refusing)
    async with rig_on(net, folder, home_assistant=HomeAssistant("bob", "home")) as (manager, client):
        await until(lambda: len(configs(broker, "home")) == 3)
        for number in range(3):
            await client.node(f"m{number}")
            await until(lambda number=number: len(configs(broker, "home")) == 3 * (number + 2))  # type: ignore[misc]
        assert len(configs(broker)) == 3
        assert len([each for each in caplog.messages if "below homeassistant/ stays" in each]) == 1
        assert manager.store.reads.meta("home_assistant") == '["home", "homeassistant"]'
    monkeypatch.undo()
    async with rig_on(net, folder, home_assistant=HomeAssistant("bob", "home")) as (manager, _):
        await until(lambda: not configs(broker))
