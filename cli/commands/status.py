"""busbar status: the realm on one screen."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from .. import common_options as n
from .. import output
from ..connect import Session, run
from ..stats import GOOD, summary

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@n.verb(
    app, "status", "get_manager", instead="Show the realm on one screen, with problems and their reasons."
)
def status() -> None:
    found = run(gather)
    if output.output_format() != "table":
        return output.dump(found)
    for line in screen(found):
        print(line)
    return None


async def gather(s: Session) -> dict[str, Any]:
    """Manager, clusters with their statistics, nodes."""
    manager, clusters, nodes = await asyncio.gather(
        s.call("get_manager"), s.call("list_routerclusters"), s.call("list_nodes")
    )
    stats = await s.every("stat_routercluster", "routercluster_oid", clusters)
    rows = await s.every("get_node", "node_oid", nodes)
    by_name = lambda row: str(row["name"])  # noqa: E731
    return {"manager": manager, "clusters": sorted(stats, key=by_name), "nodes": sorted(rows, key=by_name)}


def screen(found: Mapping[str, Any]) -> list[str]:
    """The lines of the screen."""
    manager = found["manager"]
    head = (
        f"realm {manager['realm']}: manager {manager['manager']} {manager['state']}, "
        f"epoch {manager['epoch']}, up {output.duration(manager['uptime_ms'])}, version {manager['version']}"
    )
    return [
        head,
        "",
        *_table("CLUSTER", found["clusters"], summary),
        "",
        *_table("NODE", found["nodes"], lambda row: f"{row['workers']} worker{'s'[row['workers'] == 1 :]}"),
        "",
        *_problems(found),
    ]


def _table(title: str, rows: Sequence[Mapping[str, Any]], words: Any) -> list[str]:
    if not rows:
        return [f"no {title.lower()}s"]
    width = max(len(title), *(len(row["name"]) for row in rows))
    lines = [f"{title:<{width}}  STATUS"]
    for row in rows:
        state = output.paint(row["status"]) + " " * max(0, 9 - len(row["status"]))
        lines.append(f"{row['name']:<{width}}  {state}  {words(row)}")
    return lines


def _problems(found: Mapping[str, Any]) -> list[str]:
    manager = found["manager"]
    lines = [f"manager: {text}" for text in manager.get("conditions", [])]
    if manager.get("brake"):
        lines.append(f"the brake is on: {manager['brake']}")
    for kind in ("clusters", "nodes"):
        for row in found[kind]:
            lines += [f"{kind[:-1]} {row['name']}: {output.as_text(cause)}" for cause in _causes(row)]
    return ["problems:", *(f"  ! {line}" for line in dict.fromkeys(lines))] if lines else ["no problems"]


def _causes(row: Mapping[str, Any]) -> list[str]:
    """Why an object is not as it should be. A runtime that a node does not offer is no problem."""
    conditions = [str(text) for text in row.get("conditions") or []]
    if row["status"] not in GOOD:
        return conditions or [str(row["status"])]
    is_node = "runtimes" in row
    return [text for text in conditions if is_node and not text.startswith("runtime ")]
