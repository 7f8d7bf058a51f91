"""Probes a worker. Every probe is bounded by its timeout; no threads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from busbar.bus.addresses import netloc

from ..processes import logs
from ..runtimes.base import AllProbes, HttpProbe, LogProbe, MqttProbe, Probe, TcpProbe
from . import tls_probe
from .shared_port import Streams

DEFAULT_TIMEOUT_S: Final = 2.0
_CONNECT: Final = bytes([0x10, 12, 0, 4]) + b"MQTT" + bytes([4, 0x02, 0, 10, 0, 0])
"""MQTT 3.1.1 CONNECT: clean session, keep alive 10 s, client id assigned by the router (section 3.1)."""
_DISCONNECT: Final = bytes([0xE0, 0])
_CONNACK: Final = 0x20
_WS_KEY: Final = base64.b64encode(b"busbar-readiness").decode()
_WS_ACCEPT: Final = base64.b64encode(
    hashlib.sha1(f"{_WS_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
).decode()
"""A WebSocket server's answer to that key (RFC 6455, section 4.2.2)."""


class _UnexpectedAnswer(Exception):
    """The answer was not the expected one; the text says what came."""


async def _connect(host: str, port: int) -> Streams:
    return await asyncio.open_connection(host, port, limit=16 * 1024)


Connect = Callable[[str, int], Awaitable[Streams]]


async def probe(
    wanted: Probe,
    host: str,
    port: int,
    log_path: Path,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    *,
    log_from: int = 0,
    connect: Connect = _connect,
) -> str | None:
    """Probe once; None when healthy, else the error. Never raises; takes at most `timeout_s` seconds.

    `log_from` is the size of the log when the process started: older lines are not its own. `connect` opens
    the connection to the port.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _probe(wanted, host, port, log_path, log_from, connect)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except _UnexpectedAnswer as error:
        return str(error)
    except ConnectionRefusedError:
        return f"nothing listens on {host}:{port}"
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return f"the connection to {host}:{port} was closed without a full answer"
    except (OSError, UnicodeError) as error:
        return f"no answer on {host}:{port}: {error}"


async def _probe(
    wanted: Probe, host: str, port: int, log_path: Path, log_from: int, connect: Connect
) -> str | None:
    match wanted:
        case AllProbes():
            for each in wanted.probes:
                error = await _probe(each, host, port, log_path, log_from, connect)
                if error is not None:
                    return error
            return None
        case LogProbe():
            return _check_log(wanted, logs.read_since(log_path, log_from))
        case TcpProbe() | HttpProbe() | MqttProbe():
            await _probe_port(wanted, host, port, connect)
            return None


def _check_log(wanted: LogProbe, text: str) -> str | None:
    found = re.search(wanted.pattern, text, re.MULTILINE) if wanted.regex else wanted.pattern in text
    return None if found else f"has not logged '{wanted.pattern}' yet"


async def _probe_port(
    wanted: TcpProbe | HttpProbe | MqttProbe, host: str, port: int, connect: Connect
) -> None:
    if isinstance(wanted, HttpProbe) and wanted.at is not None:
        (host, port), connect = wanted.at, _connect
    reader, writer = await connect(host, port)
    try:
        match wanted:
            case HttpProbe():
                if wanted.tls:
                    await tls_probe.start(writer)
                await _http(wanted, host, port, reader, writer)
            case MqttProbe():
                if wanted.tls:
                    await tls_probe.start(writer)
                await _mqtt(wanted, host, port, reader, writer)
            case TcpProbe():
                if wanted.tls:
                    await tls_probe.see_certificate(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        if isinstance(wanted, HttpProbe) or not wanted.limited:
            raise
    finally:
        writer.close()


async def _http(
    wanted: HttpProbe, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(
        f"GET {wanted.path} HTTP/1.1\r\nHost: {netloc(host, port)}\r\nConnection: close\r\n\r\n".encode()
    )
    status = _status(await _line(reader))
    healthy = status in wanted.expect if wanted.expect else status < 500
    if not healthy:
        raise _UnexpectedAnswer(f"GET {wanted.path} answered {status}")


async def _mqtt(
    wanted: MqttProbe, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if wanted.websocket:
        await _upgrade(host, port, reader, writer)
    writer.write(_frame(_CONNECT) if wanted.websocket else _CONNECT)
    if wanted.websocket:
        await reader.readexactly(2)  # the frame's header: a CONNACK is shorter than 126 bytes
    kind = (await reader.readexactly(4))[0]
    if kind != _CONNACK:
        raise _UnexpectedAnswer(f"a CONNECT was answered by packet type {kind >> 4}")
    # Any return code is fine: a router that refuses us without a password does answer.
    writer.write(_frame(_DISCONNECT) if wanted.websocket else _DISCONNECT)


async def _upgrade(host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        (
            f"GET /mqtt HTTP/1.1\r\nHost: {netloc(host, port)}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {_WS_KEY}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        ).encode()
    )
    status = _status(await _line(reader))
    if status != 101:
        raise _UnexpectedAnswer(f"a WebSocket handshake was answered {status}")
    headers = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
    if _WS_ACCEPT not in headers:
        raise _UnexpectedAnswer("a WebSocket handshake was answered with a wrong key")


def _frame(payload: bytes) -> bytes:
    """A short binary WebSocket frame, masked with zero as clients must mask (RFC 6455, section 5.3)."""
    return bytes([0x82, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n")).decode(errors="replace")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise _UnexpectedAnswer("the connection was closed without an HTTP answer") from None


def _status(line: str) -> int:
    found = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
    if found is None:
        raise _UnexpectedAnswer("the answer is not HTTP")
    return int(found[1])
