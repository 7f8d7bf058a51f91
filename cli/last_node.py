"""Asks before a node is taken from a cluster that has no other: its workers would stop."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer
from busbar.bus.client.client import BusClient

from .connect import run
from .errors import CliError, ExitCode

T = TypeVar("T")
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, even if workers have nowhere to go.")]
_LIVING: Final = frozenset({"STARTING", "RUNNING", "BACKOFF", "UNKNOWN"})


class Asks(Exception):
    """What the change would cost, in words."""


async def check(bus: BusClient, node_oid: str, cluster_oid: str | None = None) -> None:
    """Look for workers there that no other node of their cluster could take.

    Args:
        cluster_oid: look at this cluster alone.

    Raises:
        Asks: there are some.
    """
    oids = await bus.list_workers(node_oid=node_oid, routercluster_oid=cluster_oid)
    workers = await bus.fetch_each(oids, lambda oid: bus.get_worker(worker_oid=oid))
    found = Counter((w.cluster_oid, w.cluster) for w in workers if w.state in _LIVING)
    left = [
        f"cluster '{name}' has no other node that is online: {count} worker{'s'[count == 1 :]} will stop"
        for (oid, name), count in sorted(found.items(), key=lambda item: item[0][1])
        if not await _others(bus, oid, node_oid)
    ]
    if left:
        raise Asks("; ".join(left))


async def _others(bus: BusClient, cluster_oid: str, node_oid: str) -> bool:
    members = await bus.list_routercluster_nodes(routercluster_oid=cluster_oid, filter_by_status="online")
    nodes = await bus.fetch_each(
        [oid for oid in members if oid != node_oid], lambda oid: bus.get_node(node_oid=oid)
    )
    return any(node.draining is None for node in nodes)


def run_asking(work: Callable[[BusClient, bool], Awaitable[T]], yes: bool) -> T:
    """Run `work(bus, may)`, which raises Asks unless it may; a person at a terminal is asked then.

    Raises:
        CliError: there is nobody to ask, or the answer was no.
    """
    try:
        return run(lambda bus: work(bus, yes))
    except Asks as asks:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise CliError(
                f"{asks}; say --yes if that is intended", ExitCode.CONFLICT, "not_confirmed"
            ) from None
        if not typer.confirm(f"{asks}. Go on?", err=True):
            raise CliError("nothing was changed", ExitCode.FAILED, "not_confirmed") from None
    return run(lambda bus: work(bus, True))
