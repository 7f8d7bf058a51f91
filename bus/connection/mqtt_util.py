"""Helpers of the MQTT link that need no MQTT library."""

from __future__ import annotations

import asyncio
import logging
import ssl

from ..errors import BusOfflineError
from ..options import ConnectOptions
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
    """The TLS context for these options. Raises OSError or ValueError for files that can't be used."""
    assert options.tls is not None
    context = ssl.create_default_context(cafile=str(options.tls.ca) if options.tls.ca else None)
    context.check_hostname = options.tls.check_hostname
    if options.tls.cert:
        context.load_cert_chain(options.tls.cert, options.tls.key)
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
    return str(error) or type(error).__name__
