"""Serves the page until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import uvicorn
from busbar.bus.addresses import netloc
from busbar.bus.client.client import CALL_S
from busbar.bus.clock import SystemClock
from busbar.bus.options import ConnectOptions
from busbar.bus.system.pem_files import load_certificate
from busbar.bus.topics import Topics

from .app import Web
from .connection import Connection
from .origins import Origins
from .sessions import Sessions

CONNECTIONS: Final = 512
"""Connections at once; what comes beyond is told that the server is busy."""
GOODBYE_S: Final = 2
"""Seconds for open streams to end."""

log = logging.getLogger("busbar.web")


class _Server(uvicorn.Server):
    """uvicorn within an event loop that has signal handlers of its own."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """None: whoever runs it has handlers, and cancels it."""
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


async def serve(
    options: ConnectOptions,
    topics: Topics,
    ready: Callable[[str], None],
    *,
    host: str,
    port: int,
    origins: Sequence[str] = (),
    certificate: tuple[Path, Path] | None = None,
    timeout: float = CALL_S,
) -> None:
    """Serve the page of a realm; `ready` is called with its address once it can be opened.

    Args:
        options: the connection to the broker, without a user: each person who signs in has one of their own.
        port: 0: a free one.
        origins: where browsers have the page from besides that address, such as through a proxy.
        certificate: of this server, and its private key: PEM files.
        timeout: seconds that a call to the manager may take.

    Raises:
        OSError: nothing can listen there.
        ValueError: one of `origins` is none, or the certificate or its key can't be used.
    """
    if certificate is not None:  # uvicorn would not say which file it is, and ask for a passphrase
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *certificate)
    clock = SystemClock()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, f"the page on {netloc(host, port)}: {error.strerror}") from None
        port = int(listener.getsockname()[1])
        known = Origins(host, port, tls=certificate is not None, more=origins)
        sessions = Sessions(options, topics, clock, timeout)
        web = Web(sessions, known, clock, f"busbar-{port}")
        config = uvicorn.Config(
            web.app,
            http=Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GOODBYE_S,
            ssl_certfile=certificate[0] if certificate else None,
            ssl_keyfile=certificate[1] if certificate else None,
        )
        url = f"{'https' if certificate else 'http'}://{netloc(host, port)}/"
        server = _Server(config, lambda: ready(url))
        running = asyncio.create_task(server.serve([listener]), name="web server")
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            sessions.end_all()
            server.should_exit = True
            await running
            raise
