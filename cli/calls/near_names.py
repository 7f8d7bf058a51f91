"""What a name was perhaps meant to be, where there is no such object."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from busbar.bus.client.client import BusClient
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError

ASK_S: Final = 2.0
"""Seconds that asking for names may take."""
_QUOTED: Final = re.compile(r"'([^']{1,128})'")


async def with_near_name(bus: BusClient, error: BusError) -> BusError:
    """The error with the name nearest to the one that is not there; the same where none is near."""
    quoted = _QUOTED.findall(error.detail or "")
    if not quoted:
        return error
    try:
        async with asyncio.timeout(ASK_S):
            names = await _names(bus, error.detail, quoted)
    except (BusError, BusOfflineError, CallTimeoutError, TimeoutError):
        return error
    near = get_close_matches(quoted[0], names, 1)
    if not near:
        return error
    detail = f"{error.detail}; did you mean '{near[0]}'?"
    return BusError(error.code, detail, list(error.pointers), correlation=error.correlation)


async def _names(bus: BusClient, detail: str, quoted: list[str]) -> Iterable[str]:
    """The names of the kind of object that the error is about."""
    kind = re.sub(r"'[^']*'", "", detail).partition(" in ")[0]
    clusters = await bus.list_routerclusters(return_names=True)
    if "principal" in kind:
        return [row.name for row in await bus.list_principals()]
    if "worker" in kind and len(quoted) > 1:
        return await _of_cluster(bus, quoted[1], groups="group" in kind, workers="group" not in kind)
    if "/" in quoted[0]:
        cluster = quoted[0].partition("/")[0]
        return [f"{cluster}/{name}" for name in await _of_cluster(bus, cluster, groups=True, workers=True)]
    if "node" in kind and "cluster" not in kind:
        return await bus.list_nodes(return_names=True)
    return clusters if "cluster" in kind else [*clusters, *await bus.list_nodes(return_names=True)]


async def _of_cluster(bus: BusClient, cluster: str, *, groups: bool, workers: bool) -> list[str]:
    oid, found = await bus.cluster_oid(cluster), list[str]()
    if groups:
        found += await bus.list_routercluster_workergroups(routercluster_oid=oid, return_names=True)
    if workers:
        found += await bus.list_workers(routercluster_oid=oid, return_names=True)
    return found
