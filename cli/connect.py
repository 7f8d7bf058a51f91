"""One connection for one command: calls, names to oids, and clear words when nobody is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from busbar.bus.clock import Clock, SystemClock
from busbar.bus.connection.link import Link, Message
from busbar.bus.connection.rpc import Caller
from busbar.bus.decode import parse
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.options import ConnectOptions, TlsOptions, parse_urls
from busbar.bus.topics import Topics, is_name

from .context import Layer, given, read_password, settings
from .errors import CliError, ExitCode, usage

T = TypeVar("T")

CONNECT_S: Final = 5.0
CALL_S: Final = 10.0
ABREAST: Final = 32
"""Calls under way at once when many objects are fetched; the manager allows far more per caller."""
_OID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HERE: Final = ("127.0.0.1", "localhost", "::1")
_UNAUTHORISED = re.compile(r"not authori[sz]ed|bad user ?name", re.IGNORECASE)


def options_of(layer: Layer) -> ConnectOptions:
    """The settings in force as connection options.

    Raises:
        CliError: no broker is known, or a setting is malformed.
    """
    if not layer.broker:
        raise CliError(
            "no broker is known: start one with 'busbar up', or say --broker URL, or 'busbar context add'",
            ExitCode.UNREACHABLE,
            "no_broker",
        )
    try:
        options = parse_urls(layer.broker)
    except ValueError as error:
        raise usage(str(error)) from None
    options = replace(options, tls=_tls(options, layer), username=layer.username or options.username)
    return replace(options, password=read_password(layer) if options.username else None)


def _tls(options: ConnectOptions, layer: Layer) -> TlsOptions | None:
    if options.tls is None:
        return None
    ca, cert, key = (
        Path(f).expanduser() if f else None for f in (layer.tls_ca, layer.tls_cert, layer.tls_key)
    )
    return TlsOptions(ca, cert, key)


def is_oid(text: str) -> bool:
    """Whether this is an object id, not a name."""
    return _OID.fullmatch(text) is not None


class Session:
    """A live connection as one principal. `clock` and `timeout` (seconds of one call) bound every wait."""

    def __init__(
        self, link: Link, topics: Topics, username: str, clock: Clock, timeout: float = CALL_S
    ) -> None:
        self.link, self.topics, self.clock, self.timeout = link, topics, clock, timeout
        self.username = username
        inbox = f"cli-{secrets.token_hex(4)}"
        self._caller = Caller(link, topics, username, inbox, clock, lambda: secrets.token_urlsafe(12))

    async def call(self, operation: str, *, expect_version: int | None = None, **params: Any) -> Any:
        """Call an operation; parameters that are None are left out.

        Raises:
            BusError, CallTimeoutError, BusOfflineError: as `bus.connection.rpc.Caller.call`.
        """
        sent = {name: value for name, value in params.items() if value is not None}
        try:
            return await self._caller.call(
                operation, sent, timeout=self.timeout, expect_version=expect_version
            )
        except CallTimeoutError:
            raise CallTimeoutError(await self._no_answer(operation)) from None

    async def _no_answer(self, operation: str) -> str:
        seen: dict[str, str] = {}

        def note(message: Message) -> None:
            with contextlib.suppress(BusError):
                state = parse(message.payload).get("state")
                seen[self.topics.parse_manager(message.topic) or "?"] = str(state)

        self.link.subscribe(self.topics.all_managers(), note)
        await self.clock.sleep(0.3)
        found = ", ".join(f"manager {name} is {state}" for name, state in sorted(seen.items()))
        where = found or "none was ever seen there"
        return (
            f"no manager answered {operation} in {self.timeout:g} s in realm '{self.topics.realm}' ({where})"
        )

    async def every(self, operation: str, member: str, oids: Sequence[str], **params: Any) -> list[Any]:
        """Fetch many objects, some at a time, in order; those deleted meanwhile are left out."""
        gate = asyncio.Semaphore(ABREAST)

        async def one(oid: str) -> Any:
            async with gate:
                try:
                    return await self.call(operation, **{**params, member: oid})
                except BusError as error:
                    if error.code != "no_such_object":
                        raise
                    return None

        return [found for found in await asyncio.gather(*map(one, oids)) if found is not None]

    async def cluster(self, reference: str) -> dict[str, Any]:
        """A cluster by name or oid."""
        if is_oid(reference):
            return _object(await self.call("get_routercluster", routercluster_oid=reference))
        return _object(await self.call("get_routercluster_by_name", routercluster_name=reference))

    async def cluster_oid(self, reference: str) -> str:
        """A cluster's oid, looked up when it is a name."""
        return reference if is_oid(reference) else str((await self.cluster(reference))["oid"])

    async def node(self, reference: str) -> dict[str, Any]:
        """A node by name or oid."""
        if is_oid(reference):
            return _object(await self.call("get_node", node_oid=reference))
        return _object(await self.call("get_node_by_name", node_name=reference))

    async def node_oid(self, reference: str) -> str:
        """A node's oid, looked up when it is a name."""
        return reference if is_oid(reference) else str((await self.node(reference))["oid"])

    async def group(self, reference: str, cluster: str | None = None) -> dict[str, Any]:
        """A group by `cluster/group`, or by name or oid within `cluster`."""
        where, name = split_reference(reference, cluster, "group")
        if not is_oid(name) and not is_oid(where):
            return _object(
                await self.call(
                    "get_routercluster_workergroup_by_name", routercluster_name=where, workergroup_name=name
                )
            )
        found = await self.cluster(where)
        if not is_oid(name):
            return await self.group(f"{found['name']}/{name}")
        return _object(
            await self.call(
                "get_routercluster_workergroup", routercluster_oid=found["oid"], workergroup_oid=name
            )
        )

    async def names_of_groups(self, cluster: str) -> list[str]:
        """The names of a cluster's groups."""
        oid = await self.cluster_oid(cluster)
        found = await self.call("list_routercluster_workergroups", routercluster_oid=oid, return_names=True)
        return [str(name) for name in found]

    async def worker_oid(self, reference: str, cluster: str | None = None) -> str:
        """A worker's oid by `cluster/worker`, or by name within `cluster`."""
        if is_oid(reference):
            return reference
        where, name = split_reference(reference, cluster, "worker")
        oid = await self.cluster_oid(where)
        stat = await self.call("stat_routercluster", routercluster_oid=oid)
        for worker in stat["workers"]:
            if worker["name"] == name:
                return str(worker["oid"])
        raise CliError(
            f"there is no worker '{name}' in cluster '{where}'", ExitCode.NOT_FOUND, "no_such_object"
        )


