"""Unpairing a node or removing a principal, by any client, revokes its account at the embedded broker."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import Accounts, ensure_account, new_secret
from busbar.bus.broker.join_tokens import issue_token, join_password
from busbar.bus.broker.revocation import Revocation, revocation_of
from busbar.bus.clock import SystemClock
from busbar.bus.topics import Topics
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.census import until
from tests.faults.watcher import Watcher
from tests.integration.bus.broker.kit import R, Raw, broker_in, secret
from tests.stack import FakeNode, Stack, stack

pytestmark = pytest.mark.timeout(120)

UNPAIRED, REMOVED = f"{R}/event/_/node/n1/unpaired", f"{R}/event/_/principal/bob/removed"
GONE_S = 5.0
"""A bound, not a goal: a revoked client is disconnected within three seconds."""


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with broker_in(tmp_path) as running:
        yield running


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    return tmp_path / "private" / "accounts.json"


async def _knock(broker: EmbeddedBroker, name: str, password: str | None = None) -> int:
    return (await Raw.connect(broker.port, name, client_id=f"k{len(Raw.opened)}", password=password)).code


# --- the broker, with the manager's events ------------------------------------------------------------------


async def test_a_removed_principal_is_disconnected_once_the_event_is_acknowledged(
    broker: EmbeddedBroker, accounts: Path
) -> None:
    manager, bob = await Raw.connect(broker.port, "manager"), await Raw.connect(broker.port, "bob")
    await manager.publish(REMOVED, b'{"data": {"name": "bob"}}')
    assert "bob" not in Accounts.load(accounts).table, "it is on disk before the manager may forget the event"
    await bob.closed(within=1.0)
    assert await _knock(broker, "bob") == 5
    assert await _knock(broker, "alice") == 0


async def test_an_unpaired_node_gets_its_last_assignment_and_is_disconnected(
    broker: EmbeddedBroker, accounts: Path
) -> None:
    manager, node = await Raw.connect(broker.port, "manager"), await Raw.connect(broker.port, "n1")
    await node.subscribe(f"{R}/node/n1/assignment")
    await manager.publish(UNPAIRED, b'{"data": {"keep_account": false}}')
    assert "n1" not in Accounts.load(accounts).table
    assert await _knock(broker, "n1") == 5, "it can't connect again"
    await manager.publish(f"{R}/node/n1/assignment", b"nothing", retain=True)
    assert (await node.message())[1] == b"nothing"
    await manager.subscribe(f"{R}/node/n1/reported")
    await node.publish(f"{R}/node/n1/reported", b"none left")
    assert (await manager.message())[1] == b"none left", "it can still report the stop"
    await node.closed(within=GONE_S)
    assert await _knock(broker, "n2") == 0


async def test_a_node_may_keep_its_account_for_some_time(broker: EmbeddedBroker, accounts: Path) -> None:
    manager, node = await Raw.connect(broker.port, "manager"), await Raw.connect(broker.port, "n1")
    await manager.publish(UNPAIRED, b'{"data": {"keep_account": true}}')
    assert "n1" in Accounts.load(accounts).table
    await node.ping()
    assert await _knock(broker, "n1") == 0


async def test_an_unused_token_is_removed_with_the_node(broker: EmbeddedBroker, accounts: Path) -> None:
    token = issue_token(accounts, "n9", SystemClock().time_ns() / 1e9)
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/event/_/node/n9/unpaired", b"{}")
    assert await _knock(broker, "n9", join_password(token, new_secret())) == 5


@pytest.mark.parametrize(
    "topic",
    [
        f"{R}/event/_/node/alice/unpaired",
        f"{R}/event/_/node/manager/unpaired",
        f"{R}/event/_/principal/n1/removed",
        f"{R}/event/_/principal/manager/removed",
        f"{R}/event/edge/routercluster_node/n1/removed",
        f"{R}/event/edge/workergroup/bob/removed",
        f"{R}/event/_/node/nobody/unpaired",
        f"{R}/status/_/node/n1/unpaired",
    ],
)
async def test_nothing_else_removes_an_account(broker: EmbeddedBroker, accounts: Path, topic: str) -> None:
    before = Accounts.load(accounts).table
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(topic, b"{}")
    assert Accounts.load(accounts).table == before
    assert {await _knock(broker, name) for name in before} == {0}


@pytest.mark.parametrize("actor", ["alice", "bob", "n1", "n2"])
async def test_only_a_manager_can_have_an_account_removed(
    broker: EmbeddedBroker, accounts: Path, actor: str
) -> None:
    before = Accounts.load(accounts).table
    forger = await Raw.connect(broker.port, actor)
    for topic in (UNPAIRED, REMOVED, f"{R}/event/_/principal/alice/removed", f"{R}/event/_/node/n2/unpaired"):
        await forger.publish(topic, b"{}")
    await forger.ping()
    assert Accounts.load(accounts).table == before
    assert {await _knock(broker, name) for name in before} == {0}


async def test_a_manager_of_another_realm_removes_no_account(accounts: Path) -> None:
    for name, kind in {"manager": "manager", "n1": "node"}.items():
        ensure_account(accounts, name, kind, secret(name))
    async with EmbeddedBroker(BrokerConfig(accounts, realm="lab")) as broker:
        manager = await Raw.connect(broker.port, "manager")
        await manager.publish(Topics("other").event("_", "node", "n1", "unpaired"), b"{}")
        assert "n1" in Accounts.load(accounts).table
        await manager.publish(UNPAIRED, b"{}")
        assert "n1" not in Accounts.load(accounts).table
        while Raw.opened:
            Raw.opened.pop().leave()


@contextmanager
def _held(accounts: Path) -> Iterator[None]:
    """Another process holds the lock of the accounts."""
    descriptor = os.open(f"{accounts}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def test_a_removal_that_cannot_be_written_yet_is_effective_and_written_later(
    broker: EmbeddedBroker, accounts: Path
) -> None:
    manager, bob = await Raw.connect(broker.port, "manager"), await Raw.connect(broker.port, "bob")
    with _held(accounts):
        await manager.publish(REMOVED, b"{}")
        assert "bob" in Accounts.load(accounts).table
        await bob.closed(within=1.0)
        assert await _knock(broker, "bob") == 5
        await manager.publish(UNPAIRED, b"{}")
    await asyncio.to_thread(
        until, lambda: not {"bob", "n1"} & set(Accounts.load(accounts).table), 15, "both are out of the file"
    )


async def test_an_account_that_is_added_again_stays(broker: EmbeddedBroker, accounts: Path) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(UNPAIRED, b"{}")
    await manager.publish(UNPAIRED, b"{}")
    token, mine = issue_token(accounts, "n1", SystemClock().time_ns() / 1e9), new_secret()
    joined = await Raw.connect(broker.port, "n1", client_id="again", password=join_password(token, mine))
    assert joined.code == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3.0):
            await joined.closed()
    assert await _knock(broker, "n1", mine) == 0


# --- the rule, without a broker -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"\xff", b'{"data": 1}', b'{"data": {"keep_account": 1}}']
)
def test_an_unreadable_event_removes_the_account(payload: bytes) -> None:
    assert revocation_of(UNPAIRED, payload, "busbar") == Revocation("n1", "node")
    assert revocation_of(REMOVED, payload, "busbar") == Revocation("bob", "person")


@given(st.text(max_size=60), st.binary(max_size=60))
def test_any_topic_is_accepted(topic: str, payload: bytes) -> None:
    assert revocation_of(topic, payload, "busbar") is None
    for whole in (f"{R}/event/{topic}/unpaired", f"{topic}/removed"):
        found = revocation_of(whole, payload, "busbar")
        assert found is None or whole.count("/") >= 7


# --- end to end, with plain clients ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded broker and a manager beside it, each a process of its own."""
    with stack(tmp_path_factory.mktemp("revoking"), "embedded") as made:
        made.start_manager()
        alice = made.client("alice")
        made.wait_manager(alice)
        made.add_principals(alice)
        yield made


