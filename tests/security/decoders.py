"""Fuzzing targets that need a setup: the embedded broker's packets, the agent's own file.

Each is a function of bytes that may refuse but must not fail (see fuzz.py).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = "BUSBAR_FUZZ_FOLDER"
KINDS = ("manager", "person", "node")


@cache
def folder() -> Path:
    """A temporary folder, in memory where possible; removed at the end."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="busbar-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def packets(data: bytes) -> None:
    """The packets of a connected client, as the embedded broker reads them, in arbitrary pieces.

    The first byte chooses the kind of account, and where the stream is split.
    """
    from busbar.bus.broker.client_connection import ENDINGS

    if not data:
        return
    connection, stream = _connection(KINDS[data[0] % len(KINDS)])
    cut = 1 + data[0] % len(data)
    try:
        for piece in (data[1:cut], data[cut:]):
            stream._buffer += piece
            while (found := stream._take(None)) is not None:
                drive(connection._handle(connection._session, *found))
    except ENDINGS:
        pass
    finally:
        connection._leave()


def agent_file(data: bytes) -> None:
    """The agent's TOML, runtimes included: every error is reported, none is a traceback."""
    from busbar.agent.config import ConfigError, load
    from busbar.agent.runtimes import load_runtimes
    from busbar.agent.runtimes.config import RuntimesError

    path = folder() / "agent.toml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError, RuntimesError):
        load_runtimes(load(path).runtimes, {})


class _Transport(asyncio.Transport):
    """A transport without a peer."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None

    def abort(self) -> None:
        """Nothing to close."""


class _Access:
    """Accepts all accounts; the product's own rules decide on access."""

    def may_publish(self, peer: Any, topic: str, retain: bool) -> bool:
        from busbar.bus.access import acl

        return acl.may_publish(peer.kind, peer.username, topic, "busbar", "lab")

    def may_retain(self, topic: str) -> bool:
        return True

    def readable(self, peer: Any, wanted: str) -> tuple[str, ...]:
        from busbar.bus.access import acl

        return acl.readable(peer.kind, peer.username, wanted, "busbar", "lab") or ()

    def is_current(self, peer: Any) -> bool:
        return True


async def _may_subscribe(peer: Any, topic: str) -> bool:
    from busbar.bus.access import acl

    return acl.may_subscribe(peer.kind, peer.username, topic, "busbar", "lab")


async def _on_manager_event(message: Any) -> None:
    from busbar.bus.broker.revocation import revocation_of

    revocation_of(message.topic, message.payload, "busbar")


def _connection(kind: str) -> tuple[Any, Any]:
    """A connection after its CONNECT, on a broker of its own."""
    from busbar.bus.broker.access_plugin import Peer
    from busbar.bus.broker.accounts import Account
    from busbar.bus.broker.client_connection import ClientConnection
    from busbar.bus.broker.limits import Owner
    from busbar.bus.broker.packet_stream import PacketStream, encode
    from busbar.bus.broker.router import Router
    from busbar.bus.clock import SystemClock

    nobody: Any = None
    router, stream = Router(encode), PacketStream(nobody, nobody, _Transport())
    access: Any = _Access()
    connection = ClientConnection(
        stream,
        router,
        access,
        SystemClock(),
        authenticate=nobody,
        may_subscribe=_may_subscribe,
        on_manager_event=_on_manager_event,
    )
    connection.peer = Peer("n1", "", Account(kind, "", ""))
    connection._session, _ = router.open(Owner("n1", kind), "c", True)
    connection._session.attach(connection)
    return connection, stream
