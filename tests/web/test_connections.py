"""Slow clients of the page's server: they are let go, so that a few of them keep nobody out."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busbar.bus.options import ConnectOptions
from busbar.cli.web import connection, guard
from busbar.cli.web.server import serve

from tests.certificates import certificates
from tests.pace import bound
from tests.unit.cli.realm import TOPICS

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a page whose clients have a moment for a request."""
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    monkeypatch.setattr(guard, "FORM_S", 0.2)
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(ConnectOptions(), TOPICS, told.set_result, host="127.0.0.1", port=0))
    async with asyncio.timeout(bound(20)):
        yield int((await told).rstrip("/").rpartition(":")[2])
        running.cancel()
        await asyncio.wait([running])


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes."""
    async with asyncio.timeout(bound(20)):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read()
    return b""


def head(port: int, path: str = "/signin", method: str = "GET", *more: str) -> bytes:
    rows = (f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", *more, "", "")
    return "\r\n".join(rows).encode()


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nho"])
async def test_who_sends_no_whole_request_is_let_go(port: int, first: bytes) -> None:
    async with connected(port) as (reader, writer):
        writer.write(first)
        assert await rest(reader) == b""


async def test_who_drips_is_let_go_too_also_after_a_first_request(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(head(port))
        await reader.readuntil(b"</html>")

        async def drip() -> None:
            while True:
                writer.write(b"X")
                await writer.drain()
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert b"HTTP/1.1 200" not in await rest(reader)
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_who_sends_a_form_too_slowly_is_told(port: int) -> None:
    kind = "content-type: application/x-www-form-urlencoded"
    async with connected(port) as (reader, writer):
        writer.write(head(port, "/signin", "POST", kind, "content-length: 500") + b"user=a")
        async with asyncio.timeout(bound(20)):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")


async def test_who_is_answered_stays_as_long_as_the_answer_goes_on(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is under way has no such limit: streams go on for hours."""
    later = asyncio.Event()

    async def slow(*_: object) -> dict[str, str]:
        asyncio.get_running_loop().call_later(2 * connection.REQUEST_S, later.set)
        await later.wait()
        return {"token": ""}

    monkeypatch.setattr("busbar.cli.web.app.read_form", slow)
    async with connected(port) as (reader, writer):
        writer.write(head(port, "/signin", "POST", "content-length: 0"))
        async with asyncio.timeout(bound(20)):
            assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")


async def test_a_port_that_is_taken_is_named(port: int) -> None:
    with pytest.raises(OSError, match=rf"the page on 127\.0\.0\.1:{port}: Address already in use"):
        await serve(ConnectOptions(), TOPICS, print, host="127.0.0.1", port=port)


async def test_a_certificate_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    certificates(tmp_path, "ca", "page", "other")
    nothing, page, key, other = (
        tmp_path / name for name in ("none.crt", "page.crt", "page.key", "other.key")
    )
    for files, said in (
        ((nothing, key), f"certificate {nothing}: No such file"),
        ((page, nothing), f"key {nothing}: No such file"),
        ((page, other), f"key {other} does not belong to certificate {page}"),
        ((key, key), f"certificate {key} with key {key}"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            await serve(ConnectOptions(), TOPICS, print, host="127.0.0.1", port=0, certificate=files)
