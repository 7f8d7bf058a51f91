"""A client on the in-memory broker in virtual time, with a manager that answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from busbar.bus.client.client import BusClient
from busbar.bus.connection.link import Message
from busbar.bus.decode import encode, parse
from busbar.bus.errors import BusError
from busbar.bus.messages import Status
from busbar.bus.testing import MemoryBroker, MemoryLink, settle
from busbar.bus.topics import Topics

from tests.virtual import VirtualClock, VirtualLoop, run_virtually

TOPICS = Topics("lab")
OID = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"
CLUSTER = {
    "oid": OID, "name": "edge", "label": None, "description": None, "tags": None, "status": "STOPPED",
    "owner_oid": "o", "changed": 1, "version": 3, "transport": None,
}  # fmt: skip
GROUP = {
    "changed": 1, "cluster_oid": OID, "description": None, "label": None, "name": "web", "oid": OID,
    "scale": 2, "status": "RUNNING", "tags": None, "runtime": "amqtt", "transport": None, "lost_after": 30.0,
    "start_deadline": 30.0, "version": 5, "revision": 1, "updated": 0, "max_unavailable": 1, "max_surge": 0,
}  # fmt: skip

Answer = Callable[[str, dict[str, Any]], Any]


class World:
    """One client, one broker, one manager."""

    def __init__(self, loop: VirtualLoop, answer: Answer) -> None:
        self.loop, self.answer = loop, answer
        self.broker = MemoryBroker()
        self.manager = self.broker.link("manager")
        self.manager.subscribe(TOPICS.all_requests(), self._on_request)
        self.link: MemoryLink = self.broker.link("alice")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.requests: list[dict[str, Any]] = []
        ids = iter(range(1, 1000))
        self.bus = BusClient(
            self.link,
            TOPICS,
            "alice",
            "box",
            clock=VirtualClock(loop),
            random=Random(1),
            new_id=lambda: f"r{next(ids)}",
        )

    def _on_request(self, message: Message) -> None:
        topic, request = TOPICS.parse_request(message.topic), parse(message.payload)
        assert topic is not None
        self.requests.append(request)
        self.asked.append((topic.operation, request["params"]))
        try:
            result = self.answer(topic.operation, request["params"])
        except BusError as error:
            body: dict[str, Any] = {"ok": False, "error": error.to_wire()}
        else:
            if result is None:
                return
            body = {"ok": True, "result": result}
        reply = {"id": request["id"], "op": topic.operation, "manager": "m1", "epoch": 1, **body}
        self.manager.post(TOPICS.response(topic.caller, request["reply"]), encode(reply))

    def status(self, kind: str, name: str, status: str | None, version: int = 1, **more: Any) -> None:
        """Publish a retained status, or with None its deletion."""
        cluster = "_" if kind == "node" else "edge"
        made = Status(version, 1, "1", status or "", name, "", **more)
        payload = encode(made) if status is not None else b""
        self.manager.post(TOPICS.status(cluster, kind, name), payload, retain=True)

    def event(self, sequence: int, type: str = "worker_ready", **data: Any) -> dict[str, Any]:
        """An event as it is published and stored."""
        return {
            "id": f"s-{sequence}", "source": "/busbar/lab/s", "sequence": f"{sequence:010d}",
            "type": f"busbar.on_{type}", "subject": "worker/web-1", "time": "", "data": data,
            "specversion": "1.0", "datacontenttype": "application/json",
        }  # fmt: skip

    def publish_event(self, event: dict[str, Any]) -> None:
        self.manager.post(TOPICS.event("edge", "worker", "web-1", "ready"), encode(event))


@asynccontextmanager
async def _running(*links: MemoryLink) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(link.run()) for link in links]
    await settle()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def play(work: Callable[[World], Awaitable[Any]], answer: Answer | None = None) -> Any:
    """Run a test's coroutine in such a world."""
    loop = VirtualLoop()

    async def whole() -> Any:
        world = World(loop, answer or (lambda _op, _params: None))
        async with _running(world.manager, world.link):
            try:
                return await work(world)
            finally:
                world.bus.close()

    return run_virtually(whole(), loop)
