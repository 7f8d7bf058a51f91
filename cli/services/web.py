"""The service that serves the page of a realm: its spec from the options, and its run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from busbar.bus.addresses import is_loopback
from busbar.bus.system.loopback import loopback

from ..context import DEFAULT_REALM, global_options, settings_in_force
from ..errors import CliError, ExitCode, usage
from .specs import ConnectSpec, WebSpec

LIBRARIES: Final = ("starlette", "uvicorn", "jinja2")
"""Those of the extra."""
WEB_PORT: Final = 8780
ANY: Final = ("0.0.0.0", "::")

log = logging.getLogger("busbar.service")


def web_spec(
    host: str | None, port: int, origins: Sequence[str], cert: Path | None, key: Path | None, log_level: str
) -> WebSpec:
    """From the options of `busbar web`, and the settings in force but for their user.

    Raises:
        CliError: they do not go together, no broker is configured, or the extra is not installed.
    """
    from ..calls.connect import options_of

    at = host or loopback()
    if (cert is None) != (key is None):
        raise usage("--cert and --key go together")
    if not is_loopback(at) and cert is None:
        raise usage(
            f"--host {at}: passwords would pass in the clear; give --cert and --key, or a proxy has TLS"
        )
    if at in ANY and not origins:
        raise usage(f"--host {at}: say with --origin where browsers have the page from")
    require()
    # Who opens the page is its user: nobody's stored credentials serve for others.
    nobody = {"username": None, "password_file": None, "password": None, "tls_cert": None, "tls_key": None}
    settings = replace(settings_in_force(global_options(), os.environ), **nobody)
    options_of(settings)
    return WebSpec(
        realm=str(settings.realm or DEFAULT_REALM),
        root=str(settings.root),
        connect=ConnectSpec.of(settings),
        host="127.0.0.1" if at == "localhost" else at,
        port=port,
        origins=list(origins),
        cert=str(cert.expanduser().absolute()) if cert else None,
        key=str(key.expanduser().absolute()) if key else None,
        log_level=log_level,
    )


def require() -> None:
    """Raises CliError where the extra is not installed."""
    if any(find_spec(name) is None for name in LIBRARIES):
        text = "the page needs the extra 'web': pip install 'busbar-mqtt[web]'"
        raise CliError(text, ExitCode.FAILED, "not_installed")


async def run_web(spec: WebSpec, ready: Callable[[], None]) -> None:
    """Serve the page until cancelled."""
    from busbar.bus.topics import Topics

    from ..calls.connect import call_timeout, options_of
    from ..web.server import serve

    def listening(url: str) -> None:
        log.info("the page of realm %s is at %s", spec.realm, url)
        ready()

    await serve(
        options_of(spec.connect.settings(None)),
        Topics(spec.realm, spec.root),
        listening,
        host=spec.host,
        port=spec.port,
        origins=spec.origins,
        certificate=(Path(spec.cert), Path(spec.key)) if spec.cert and spec.key else None,
        timeout=call_timeout(),
    )
