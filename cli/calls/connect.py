"""From the settings in force to a connected client; a failure becomes a sentence and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from busbar.bus.client.client import CALL_S, BusClient
from busbar.bus.client.errors import LoginRefusedError
from busbar.bus.client.names import split_reference as split
from busbar.bus.errors import BusError, BusOfflineError
from busbar.bus.options import ConnectOptions, TlsOptions, parse_urls
from busbar.bus.topics import Topics, is_name

from ..context import Settings, global_options, read_password, settings_in_force
from ..errors import CliError, ExitCode, usage
from ..typer_fastparse import plain_float

T = TypeVar("T")

COMPLETION_S: Final = 1.5
"""Seconds that shell completion may take."""
_HERE: Final = ("127.0.0.1", "localhost", "::1")


def options_of(settings: Settings) -> ConnectOptions:
    """The settings in force as connection options.

    Raises:
        CliError: no broker is configured, or a setting is malformed.
    """
    if not settings.broker:
        raise CliError(
            "no broker configured: start one with 'busbar up', or use --broker URL, or 'busbar context add'",
            ExitCode.UNREACHABLE,
            "no_broker",
        )
    try:
        options = parse_urls(settings.broker)
    except ValueError as error:
        raise usage(str(error)) from None
    options = replace(options, tls=_tls(options, settings), username=settings.username or options.username)
    if not options.username:
        return options
    file = Path(settings.password_file).expanduser() if settings.password_file else None
    return replace(options, password=read_password(settings), password_file=file)


def _tls(options: ConnectOptions, settings: Settings) -> TlsOptions | None:
    if options.tls is None:
        return None
    ca, cert, key = (
        Path(f).expanduser() if f else None for f in (settings.tls_ca, settings.tls_cert, settings.tls_key)
    )
    return TlsOptions(ca, cert, key)


def split_reference(reference: str, cluster: str | None, kind: str) -> tuple[str, str]:
    """`edge/web`, or `web` with the cluster given apart.

    Raises:
        CliError: the cluster is missing, or given twice and differently.
    """
    where, slash, _ = reference.rpartition("/")
    if slash and cluster and where != cluster:
        raise usage(f"'{reference}' names cluster '{where}', --cluster says '{cluster}'")
    if not (where or cluster):
        raise usage(f"which cluster? Say CLUSTER/{reference or kind.upper()}, or use --cluster")
    return split(reference, cluster)


def call_timeout() -> float:
    """Seconds that one call may take: BUSBAR_TIMEOUT, else 10."""
    text = os.environ.get("BUSBAR_TIMEOUT", "")
    try:
        return max(0.1, plain_float(text)) if text else CALL_S
    except ValueError:
        raise usage(f"BUSBAR_TIMEOUT is a number of seconds, not {text!r}") from None


@asynccontextmanager
async def connected(settings: Settings, timeout: float) -> AsyncIterator[BusClient]:
    """Connect, and disconnect at the end.

    Raises:
        CliError: the broker can't be reached, or refuses.
    """
    from busbar.bus.client.connect import CONNECT_S, connect_with

    logging.getLogger("busbar").addHandler(logging.NullHandler())
    logging.getLogger("busbar").propagate = False
    options = options_of(settings)
    username = options.username or ""
    if not is_name(username):
        raise usage(
            f"user name '{username}' can't call operations: use [a-z0-9][a-z0-9_-]{{0,63}}"
            if username
            else "no user name is set: say --username, BUSBAR_USERNAME, or use a context"
        )
    # Who asked for more patience than the default has it with a slow connection too.
    limit = timeout if timeout > CALL_S or options.others else min(timeout, CONNECT_S)
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connect_with(options, _topics(settings), timeout, limit))
        except LoginRefusedError as error:
            raise CliError(str(error), ExitCode.NOT_AUTHORIZED, "not_authorized") from None
        except BusOfflineError as error:
            hint = ": is 'busbar up' running?" if options.host in _HERE and "refused" in str(error) else ""
            raise CliError(f"{error}{hint}", ExitCode.UNREACHABLE, "unreachable") from None
        yield client


def _topics(settings: Settings) -> Topics:
    try:
        return Topics(settings.realm or "", settings.root or "busbar")
    except ValueError as error:
        raise usage(str(error)) from None


def run(
    work: Callable[[BusClient], Awaitable[T]], settings: Settings | None = None, *, dry_run: bool = False
) -> T:
    """Connect with these settings, else with those in force, do the work, disconnect.

    `dry_run`: print the plan of the first change instead of making it, say what would follow, and end the
    command there.
    """
    if dry_run:
        from .dry_run import planning

        work = planning(work)

    async def whole() -> T:
        used = settings or settings_in_force(global_options(), os.environ)
        async with connected(used, call_timeout()) as bus:
            try:
                return await work(bus)
            except BusError as error:
                if error.code == "no_such_object":
                    from .near_names import with_near_name

                    raise await with_near_name(bus, error) from None
                raise

    return asyncio.run(whole())


def run_for_completion(work: Callable[[BusClient], Awaitable[T]]) -> T | None:
    """As `run` for shell completion: soon, and None instead of any failure."""

    async def whole() -> T:
        settings = settings_in_force(global_options(), os.environ)
        async with asyncio.timeout(COMPLETION_S), connected(settings, 1.0) as bus:
            return await work(bus)

    try:
        return asyncio.run(whole())
    except (Exception, SystemExit):
        return None
