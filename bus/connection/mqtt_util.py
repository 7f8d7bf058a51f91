"""Helpers of the MQTT link that need no MQTT library."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

from ..errors import BusOfflineError
from ..options import ConnectOptions
from ..system.pem_files import check_readable, load_certificate
from .link import Done

log = logging.getLogger("busbar.bus")


def complete(future: asyncio.Future[None], error: BusOfflineError | None) -> None:
    """Resolve a future, unless it is done already."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # retrieved: nobody has to await it


def notify(done: Done | None, error: BusOfflineError | None) -> None:
    """Call `done`; what it raises is logged and swallowed."""
    if done is not None:
        try:
            done(error)
        except Exception:
            log.exception("a callback of a publication failed")


def tls_context(options: ConnectOptions) -> ssl.SSLContext:
    """The TLS context for these options. Raises ValueError that names the file which can't be used."""
    assert options.tls is not None
    ca, cert, key = options.tls.ca, options.tls.cert, options.tls.key
    if ca is not None:
        check_readable("CA file", ca)
    if key is not None and cert is None:
        raise ValueError(f"key {key} without a certificate")
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except ssl.SSLError as error:
        raise ValueError(f"CA file {ca} holds no PEM certificate: {error.reason or error}") from None
    context.check_hostname = options.tls.check_hostname
    if cert:
        load_certificate(context, cert, key or cert)
    return context


def failure_reason(error: BaseException) -> str:
    """Why a connection failed, in a few words for logs and messages."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def loss(code: str, unanswered: bool) -> str:
    """Why a connection was lost; paho has no reason for one that the other side closed."""
    when = " before the broker answered" if unanswered else ""
    return f"connection lost{when}" + (f": {code}" if code != "Unspecified error" else "")


def likely_cause(error: BaseException, options: ConnectOptions, unanswered: bool) -> str:
    """What probably has to be changed, to be appended to the reason; empty where nothing is known.

    `unanswered`: the connection was made, and lost before the broker answered the CONNECT.
    """
    tls, scheme = options.tls, "ws" if options.transport == "websockets" else "mqtt"
    if isinstance(error, ssl.SSLCertVerificationError):
        unknown = error.verify_code in _UNKNOWN_AUTHORITY and tls is not None and tls.ca is None
        return "; --tls-ca names the authority to trust" if unknown else ""
    if tls is not None and not unanswered:
        hung_up = isinstance(error, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError))
        if hung_up or getattr(error, "reason", None) in _NOT_TLS:
            return f"; does this port speak no TLS ({scheme}://)?"
        return ""
    if tls is not None:
        return "" if tls.cert else "; does the broker require a client certificate (--tls-cert)?"
    if options.transport == "websockets":
        refused = unanswered or "WebSocket" in type(error).__name__ or "WebSocket" in str(error)
        return "; does this port expect TLS (wss://), or plain MQTT (mqtt://)?" if refused else ""
    return "; does this port expect TLS (mqtts://), or WebSockets (ws://)?" if unanswered else ""


_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_…: no issuer, self-signed, or only a leaf."""
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE"})
