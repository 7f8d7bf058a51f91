"""Ask a worker whether it answers. Every probe is bounded by its timeout; no threads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from ..processes import logs
from ..runtimes.base import AllProbes, HttpProbe, LogProbe, MqttProbe, Probe, TcpProbe

DEFAULT_TIMEOUT_S: Final = 2.0
_CONNECT: Final = bytes([0x10, 12, 0, 4]) + b"MQTT" + bytes([4, 0x02, 0, 10, 0, 0])
"""MQTT 3.1.1 CONNECT: clean session, keep alive 10 s, no client id (section 3.1); the router chooses one."""
_DISCONNECT: Final = bytes([0xE0, 0])
_CONNACK: Final = 0x20
_WS_KEY: Final = base64.b64encode(b"busbar-readiness").decode()
_WS_ACCEPT: Final = base64.b64encode(
    hashlib.sha1(f"{_WS_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
).decode()
"""What a WebSocket server must answer to that key (RFC 6455, section 4.2.2)."""


class _NoAnswer(Exception):
    """The answer was not the one asked for; the text says what came."""


async def probe(
    wanted: Probe,
    host: str,
    port: int,
    log_path: Path,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    *,
    log_from: int = 0,
) -> str | None:
    """Ask once; None when it is well, else why not. Never raises; takes at most `timeout_s` seconds.

    `log_from` is the size of the log when the process started: older lines say nothing about it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(wanted, host, port, log_path, log_from)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except _NoAnswer as error:
        return str(error)
    except ConnectionRefusedError:
        return f"nothing listens on {host}:{port}"
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return f"the connection to {host}:{port} was closed without a full answer"
    except (OSError, UnicodeError) as error:
        return f"no answer on {host}:{port}: {error}"


async def _ask(wanted: Probe, host: str, port: int, log_path: Path, log_from: int) -> str | None:
    match wanted:
        case AllProbes():
            for each in wanted.probes:
                reason = await _ask(each, host, port, log_path, log_from)
                if reason is not None:
                    return reason
            return None
        case LogProbe():
            return _said(wanted, logs.read_since(log_path, log_from))
        case TcpProbe() | HttpProbe() | MqttProbe():
            await _over_tcp(wanted, host, port)
            return None


def _said(wanted: LogProbe, text: str) -> str | None:
    said = re.search(wanted.pattern, text, re.MULTILINE) if wanted.regex else wanted.pattern in text
    return None if said else f"has not logged '{wanted.pattern}' yet"


async def _over_tcp(wanted: TcpProbe | HttpProbe | MqttProbe, host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port, limit=16 * 1024)
    try:
        match wanted:
            case HttpProbe():
                await _http(wanted, host, port, reader, writer)
            case MqttProbe():
                await _mqtt(wanted, host, port, reader, writer)
            case TcpProbe():
                pass
    finally:
        writer.close()


async def _http(
    wanted: HttpProbe, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(
        f"GET {wanted.path} HTTP/1.1\r\nHost: {_netloc(host, port)}\r\nConnection: close\r\n\r\n".encode()
    )
    status = _status(await _line(reader))
    good = status in wanted.expect if wanted.expect else status < 500
    if not good:
        raise _NoAnswer(f"GET {wanted.path} answered {status}")


async def _mqtt(
    wanted: MqttProbe, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if wanted.websocket:
        await _upgrade(host, port, reader, writer)
    writer.write(_frame(_CONNECT) if wanted.websocket else _CONNECT)
    if wanted.websocket:
        await reader.readexactly(2)  # the frame's own header: a CONNACK is far shorter than 126 bytes
    kind = (await reader.readexactly(4))[0]
    if kind != _CONNACK:
        raise _NoAnswer(f"a CONNECT was answered by packet type {kind >> 4}")
    # Any return code will do: a router that refuses us for want of a password does answer.
    writer.write(_frame(_DISCONNECT) if wanted.websocket else _DISCONNECT)


async def _upgrade(host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        (
            f"GET /mqtt HTTP/1.1\r\nHost: {_netloc(host, port)}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {_WS_KEY}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        ).encode()
    )
    status = _status(await _line(reader))
    if status != 101:
        raise _NoAnswer(f"a WebSocket handshake was answered {status}")
    headers = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
    if _WS_ACCEPT not in headers:
        raise _NoAnswer("a WebSocket handshake was answered with a wrong key")


def _frame(payload: bytes) -> bytes:
    """A short binary WebSocket frame; a client's are masked (RFC 6455, section 5.3): here with zero."""
    return bytes([0x82, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n")).decode(errors="replace")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise _NoAnswer("the connection was closed without an HTTP answer") from None


def _status(line: str) -> int:
    found = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
    if found is None:
        raise _NoAnswer("the answer is not HTTP")
    return int(found[1])


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
