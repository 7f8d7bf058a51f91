"""Tries what `busbar doctor` judges: each try is bounded, and a failure is a fact like any other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from busbar.bus.client.client import BusClient
from busbar.bus.clock import Clock, SystemClock, moment_ns
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.options import ConnectOptions
from busbar.bus.system.version import commit, version
from busbar.bus.system.x509 import first_end

from ..calls.connect import connected, options_of
from ..context import HomelessError, Settings, state_path
from ..errors import CliError, sentence
from .checks import Facts, Wanted

TRY_S: Final = 3.0
"""Seconds for each connection that is only tried; what is asked of the bus may take as long as a call."""
PACKET: Final = 200_000
"""Bytes of a large request; the contract's limit is 256 KiB."""
PACKET_S: Final = 5.0
"""A broker that does not take it may end the connection at every try."""
CALLS: Final = 8
ENDPOINTS: Final = 16
NODES: Final = 200
CLUSTERS: Final = 100
FAILURES: Final = (BusError, BusOfflineError, CallTimeoutError, CliError, OSError, TimeoutError)


async def examine(settings: Settings, timeout: float) -> Facts:
    """Everything that can be tried with these settings; `timeout`: seconds of one call."""
    clock = SystemClock()
    facts = Facts(version(), clock.time_ns() / 1e9, broker=str(settings.broker or ""), disk=_disk())
    facts.commit = await asyncio.to_thread(commit)
    try:
        options = options_of(settings)
    except CliError as error:
        facts.connect_error = error.message
        return facts
    facts.broker, facts.tls = options.url, options.tls is not None
    facts.files = _files(settings)
    await _reach(facts, options, clock)
    try:
        async with connected(settings, timeout) as bus:
            await _ask(facts, bus)
    except FAILURES as error:
        facts.connect_error = sentence(error)
    return facts


def _files(settings: Settings) -> dict[str, float]:
    """When the certificates that the settings name end."""
    found: dict[str, float] = {}
    for name in filter(None, (settings.tls_ca, settings.tls_cert)):
        with contextlib.suppress(OSError):
            end = first_end(Path(name).expanduser().read_bytes())
            if end is not None:
                found[name] = end
    return found


def _disk() -> tuple[str, int, int] | None:
    try:
        folder = state_path(os.environ)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        usage = shutil.disk_usage(folder)
    except (OSError, HomelessError):
        return None
    return str(folder), usage.free, usage.total


async def _reach(facts: Facts, options: ConnectOptions, clock: Clock) -> None:
    """How long a connection takes, and the broker's certificate."""
    with contextlib.suppress(OSError, TimeoutError):
        began = clock.monotonic()
        async with asyncio.timeout(TRY_S):
            _, writer = await asyncio.open_connection(options.host, options.port)
        facts.tcp_ms = (clock.monotonic() - began) * 1_000
        writer.close()
    if options.tls is None or facts.tcp_ms is None:
        return
    try:
        context = ssl.create_default_context(cafile=options.tls.ca)
        if options.tls.cert is not None:
            context.load_cert_chain(options.tls.cert, options.tls.key)
        async with asyncio.timeout(TRY_S):
            _, writer = await asyncio.open_connection(options.host, options.port, ssl=context)
        shown = writer.get_extra_info("peercert") or {}
        if "notAfter" in shown:
            facts.certificate_end = float(ssl.cert_time_to_seconds(shown["notAfter"]))
        writer.close()
    except ssl.SSLCertVerificationError as error:
        facts.certificate_error = error.verify_message
    except (OSError, TimeoutError, ValueError):
        pass  # the connection that follows says why


async def _ask(facts: Facts, bus: BusClient) -> None:
    """What the manager and the broker answer."""
    clock, probe = bus.clock, bus.probe()
    try:
        facts.manager = await bus.get_manager()
    except FAILURES as error:
        facts.manager_error = sentence(error)
        return
    facts.now = clock.time_ns() / 1e9
    if facts.manager.time:
        facts.manager_time = moment_ns(facts.manager.time) / 1e9
    # These end as soon as all has come: patience costs only where something is missing.
    facts.manager_states = await probe.manager_states(bus.timeout)
    counts = (facts.manager.nodes, facts.manager.clusters, facts.manager.workers)
    wanted = sum(sum(each.values()) for each in counts) - facts.manager.nodes.get("unpaired", 0)
    facts.statuses = (await probe.retained_statuses(wanted, bus.timeout), wanted)
    with contextlib.suppress(*FAILURES):
        facts.overhears = await probe.overhears(lambda: _time_calls(facts, bus), 0.2)
    with contextlib.suppress(*FAILURES):
        await _look_at_realm(facts, bus)
    await _try_packet(facts, bus)


async def _time_calls(facts: Facts, bus: BusClient) -> None:
    took = []
    for _ in range(CALLS):
        began = bus.clock.monotonic()
        await bus.get_manager()
        took.append((bus.clock.monotonic() - began) * 1_000)
    facts.call_ms = took


async def _try_packet(facts: Facts, bus: BusClient) -> None:
    """A large request, which the manager refuses: that it answers is what is looked for."""
    facts.packet = PACKET
    try:
        await bus.call("explain", {"object": "x" * PACKET}, timeout=min(bus.timeout, PACKET_S))
    except BusError:
        return
    except FAILURES as error:
        facts.packet_error = sentence(error)


async def _look_at_realm(facts: Facts, bus: BusClient) -> None:
    nodes = await bus.fetch_nodes((await bus.list_nodes())[:NODES])
    facts.nodes = nodes
    names = {node.oid: node.name for node in nodes}
    wanted: list[Wanted] = []
    urls: list[str] = []
    for oid in (await bus.list_routerclusters())[:CLUSTERS]:
        stat = await bus.stat_routercluster(routercluster_oid=oid, limit=ENDPOINTS)
        members = [
            names[each] for each in await bus.list_routercluster_nodes(routercluster_oid=oid) if each in names
        ]
        wanted += [Wanted(f"{stat.name}/{group.name}", group.runtime, members) for group in stat.workergroups]
        urls += [endpoint.url for endpoint in stat.endpoints]
    facts.wanted = wanted
    facts.ports = await _try_endpoints(urls)


async def _try_endpoints(urls: Iterable[str]) -> dict[str, str | None]:
    """Endpoints that other machines can reach too, each with what went wrong."""
    tried: dict[str, str | None] = {}
    for url in urls:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            continue
        if host is None or port is None or host.startswith("127.") or host in ("localhost", "::1"):
            continue
        if len(tried) >= ENDPOINTS:
            break
        tried[url] = None
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except (OSError, TimeoutError) as error:
            tried[url] = str(error) or "no answer in 1 s"
    return tried
