"""TLS for probes, on a connection that is already open. Whose certificate it is, is not looked at.

A probe asks whether the agent's own worker answers on this host, so it sends nothing that is secret.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct

_RESET = struct.pack("ii", 1, 0)
_CHUNK = 16 * 1024


async def start(writer: asyncio.StreamWriter) -> None:
    """Go on in TLS.

    Raises:
        OSError: the handshake failed; `ssl.SSLError` is one.
    """
    await writer.start_tls(_context())


async def see_certificate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return once the server has answered a ClientHello with its certificate, and break off.

    A server that demands a client certificate goes no further with us, and would log each attempt as an
    error; a reset at this point it does not log.

    Raises:
        OSError: the answer is not TLS, or an alert.
        asyncio.IncompleteReadError: the connection was closed.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = _context().wrap_bio(incoming, outgoing)
    own: socket.socket = writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    greeted = False
    try:
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                if greeted and outgoing.pending:
                    return  # TLS 1.2: it has sent its whole part, and awaits ours
            else:
                return
            if not greeted:
                writer.write(outgoing.read())
                greeted = True
            data = await reader.read(_CHUNK)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            incoming.write(data)
    finally:
        writer.transport.abort()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
