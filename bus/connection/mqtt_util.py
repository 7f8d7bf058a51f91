"""Small parts of the MQTT connection that need no MQTT library."""

from __future__ import annotations

import asyncio
import logging
import ssl

from ..errors import BusOfflineError
from ..options import ConnectOptions
from .link import Done

log = logging.getLogger("busbar.bus")


def settle(future: asyncio.Future[None], error: BusOfflineError | None) -> None:
    """End a future that may have ended already."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # nobody has to ask for it


def tell(done: Done | None, error: BusOfflineError | None) -> None:
    """Call back; what the callback raises is logged and swallowed."""
    if done is not None:
        try:
            done(error)
        except Exception:
            log.exception("a callback of a publication failed")


def tls_context(options: ConnectOptions) -> ssl.SSLContext:
    """What to trust, and who to be."""
    assert options.tls is not None
    context = ssl.create_default_context(cafile=str(options.tls.ca) if options.tls.ca else None)
    context.check_hostname = options.tls.check_hostname
    if options.tls.cert:
        context.load_cert_chain(options.tls.cert, options.tls.key)
    return context


def reason(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
