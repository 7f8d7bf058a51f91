"""Asks before a node is taken from a cluster whose others can't take its workers: they would stop."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.placement import unmet
from busbar.bus.results import Group, Node
from busbar.bus.states import FOLLOWS_ANOTHER

from ..arguments.placement import read_placement
from ..calls.connect import run
from ..errors import CliError, ExitCode

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
    workers = await bus.fetch_workers(oids)
    leaving: dict[tuple[str, str], list[str]] = {}
    for worker in workers:
        if worker.state in _LIVING:
            leaving.setdefault((worker.cluster, worker.cluster_oid), []).append(worker.workergroup_oid)
    left = [
        f"cluster '{name}' {why}: {count} worker{'s'[count == 1 :]} will stop"
        for (name, oid), groups in sorted(leaving.items())
        for why, count in [await _stranded(bus, oid, node_oid, groups)]
        if count
    ]
    if left:
        raise Asks("; ".join(left))


async def _stranded(bus: BusClient, cluster_oid: str, node_oid: str, groups: list[str]) -> tuple[str, int]:
    """How many workers, given by their groups, the cluster's other nodes can't take, and why."""
    places = await _places(bus, cluster_oid, node_oid)
    if not places:
        return "has no other node that is online", len(groups)
    found = await bus.fetch_groups(cluster_oid, sorted(set(groups)))
    known = {group.oid: group for group in found}
    count = 0
    for group in groups:
        able = [place for place in places if place.free > 0 and _takes(place, known.get(group))]
        if able:
            max(able, key=lambda place: place.free).free -= 1
        count += not able
    return "has no other node with room for them", count


def _takes(place: _Place, group: Group | None) -> bool:
    if group is None or group.runtime not in place.runtimes or place.name in group.refused_by:
        return False
    return unmet(read_placement(group.placement), place.labels) is None


@dataclass
class _Place:
    """What another node offers."""

    name: str
    runtimes: list[str]
    labels: dict[str, str] | None
    free: float


async def _places(bus: BusClient, cluster_oid: str, node_oid: str) -> list[_Place]:
    oids = await bus.list_routercluster_nodes(routercluster_oid=cluster_oid, filter_by_status="online")
    nodes = await bus.fetch_nodes([oid for oid in oids if oid != node_oid])
    return [
        _Place(node.name, node.runtimes, node.labels, await _free(bus, cluster_oid, node))
        for node in nodes
        if node.draining is None
        and node.cordoned is None
        and not any(each.startswith(FOLLOWS_ANOTHER) for each in node.conditions)
    ]


async def _free(bus: BusClient, cluster_oid: str, node: Node) -> float:
    """How many more workers of the cluster the node takes."""
    most = (node.capacity or {}).get("max_workers")
    free = math.inf if most is None else most - node.workers
    member = await bus.get_routercluster_node(routercluster_oid=cluster_oid, node_oid=node.oid)
    if member.hardlimit is None:
        return free
    here = await bus.list_workers(node_oid=node.oid, routercluster_oid=cluster_oid)
    return min(free, member.hardlimit - len(here))


def run_asking(work: Callable[[BusClient, bool], Awaitable[T]], yes: bool, *, dry_run: bool = False) -> T:
    """Run `work(bus, may)`, which raises Asks unless it may; a person at a terminal is asked then.

    A `dry_run` asks nobody: its plan says what stays.

    Raises:
        CliError: there is nobody to ask, or the answer was no.
    """
    if dry_run:
        return run(lambda bus: work(bus, True), dry_run=True)
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
