"""A realm is one store's: a manager that is new to it does not start where another store's has served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.decode import encode
from busbar.bus.messages import Assignment, ManagerState
from busbar.bus.testing import MemoryBroker
from busbar.manager.leader.realm_claim import RealmInUseError
from busbar.manager.leader.state_folder import take_over
from busbar.manager.store.backup import REALM
from busbar.manager.store.migrations import migrations

from tests.brokers import mosquitto
from tests.integration.manager.fixtures import (
    TOPICS,
    Client,
    Net,
    client_on,
    manager_on,
    memory_net,
    mqtt_net,
    open_store,
)


def online(client: Client, manager: str = "m1") -> dict[str, Any]:
    payload = client.retained.get(TOPICS.manager_state(manager))
    return json.loads(payload) if payload else {}


async def refused(net: Net, folder: Path, **config: Any) -> str:
    with pytest.raises(RealmInUseError) as error:
        async with manager_on(net, folder, **config):
            pass
    return str(error.value)


def state(store: str, word: str, manager: str = "m1") -> tuple[str, bytes]:
    return TOPICS.manager_state(manager), encode(ManagerState(word, manager, store, 3))


def assigned(store: str) -> tuple[str, bytes]:
    return TOPICS.node("n9", "assignment"), encode(Assignment(store, 3, 9, []))


HELD: dict[str, tuple[tuple[str, bytes], bool]] = {
    "online, same id": (state("sother", "online"), True),
    "offline, same id": (state("sother", "offline"), True),
    "online, another id": (state("sother", "online", "m2"), True),
    "offline, another id": (state("sother", "offline", "m2"), True),
    "only its assignments": (assigned("sother"), True),
    "an unreadable state": ((TOPICS.manager_state("m2"), b"{"), False),
    "an unreadable assignment": ((TOPICS.node("n9", "assignment"), b"{"), False),
    "a deleted state": ((TOPICS.manager_state("m2"), b""), False),
}


@pytest.mark.parametrize("what", HELD)
@pytest.mark.fault(117, "M L")
async def test_what_the_realm_holds_decides(tmp_path: Path, what: str) -> None:
    (topic, payload), in_use = HELD[what]
    net = memory_net()
    async with client_on(net) as client:
        await client.link.publish(topic, payload, retain=True)
        start = len(client.seen)
        if not in_use:
            async with manager_on(net, tmp_path / "m"):
                assert online(client)["state"] == "online"
            return
        text = await refused(net, tmp_path / "m")
        assert "sother" in text and "--adopt-realm" in text and "realm 'lab' is in use" in text
        said = [m for m in client.seen[start:] if m.retain or "/manager/" not in m.topic]
        assert said == [], "nothing retained, and nothing but the probe"
        assert isinstance(net.memory, MemoryBroker) and net.memory.retained[topic] == payload
        assert "sother" in await refused(net, tmp_path / "m"), "trying again does not help"
        async with manager_on(net, tmp_path / "m", adopt_realm=True) as manager:
            assert online(client)["store"] == manager.store.id
        async with manager_on(net, tmp_path / "m"):
            pass


@pytest.mark.fault(117, "M L")
async def test_the_older_manager_serves_on_and_says_who_came(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as port:
        net = mqtt_net(port)
        newcomer = Net(lambda name, will=None: mqtt_net(port).link(f"{name}-2", will))
        async with client_on(net) as client, manager_on(net, tmp_path / "old") as old:
            await client.cluster("edge")
            text = await refused(newcomer, tmp_path / "new")
            assert old.store.id in text and "online" in text
            assert await client.call("vera", "list_routerclusters", {"return_names": True}) == ["edge"]
            assert old.conditions() == []
            async with manager_on(newcomer, tmp_path / "new", adopt_realm=True, manager_id="m2") as new:
                await client.until(lambda: new.store.id in " ".join(old.conditions()) or None)
                assert old.store.id in " ".join(new.conditions())
            await client.until(lambda: not old.conditions())


def _keep(folder: Path) -> None:
    pass


def _restore(folder: Path) -> None:
    take_over(folder, 40)


def _upgrade(folder: Path) -> None:
    """As a store that has served before claims were recorded is migrated."""
    store = open_store(folder)
    store._db.execute("DELETE FROM meta WHERE key = ?", (REALM,))
    store._db.execute("DELETE FROM _sqlite_migrations WHERE name = 'realm_claim'")
    migrations.apply(store._db)
    store.close()


@pytest.mark.parametrize(
    ("before", "other", "starts"),
    [
        (_keep, False, True),
        (_keep, True, True),
        (_restore, False, True),
        (_restore, True, False),
        (_upgrade, True, True),
    ],
)
@pytest.mark.fault(117, "M L")
async def test_a_store_that_has_served_the_realm(
    tmp_path: Path, before: Callable[[Path], None], other: bool, starts: bool
) -> None:
    """It starts again; a restored one only if no other store has taken the realm over since."""
    net = memory_net()
    async with client_on(net) as client:
        async with manager_on(net, tmp_path / "m"):
            pass
        before(tmp_path / "m")
        if other:
            await client.link.publish(*state("sother", "offline", "m2"), retain=True)
        if not starts:
            assert "sother" in await refused(net, tmp_path / "m")
            return
        async with manager_on(net, tmp_path / "m"):
            assert online(client)["state"] == "online"


@pytest.mark.fault(117, "M L")
async def test_a_store_of_one_realm_does_not_take_another(tmp_path: Path) -> None:
    net = memory_net()
    async with client_on(net) as client:
        store = open_store(tmp_path / "m")
        await store.write(lambda tx: tx.set_meta(REALM, "busbar/v1/elsewhere"))
        await client.link.publish(*state("sother", "offline"), retain=True)
        with pytest.raises(RealmInUseError):
            async with manager_on(net, tmp_path / "m", store):
                pass
