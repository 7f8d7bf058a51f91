"""A request to nats-server's system account: what answers may be anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from busbar.agent.workers.nats_request import MAX_ANSWER, NoAnswerError, request

Address = tuple[str, int]


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[Address]:
    """Says so to whoever asks, for `INBOX` where he wants to hear."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n")
        while not (line := await reader.readline()).startswith(b"LS+ "):
            pass
        writer.write(answer.replace(b"INBOX", line.split()[1]))
        await reader.read()
        writer.close()

    served = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield served.sockets[0].getsockname()
    finally:
        served.close()


async def asked(answer: bytes) -> bytes:
    async with server(answer) as at:
        return await request(at, "busbar", "secret", "$JS.API.SERVER.REMOVE", b"{}")


@pytest.mark.parametrize(
    "before", [b"", b"PING\r\n", b"+OK\r\n", b"LMSG other 3\r\nabc\r\n", b"LMSG other reply 3\r\nabc\r\n"]
)
async def test_the_answer_is_found_among_other_lines(before: bytes) -> None:
    assert await asked(before + b'LMSG INBOX 7\r\n{"a":1}\r\n') == b'{"a":1}'


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        (b"LMSG INBOX %d\r\n" % (MAX_ANSWER + 1), f"at most {MAX_ANSWER}"),
        (b"LMSG INBOX 999999999\r\n", "at most"),
        (b"x" * 100_000 + b"\r\n", "no answer"),
    ],
)
async def test_what_is_no_answer_is_told(answer: bytes, reason: str) -> None:
    with pytest.raises(NoAnswerError, match=reason):
        await asked(answer)
