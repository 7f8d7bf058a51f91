"""One request to the system account of a nats-server, as a leaf node that asks and goes."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Final

TIMEOUT_S: Final = 5.0
MAX_LINE: Final = 64 * 1024
MAX_ANSWER: Final = 256 * 1024
"""Bytes of a message."""
_MESSAGE: Final = re.compile(rb"(LMSG|HMSG|LHMSG) (\S+) .*?(\d{1,9})\r\n")


class NoAnswerError(Exception):
    """Nobody has answered; the text says why, if that is known."""


async def request(at: tuple[str, int], user: str, password: str, subject: str, payload: bytes) -> bytes:
    """The answer to a request, within `TIMEOUT_S` seconds.

    Raises:
        NoAnswerError: there is none: it is not there, refuses us, or nobody leads the cluster.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*at, limit=MAX_LINE)
            try:
                await reader.readline()  # INFO
                inbox = f"_INBOX.{user}.{id(reader):x}"
                login = {"user": user, "pass": password, "name": user, "id": user, "headers": False}
                writer.write(f"CONNECT {json.dumps(login)}\r\nLS+ {inbox}\r\n".encode())
                head = f"LMSG {subject} {inbox} {len(payload)}\r\n"
                writer.write(head.encode() + payload + b"\r\nPING\r\n")
                return await _answer(reader, writer, inbox.encode())
            finally:
                writer.close()
    except TimeoutError:
        raise NoAnswerError(f"no answer within {TIMEOUT_S:g} s: it may have no majority") from None
    except (OSError, ValueError, EOFError) as error:
        raise NoAnswerError(f"no answer: {error or type(error).__name__}") from None


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inbox: bytes) -> bytes:
    while line := await reader.readline():
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            raise NoAnswerError(line.decode(errors="replace").strip())
        elif (message := _MESSAGE.fullmatch(line)) is not None:
            if (size := int(message[3])) > MAX_ANSWER:
                raise NoAnswerError(f"an answer of {size} bytes; at most {MAX_ANSWER}")
            body = await reader.readexactly(size + 2)
            if message[2] == inbox:
                return body[:-2]
    raise NoAnswerError("it closed the connection")
