"""Connects a client to a broker."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

from ..clock import Clock, SystemClock
from ..connection.mqtt_link import MqttLink
from ..errors import BusOfflineError
from ..options import ConnectOptions, TlsOptions, parse_urls
from ..system.password import read_password
from ..topics import Topics
from .client import CALL_S, BusClient
from .errors import LoginRefusedError
from .names import checked

CONNECT_S: Final = 5.0
"""Seconds until a single broker must have let us in; for several, as many as a call may take."""
TICK_S: Final = 0.02
GOODBYE_S: Final = 2.0
_UNAUTHORISED: Final = re.compile(r"not authori[sz]ed|bad user ?name|no right to", re.IGNORECASE)


@asynccontextmanager
async def connect(
    url: str,
    *,
    realm: str = "default",
    username: str | None = None,
    password: str | None = None,
    password_file: str | Path | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    root: str = "busbar",
    timeout: float = CALL_S,
    connect_timeout: float | None = None,
) -> AsyncIterator[BusClient]:
    """Connect to a broker: `async with connect("mqtt://127.0.0.1", username="admin", …) as bus`.

    A connection that is lost later is made again, as long as the block lasts.

    Args:
        url: mqtt://, mqtts://, ws:// or wss://; of a cluster of brokers several, separated by commas.
        realm: the management realm.
        username: the user at the broker, a name of the contract; may stand in the URL.
        password_file: a file of mode 0600 with the password.
        tls_ca: trusted authorities, a PEM file; the system's own when left out.
        tls_cert: our certificate, and `tls_key` its private key; PEM files.
        root: the first level of all topics.
        timeout: seconds that a call may take unless it says otherwise.
        connect_timeout: seconds until the broker must have let us in.

    Raises:
        ValueError: the URL, a name or the password file is not as it should be.
        LoginRefusedError: the broker does not let the user in.
        BusOfflineError: the broker can't be reached.
    """
    options = parse_urls(url)
    if options.tls is not None:
        options = replace(options, tls=TlsOptions(_path(tls_ca), _path(tls_cert), _path(tls_key)))
    secret = _path(password_file)
    if secret is not None:
        password = read_password(secret)
    options = replace(options, username=username or options.username, password=password, password_file=secret)
    async with connect_with(options, Topics(realm, root), timeout, connect_timeout) as client:
        yield client


@asynccontextmanager
async def connect_with(
    options: ConnectOptions, topics: Topics, timeout: float = CALL_S, connect_timeout: float | None = None
) -> AsyncIterator[BusClient]:
    """As `connect`, with the options read already."""
    username = checked(options.username or "")
    limit = connect_timeout if connect_timeout is not None else CALL_S if options.others else CONNECT_S
    if options.others:  # as little patience with each as lets all be tried in time
        options = replace(options, connect_s=max(1.0, limit / 3 / len(options.brokers)))
    options = replace(options, client_id=f"busbar-{username}-{secrets.token_hex(4)}")
    clock, random = SystemClock(), Random()
    link = MqttLink(options, clock=clock, random=random)
    client = BusClient(
        link,
        topics,
        username,
        f"client-{secrets.token_hex(4)}",
        clock=clock,
        random=random,
        new_id=lambda: secrets.token_urlsafe(12),
        timeout=timeout,
    )
    running = asyncio.create_task(link.run(), name="link")
    try:
        await _first_connection(link, running, options, clock, limit)
        yield client
    finally:
        client.close()
        running.cancel()
        await asyncio.wait([running], timeout=GOODBYE_S)


def _path(file: str | Path | None) -> Path | None:
    return Path(file).expanduser() if file else None


async def _first_connection(
    link: MqttLink, running: asyncio.Task[None], options: ConnectOptions, clock: Clock, timeout: float
) -> None:
    """Wait for it. When each broker has failed once that is final: it is not worth waiting for."""
    end = clock.monotonic() + timeout
    while not link.connected:
        with contextlib.suppress(BusOfflineError):
            await link.wait_connected(TICK_S)
        if running.done():
            running.result()
        if not link.connected and (link.rotation.exhausted or clock.monotonic() >= end):
            raise unreachable(options, link.rotation.last_error)


def unreachable(options: ConnectOptions, why: str) -> BusOfflineError:
    """The error for brokers that can't be reached, or do not let us in."""
    name = f"none of the brokers {options.url}" if options.others else f"the broker {options.url}"
    can, does = ("can", "lets") if options.others else ("can't", "does not let")
    if _UNAUTHORISED.search(why):
        return LoginRefusedError(f"{name} {does} user '{options.username}' in: {why}")
    return BusOfflineError(f"{name} {can} be reached: {why}")
