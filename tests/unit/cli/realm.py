"""A realm whose answers a test makes up, and the real command line before it, in one process."""

from __future__ import annotations

import asyncio
import itertools
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
import typer
from busbar.bus.client import connect
from busbar.bus.client.client import BusClient
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.contract import OPERATIONS
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.testing import MemoryBroker
from busbar.bus.topics import Topics
from busbar.cli import app
from busbar.cli.context import GlobalOptions, set_global_options

TOPICS = Topics("default", "busbar")
OID = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command and its path, such as `group add`."""
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from leaves(child, f"{path} {name}".strip())
    if not children:
        yield path, command


def filled(kind: Any, text: Callable[[str], str], member: str = "", depth: int = 0) -> Any:
    """A plain value of a type, every text in it `text(name of the member)`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return filled(inner[0], text, member, depth)
    if origin is typing.Literal:
        return inner[0]
    if origin in (typing.Union, getattr(__import__("types"), "UnionType", None)):
        known = [each for each in inner if each not in (type(None), msgspec.UnsetType)]
        return filled(known[0], text, member, depth)
    if origin in (list, tuple):
        return [filled(inner[0], text, member, depth)]
    if origin is dict:
        return {text(member): filled(inner[1], text, member, depth)}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {
            f.encode_name: filled(hints[f.name], text, f.name, depth + 1)
            for f in msgspec.structs.fields(kind)
        }
    plain: dict[Any, Any] = {int: 3, float: 1.5, bool: False, object: text(member), Any: text(member)}
    return text(member) if kind is str else plain[kind]


class Realm:
    """A manager of a test's making: `answer(operation, params)` gives a plain result, or raises BusError."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any]) -> None:
        self.answer = answer
        self.broker = MemoryBroker()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.after: Callable[[str], None] = lambda operation: None
        """Called after each reply."""
        self.heard: Callable[[dict[str, Any]], object] = lambda request: None
        """Called with each request."""

    def retain(self, topic: str, value: Any) -> None:
        """Publish a retained message."""
        self.broker.retained[topic] = encode(value)

    def publish(self, topic: str, value: Any) -> None:
        """Publish a message."""
        self.broker.route(topic, encode(value), 1, False, Message("", b"").properties)

    def _reply(self, message: Message) -> None:
        found = TOPICS.parse_request(message.topic)
        assert found is not None
        request = msgspec.json.decode(message.payload)
        self.calls.append((found.operation, request["params"]))
        self.heard(request)
        reply = {"id": request["id"], "op": found.operation, "manager": "m1", "epoch": 1}
        try:
            reply |= {"ok": True, "result": self.answer(found.operation, request["params"])}
        except BusError as error:
            reply |= {"ok": False, "error": error.to_wire()}
        self.publish(TOPICS.response(found.caller, request["reply"]), reply)
        self.after(found.operation)

    @asynccontextmanager
    async def connect(self, *_: Any, **__: Any) -> AsyncIterator[BusClient]:
        """Stands in for `busbar.bus.client.connect.connect_with`."""
        ours, theirs = self.broker.link("manager"), self.broker.link("client")
        ours.subscribe(TOPICS.all_requests(), self._reply)
        ids = itertools.count()
        client = BusClient(
            theirs, TOPICS, "admin", "inbox", clock=SystemClock(), random=Random(0),
            new_id=lambda: f"r{next(ids)}",
        )  # fmt: skip
        running = [asyncio.create_task(link.run()) for link in (ours, theirs)]
        try:
            await theirs.wait_connected(5)
            yield client
        finally:
            client.close()
            for task in running:
                task.cancel()
            await asyncio.wait(running)


def result_of(operation: str, text: Callable[[str], str]) -> Any:
    """A result of an operation's type."""
    found = filled(OPERATIONS[operation].result, text)
    # What is refused makes the command fail.
    return found | {"refused": []} if operation.startswith("plan_") else found


class Line:
    """The command line in this process: `run` returns the exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        unset = ("CONTEXT", "REALM", "PASSWORD", "OUTPUT")
        for name in (*(f"BUSBAR_{each}" for each in unset), "NO_COLOR", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("BUSBAR_BROKER", "mqtt://127.0.0.1:1")
        monkeypatch.setenv("BUSBAR_USERNAME", "admin")
        monkeypatch.setenv("BUSBAR_STATE", str(tmp_path / "state"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        self._monkeypatch = monkeypatch

    def against(self, realm: Realm) -> Line:
        """Let it talk to this realm."""
        self._monkeypatch.setattr(connect, "connect_with", realm.connect)
        return self

    def run(self, *arguments: str) -> int:
        """One command."""
        set_global_options(GlobalOptions())
        try:
            code = app.command().main(args=list(arguments), prog_name="busbar", standalone_mode=False)
        except typer.Exit as end:
            code = end.exit_code
        finally:
            set_global_options(GlobalOptions())
        return int(code or 0)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Line:
    """The command line with a folder of its own."""
    return Line(monkeypatch, tmp_path)