def _object(result: Any) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise CliError("the manager's answer was not understood: is it of another version?")
    return result


def split_reference(reference: str, cluster: str | None, kind: str) -> tuple[str, str]:
    """`edge/web`, or `web` with the cluster given apart.

    Raises:
        CliError: the cluster is missing, or given twice and differently.
    """
    where, slash, name = reference.rpartition("/")
    if slash and cluster and where != cluster:
        raise usage(f"'{reference}' names cluster '{where}', --cluster says '{cluster}'")
    if not (where or cluster):
        raise usage(f"which cluster? Say CLUSTER/{reference or kind.upper()}, or use --cluster")
    return where or str(cluster), name


def call_timeout() -> float:
    """Seconds that one call may take: BUSBAR_TIMEOUT, else 10."""
    text = os.environ.get("BUSBAR_TIMEOUT", "")
    try:
        return max(0.1, float(text)) if text else CALL_S
    except ValueError:
        raise usage(f"BUSBAR_TIMEOUT is a number of seconds, not {text!r}") from None


@asynccontextmanager
async def connected(layer: Layer, timeout: float) -> AsyncIterator[Session]:
    """Connect, and say goodbye at the end.

    Raises:
        CliError: the broker can't be reached, or refuses.
    """
    from busbar.bus.connection.mqtt_link import MqttLink

    logging.getLogger("busbar").addHandler(logging.NullHandler())
    logging.getLogger("busbar").propagate = False
    options = options_of(layer)
    username = options.username or ""
    if not is_name(username):
        raise usage(
            f"user name '{username}' can't call operations: use [a-z0-9][a-z0-9_-]{{0,63}}"
            if username
            else "no user name is set: say --username, BUSBAR_USERNAME, or use a context"
        )
    clock = SystemClock()
    options = replace(_hasty(options), client_id=f"busbar-{username}-{secrets.token_hex(4)}")
    link = MqttLink(options, clock=clock, random=Random())
    session = Session(link, _topics(layer), username, clock, timeout)
    running = asyncio.create_task(link.run(), name="link")
    try:
        await _come_up(link, options, clock, min(timeout, CONNECT_S if not options.others else CALL_S))
        yield session
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=2.0)


def _hasty(options: ConnectOptions) -> ConnectOptions:
    """With several brokers, as little patience with each as lets a command try them all."""
    if not options.others:
        return options
    return replace(options, connect_s=max(1.0, CALL_S / 3 / len(options.brokers)))


def _topics(layer: Layer) -> Topics:
    try:
        return Topics(layer.realm or "", layer.root or "busbar")
    except ValueError as error:
        raise usage(str(error)) from None


async def _come_up(link: Any, options: ConnectOptions, clock: Clock, timeout: float) -> None:
    end = clock.monotonic() + timeout
    while not link.connected:
        with contextlib.suppress(BusOfflineError):
            await link.wait_connected(0.02)
        # A refusal by each is final for a command: nobody wants to wait for a broker that isn't there.
        if not link.connected and (link.rotation.exhausted or clock.monotonic() >= end):
            raise unreachable(options, link.rotation.last_error)


def unreachable(options: ConnectOptions, why: str) -> CliError:
    """The error for brokers that can't be reached, or do not let us in."""
    name = f"none of the brokers {options.url}" if options.others else f"the broker {options.url}"
    can, does = ("can", "lets") if options.others else ("can't", "does not let")
    if _UNAUTHORISED.search(why):
        who = f"user '{options.username}'"
        return CliError(
            f"{name} {does} {who} in: {why}",
            ExitCode.NOT_AUTHORIZED,
            "not_authorized",
        )
    hint = ": is 'busbar up' running?" if options.host in _HERE and "refused" in why else ""
    return CliError(f"{name} {can} be reached: {why}{hint}", ExitCode.UNREACHABLE, "unreachable")


def run(work: Callable[[Session], Awaitable[T]]) -> T:
    """Connect with the settings in force, do the work, disconnect."""

    async def whole() -> T:
        async with connected(settings(given(), os.environ), call_timeout()) as session:
            return await work(session)

    return asyncio.run(whole())


def quick(work: Callable[[Session], Awaitable[T]]) -> T | None:
    """As `run` for shell completion: at most a second, and None instead of any failure."""

    async def whole() -> T:
        async with asyncio.timeout(1.5), connected(settings(given(), os.environ), 1.0) as session:
            return await work(session)

    try:
        return asyncio.run(whole())
    except (Exception, SystemExit):
        return None
