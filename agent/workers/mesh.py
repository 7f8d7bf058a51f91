"""Asks the routers of meshed groups to which others they are connected."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Final

import msgspec
from busbar.bus.addresses import netloc
from busbar.bus.messages import MAX_MISSING, MeshSeen, Peer

from ..runtimes.base import MeshQuestion

TIMEOUT_S: Final = 2.0
MAX_ANSWER: Final = 256 * 1024
"""Bytes of an answer: some 2 kB for each other worker."""
EVERY_S: Final = 2.0
"""Pause between two looks, seconds."""


class _Route(msgspec.Struct):
    remote_name: str = ""


class _Routes(msgspec.Struct):
    """The answer of nats-server's `/routez`, of which the names matter."""

    routes: list[_Route] = []


async def linked(question: MeshQuestion) -> frozenset[str] | None:
    """The names of the routers that it is connected to; None when it does not say."""
    host, port = question.at
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                asked = f"GET {question.path} HTTP/1.0\r\nHost: {netloc(host, port)}\r\n\r\n"
                writer.write(asked.encode())
                answer = await reader.read(MAX_ANSWER)
                while chunk := await reader.read(MAX_ANSWER):
                    answer += chunk
                    if len(answer) > MAX_ANSWER:
                        return None
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return names_in(answer)


def names_in(answer: bytes) -> frozenset[str] | None:
    """What an HTTP answer says; None for one that is none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        return None
    try:
        found = msgspec.json.decode(body, type=_Routes)
    except msgspec.DecodeError:
        return None
    return frozenset(route.remote_name for route in found.routes if route.remote_name)


def seen(peers: Iterable[Peer], linked: Collection[str] | None) -> MeshSeen:
    """What is reported of a worker that is to be connected to these."""
    names = sorted(peer.worker for peer in peers)
    if linked is None:
        return MeshSeen(of=len(names))
    missing = [name for name in names if name not in linked]
    return MeshSeen(of=len(names), connected=len(names) - len(missing), missing=missing[:MAX_MISSING])
