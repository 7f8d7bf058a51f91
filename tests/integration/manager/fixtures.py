"""A whole manager on a broker, and a client that talks to it; for every test of the manager."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import NO_PROPERTIES, Link, Message, Properties, Will
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.rpc import Caller
from busbar.bus.errors import BusError
from busbar.bus.options import ConnectOptions
from busbar.bus.testing import MemoryBroker
from busbar.bus.topics import Topics
from busbar.manager.leader.fencing import FencedError
from busbar.manager.leader.state_folder import database
from busbar.manager.service import Manager, ManagerConfig
from busbar.manager.store import Store

from tests.pace import bound

REALM = "lab"
TOPICS = Topics(REALM)
PRINCIPALS = {"alice": "owner", "bob": "operator", "carol": "operator", "vera": "viewer"}
CLOCK = SystemClock()


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Net:
    """One broker, whichever it is: makes links to it."""

    link: Callable[..., Link]
    memory: MemoryBroker | None = None
    protocol: int = 4


def memory_net() -> Net:
    broker = MemoryBroker()
    return Net(lambda name, will=None: broker.link(name, will=will), broker)


def mqtt_net(port: int, protocol: int = 4) -> Net:
    def link(name: str, will: Callable[[int], Will] | None = None) -> Link:
        options = ConnectOptions(port=port, client_id=name, protocol=protocol)  # type: ignore[arg-type]
        return MqttLink(options, clock=CLOCK, random=Random(1), will=will)

    return Net(link, protocol=protocol)


@dataclass
class Client:
    """Sees everything, and calls in anybody's name."""

    link: Link
    callers: dict[str, Caller] = field(default_factory=dict)
    seen: list[Message] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, message: Message) -> None:
        self.seen.append(message)
        if "/status/" in message.topic or message.topic.endswith(("/assignment", "/state")):
            self.retained[message.topic] = message.payload
        self.changed.set()

    async def call(self, who: str, op: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        return await self.callers[who].call(op, params, timeout=bound(10.0), **more)

    async def refused(self, who: str, op: str, params: dict[str, Any] | None = None, **more: Any) -> BusError:
        """The error of a call that must fail."""
        try:
            result = await self.call(who, op, params, **more)
        except BusError as error:
            return error
        raise AssertionError(f"{op} succeeded: {result}")

    async def send(
        self, caller: str, op: str, payload: bytes, properties: Properties = NO_PROPERTIES, **more: Any
    ) -> dict[str, Any]:
        """Publish raw bytes as a request; the next reply to that caller on any inbox of the test's."""
        start = len(self.seen)
        await self.link.publish(TOPICS.request(caller, op), payload, properties=properties, **more)
        reply = await self.until(lambda: self.replies(caller, start))
        return dict(json.loads(reply[0].payload), inbox=reply[0].topic.rpartition("/")[2])

    def replies(self, caller: str, start: int = 0) -> list[Message]:
        prefix = TOPICS.response(caller, "")
        return [message for message in self.seen[start:] if message.topic.startswith(prefix)]

    def events(self, start: int = 0) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in self.seen[start:] if "/event/" in message.topic]

    def event_names(self, start: int = 0) -> list[str]:
        return [event["type"].removeprefix("busbar.on_") for event in self.events(start)]

    def status(self, cluster: str, kind: str, name: str) -> dict[str, Any] | None:
        """The retained status as this client knows it; None for none, or an empty one."""
        payload = self.retained.get(TOPICS.status(cluster, kind, name))
        return json.loads(payload) if payload else None

    def assignment(self, node: str) -> dict[str, Any]:
        payload = self.retained.get(TOPICS.node(node, "assignment"))
        return json.loads(payload) if payload else {}

    async def until(self, condition: Callable[[], Any], timeout: float = 8.0) -> Any:
        """Wait until something that was received makes the condition true."""
        async with asyncio.timeout(bound(timeout)):
            while not (value := condition()):
                self.changed.clear()
                await self.changed.wait()
        return value

    # --- shorthands

    async def cluster(self, name: str = "edge", who: str = "alice", **more: Any) -> dict[str, Any]:
        return await self.call(who, "create_routercluster", {"routercluster": {"name": name, **more}})

    async def node(self, name: str) -> dict[str, Any]:
        return await self.call("alice", "pair_node", {"node": {"name": name}})

    async def group(self, cluster: dict[str, Any], who: str = "alice", **wish: Any) -> dict[str, Any]:
        params = {"routercluster_oid": cluster["oid"], "workergroup": {"scale": 1} | wish}
        return await self.call(who, "add_routercluster_workergroup", params)


@asynccontextmanager
async def client_on(net: Net) -> AsyncIterator[Client]:
    """A client of every principal, connected."""
    client = Client(net.link("client"))
    for who in (*PRINCIPALS, "mallory"):
        client.callers[who] = Caller(client.link, TOPICS, who, "t1", CLOCK, new_id, Random(1))
    for pattern in (
        f"{TOPICS.prefix}/response/+/default",
        f"{TOPICS.prefix}/response/+/raw",
        TOPICS.all_events(),
        TOPICS.all_status(),
        TOPICS.all_nodes("assignment"),
        TOPICS.all_nodes("command"),
        TOPICS.all_managers(),
    ):
        client.link.subscribe(pattern, client.note)
    running = asyncio.create_task(client.link.run())
    try:
        await client.link.wait_connected(bound(10))
        yield client
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=bound(5))


def open_store(folder: Path) -> Store:
    return Store.open(database(folder), CLOCK, new_id, TOPICS)


@asynccontextmanager
async def manager_on(
    net: Net, folder: Path, store: Store | None = None, **config: Any
) -> AsyncIterator[Manager]:
    """A running manager with the test's principals."""
    store = store or open_store(folder)
    facts: dict[str, Any] = {"heartbeat_s": 1.0, "principals": PRINCIPALS, **config}
    connect = ConnectOptions(protocol=net.protocol)  # type: ignore[arg-type]
    manager = Manager(
        ManagerConfig(folder, REALM, connect, **facts),
        store,
        lambda will: net.link("manager", will=will),
        CLOCK,
        new_id,
    )
    ready = asyncio.Event()
    running = asyncio.create_task(manager.run(ready.set))
    try:
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([running, waiting], timeout=bound(10), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()
        assert ready.is_set(), "the manager did not get ready"
        yield manager
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=bound(8))
        store.close()
        with suppress(asyncio.CancelledError, FencedError):  # what else ended it fails the test
            running.result()


@asynccontextmanager
async def rig_on(net: Net, folder: Path, **config: Any) -> AsyncIterator[tuple[Manager, Client]]:
    """A manager and a client on one broker."""
    async with client_on(net) as client, manager_on(net, folder, **config) as manager:
        yield manager, client
