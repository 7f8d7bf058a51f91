"""Asks the routers of meshed groups to which others they are connected."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Final, TypeVar

import msgspec
from busbar.bus.addresses import netloc
from busbar.bus.messages import MAX_MISSING, MeshSeen, Peer

from ..planner.mesh_links import MeshLink, MeshLinks, seconds
from ..runtimes.base import Question

T = TypeVar("T", bound=msgspec.Struct)
TIMEOUT_S: Final = 2.0
MAX_ANSWER: Final = 256 * 1024
"""Bytes of an answer: some 2 kB for each other worker."""
EVERY_S: Final = 2.0
"""Pause between two looks, seconds."""


class _Route(msgspec.Struct):
    remote_name: str = ""
    rtt: str = ""
    in_msgs: int = 0
    out_msgs: int = 0
    pending_size: int = 0


class _Routes(msgspec.Struct):
    """The answer of nats-server's `/routez`, of which this matters."""

    routes: list[_Route] = []


async def linked(question: Question) -> MeshLinks | None:
    """The routers that it is connected to; None when it does not say."""
    found = await ask(question, _Routes)
    return None if found is None else links(found)


async def ask(question: Question, answer: type[T]) -> T | None:
    """What a router's monitoring says; None when it does not, or something else."""
    host, port = question.at
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                asked = f"GET {question.path} HTTP/1.0\r\nHost: {netloc(host, port)}\r\n\r\n"
                writer.write(asked.encode())
                said = await reader.read(MAX_ANSWER)
                while chunk := await reader.read(MAX_ANSWER):
                    said += chunk
                    if len(said) > MAX_ANSWER:
                        return None
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return read(said, answer)


def read(said: bytes, answer: type[T]) -> T | None:
    """What an HTTP answer says; None for one that is none."""
    head, _, body = said.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        return None
    try:
        return msgspec.json.decode(body, type=answer)
    except (msgspec.DecodeError, RecursionError):
        return None


def links_in(said: bytes) -> MeshLinks | None:
    """The links in an HTTP answer; None for one that is none."""
    found = read(said, _Routes)
    return None if found is None else links(found)


def links(found: _Routes) -> MeshLinks:
    """By the workers' names: what follows a dot tells those of one name apart."""
    by_name: dict[str, MeshLink] = {}
    for route in found.routes:
        if name := route.remote_name.partition(".")[0]:
            more = MeshLink(route.in_msgs, route.out_msgs, route.pending_size, seconds(route.rtt))
            by_name[name] = by_name.get(name, MeshLink()) + more
    return by_name


def seen(peers: Iterable[Peer], linked: Collection[str] | None) -> MeshSeen:
    """What is reported of a worker that is to be connected to these."""
    names = sorted(peer.worker for peer in peers)
    if linked is None:
        return MeshSeen(of=len(names))
    missing = [name for name in names if name not in linked]
    return MeshSeen(of=len(names), connected=len(names) - len(missing), missing=missing[:MAX_MISSING])