def _watcher(lab: Stack, user: str) -> Watcher:
    """A client that reconnects, as an agent or a user's program does."""
    made = Watcher(lab.port, user, lab.secrets[user])
    lab.clients.append(made)
    return made


def test_a_plain_client_removes_a_principal(lab: Stack) -> None:
    alice, carol = _watcher(lab, "alice"), _watcher(lab, "carol")
    alice.subscribe("event", "#")
    carol.ok("list_nodes")
    alice.ok("remove_principal", {"principal_name": "carol"})
    accounts = lab.folder / "broker" / "accounts.json"
    until(lambda: "carol" not in Accounts.load(accounts).table, GONE_S, "carol's account is gone")
    event = alice.wait_event("on_principal_removed", name="carol")
    assert (event["subject"], event["data"]["who"]["authid"]) == ("principal/carol", "alice")
    until(lambda: carol.refused, GONE_S, "carol is cut off and refused")
    refused = lab.client("carol").refused
    assert refused is not None and "authori" in refused.lower()


def test_a_plain_client_unpairs_a_node(lab: Stack) -> None:
    alice = _watcher(lab, "alice")
    alice.subscribe("status", "#")
    oid = alice.ok("pair_node", {"node": {"name": "n1"}})["oid"]
    node = FakeNode(lab, "n1").start()
    try:
        alice.status("_", "node", "n1", "online")
        gone = alice.ok("unpair_node", {"node_oid": oid})
        version = gone["assignment_version"]
        until(
            lambda: node.applied()["version"] == version, GONE_S, "it has learned that it is to run nothing"
        )
        assert node.assignment is not None and node.assignment["workers"] == []
        until(lambda: node.client.refused, GONE_S, "n1 is cut off and refused")
    finally:
        node.stop()
    refused = lab.client("n1").refused
    assert refused is not None and "authori" in refused.lower()


def test_an_unpaired_node_that_kept_its_account_learns_of_it_later(lab: Stack) -> None:
    alice = _watcher(lab, "alice")
    oid = alice.ok("pair_node", {"node": {"name": "n2"}})["oid"]
    gone = alice.ok("unpair_node", {"node_oid": oid, "keep_account": True})
    node = lab.client("n2")
    assert node.refused is None
    node.subscribe("node", "n2", "assignment")
    topic = node.topic("node", "n2", "assignment")
    version = gone["assignment_version"]
    assert node.wait_retained(topic, lambda value: value.get("version") == version)["workers"] == []
