"""busbar status: the realm on one screen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.params import ManagerInfo, Node, Stat
from busbar.bus.routers.exposure import AS_DEFINED, OPEN_ACCESS
from busbar.bus.system.version import described
from msgspec import Struct

from ..arguments import common_options as n
from ..calls.connect import run
from ..errors import ExitCode
from ..printing import numbers, output
from ..printing.stats import GOOD, summary
from .node import all_nodes

Row = TypeVar("Row", Stat, Node)
Line = tuple[str, ...]

_HOLDS = re.compile(r"group [^:]+: update |worker [^:]+: (pending|restarting|unknown)\b|worker \S+ stays on ")
"""What is a problem also while all that is asked for is ready: an update that can't go on, a worker on a node
without the labels that its group requires."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Realm(Struct, frozen=True):
    """The manager, the clusters with their statistics, the nodes; by name."""

    manager: ManagerInfo
    clusters: list[Stat]
    nodes: list[Node]


@n.subcommand(
    app, "status", "get_manager", instead="Show the realm on one screen, with problems and their reasons."
)
def status(
    check: Annotated[bool, typer.Option("--check", help="Exit with 8 if there are problems.")] = False,
) -> None:
    found = run(gather)
    if output.output_format() != "table":
        output.dump(found)
    else:
        for line in screen(found):
            output.say(*line)
    if check and any(not line.endswith(AS_DEFINED) for line in _causes_of(found)):
        raise typer.Exit(ExitCode.PROBLEMS)


async def gather(bus: BusClient) -> Realm:
    """Fetch all of it."""
    manager, clusters, nodes = await asyncio.gather(
        bus.get_manager(), bus.list_routerclusters(), all_nodes(bus)
    )
    stats = await bus.fetch_each(clusters, lambda oid: bus.stat_routercluster(routercluster_oid=oid))
    return Realm(manager, sorted(stats, key=lambda row: row.name), sorted(nodes, key=lambda row: row.name))


def screen(found: Realm) -> list[Line]:
    """The lines of the screen, each in parts."""
    manager = found.manager
    head = (
        f"realm {manager.realm}: manager {manager.manager} {manager.state}, "
        f"epoch {manager.epoch}, up {numbers.duration(manager.uptime_ms)}, "
        f"version {described(manager.version, manager.commit)}"
    )
    return [
        (head,),
        ("",),
        *_table("CLUSTER", found.clusters, summary),
        ("",),
        *_table("NODE", found.nodes, lambda row: f"{row.workers} worker{'s'[row.workers == 1 :]}"),
        ("",),
        *((line,) for line in _problems(found)),
    ]


def _table(title: str, rows: Sequence[Row], words: Callable[[Row], str]) -> list[Line]:
    if not rows:
        return [(f"no {title.lower()}s",)]
    width = max(len(title), *(len(row.name) for row in rows))
    lines: list[Line] = [(f"{title:<{width}}  STATUS",)]
    for row in rows:
        pad = " " * max(0, 9 - len(row.status))
        lines.append((f"{row.name:<{width}}  ", output.State(row.status), f"{pad}  {words(row)}"))
    return lines


def _problems(found: Realm) -> list[str]:
    lines = _causes_of(found)
    return ["problems:", *(f"  ! {line}" for line in dict.fromkeys(lines))] if lines else ["no problems"]


def _causes_of(found: Realm) -> list[str]:
    manager = found.manager
    lines = [f"manager: {text}" for text in manager.conditions]
    if manager.brake:
        lines.append(f"the brake is on: {manager.brake}")
    lines += [f"cluster {row.name}: {cause}" for row in found.clusters for cause in causes(row)]
    return lines + [f"node {row.name}: {cause}" for row in found.nodes for cause in causes(row)]


def causes(row: Stat | Node) -> list[str]:
    """The problems of an object. A runtime that a node does not offer is none."""
    conditions = list(row.conditions)
    if isinstance(row, Node):
        conditions = [text for text in conditions if not text.startswith("runtime ")]
    if row.status not in GOOD:
        return conditions or [row.status]
    if isinstance(row, Node):
        return conditions
    return [text for text in conditions if OPEN_ACCESS in text or _HOLDS.match(text)]
