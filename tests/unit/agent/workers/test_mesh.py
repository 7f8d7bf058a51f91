"""What a worker of a meshed group says of its connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from busbar.agent.planner.mesh_links import MeshLink, seconds
from busbar.agent.runtimes.base import Question
from busbar.agent.workers.mesh import MAX_ANSWER, linked, links_in, seen
from busbar.bus.messages import MAX_MISSING, MeshSeen, Peer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


def peers(*names: str) -> list[Peer]:
    return [Peer(name, "n1", {"default": "nats://10.0.0.1:1"}) for name in names]


def answer(*names: str) -> bytes:
    """As nats-server 2.15 has it; with several routes to each server."""
    found = [{"rid": n, "remote_name": name, "ip": "10.0.0.1"} for n, name in enumerate(2 * list(names))]
    return HEAD + json.dumps({"server_id": "N1", "num_routes": len(found), "routes": found}).encode()


def test_those_that_it_is_not_connected_to_are_named() -> None:
    assert seen(peers("web-3", "web-2"), {"web-2"}) == MeshSeen(2, 1, ["web-3"])
    assert seen(peers("web-2"), {"web-2", "gone-1"}) == MeshSeen(1, 1)
    assert seen(peers("web-2"), None) == MeshSeen(1, None), "its runtime does not say"
    assert seen([], frozenset()) == MeshSeen(0, 0)
    many = seen(peers(*(f"web-{n}" for n in range(60))), ())
    assert (many.of, many.connected, len(many.missing)) == (60, 0, MAX_MISSING)


def test_the_names_are_those_of_all_routes() -> None:
    found = links_in(answer("web-2", "web-3"))
    assert found is not None and found.keys() == {"web-2", "web-3"}
    assert links_in(HEAD + b'{"routes": []}') == {}


def test_the_routes_between_two_are_one_link() -> None:
    """Messages and waiting bytes of all of them, and the round trip of the slowest."""
    one = {"remote_name": "web-2.x", "rtt": "1.5ms", "in_msgs": 3, "out_msgs": 5, "pending_size": 7}
    other = {"remote_name": "web-2.y", "rtt": "329µs", "in_msgs": 1, "out_msgs": 0, "pending_size": 0}
    silent = {"remote_name": "web-3", "rtt": ""}
    found = links_in(HEAD + json.dumps({"routes": [other, one, silent]}).encode())
    assert found == {"web-2": MeshLink(4, 5, 7, pytest.approx(0.0015)), "web-3": MeshLink()}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("329µs", 329e-6), ("1.117ms", 0.001117), ("0s", 0.0), ("1m2.5s", 62.5), ("1h0m0.5s", 3600.5),
        ("80ns", 8e-8), ("", None), ("5", None), ("-1s", None), ("1s ", None), ("nan", None),
        ("9" * 400 + "s", None),
    ],
)  # fmt: skip
def test_a_duration_of_go_is_read(told: str, expected: float | None) -> None:
    assert seconds(told) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "given", [b"", b"\r\n\r\n", HEAD, HEAD + b"{", HEAD + b'{"routes": 3}', b"HTTP/1.1 503 No\r\n\r\n{}"]
)
def test_an_answer_that_is_none_says_nothing(given: bytes) -> None:
    assert links_in(given) is None


@asynccontextmanager
async def server(given: bytes) -> AsyncIterator[Question]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(given)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as found:
        yield Question(found.sockets[0].getsockname()[:2], "/routez")


async def test_a_router_is_asked_over_http() -> None:
    async with server(answer("web-2")) as question:
        assert await linked(question) == {"web-2": MeshLink()}
    assert await linked(question) is None, "it is gone"


async def test_an_answer_without_an_end_is_not_read_to_the_end() -> None:
    async with server(HEAD + b" " * (2 * MAX_ANSWER) + b"{}") as question:
        assert await linked(question) is None
