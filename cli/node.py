"""busbar node: the machines that run workers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli import definition as d
from cli import noun as n
from cli import output
from cli.connect import Session, run

app = n.noun("Nodes: the machines that run workers.")

COLUMNS: list[output.Column] = [
    ("name", "name"),
    ("status", "status"),
    ("workers", "workers"),
    ("runtimes", lambda row: ", ".join(row.get("runtimes") or [])),
    ("heard", lambda row: _ago(row.get("heard_ms_ago"))),
    ("labels", lambda row: ", ".join(f"{k}={v}" for k, v in (row.get("labels") or {}).items())),
    ("conditions", lambda row: "; ".join(row.get("conditions") or [])),
]
Name = Annotated[str, typer.Argument(help="Its name; the agent's user name at the broker.")]


def _ago(ms: int | None) -> str:
    return "never" if ms is None else f"{output.duration(ms)} ago"


@n.verb(app, "list", "list_nodes", "get_node")
def list_(
    status: Annotated[str | None, typer.Option("--status", help="Only nodes in this state.")] = None,
    quiet: n.Quiet = False,
) -> None:
    async def work(s: Session) -> Any:
        found = await s.call("list_nodes", return_names=True if quiet else None, filter_by_status=status)
        return found if quiet else await s.every("get_node", "node_oid", found)

    found = run(work)
    if quiet:
        return output.show_names(found)
    return output.show_list(sorted(found, key=lambda row: row["name"]), COLUMNS, "no nodes")


@n.verb(app, "show", "get_node_by_name", "get_node")
def show(node: n.NodeArgument) -> None:
    output.show_object(run(lambda s: s.node(node)))


@n.verb(app, "pair", "pair_node")
def pair(
    node: Name,
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")] = None,
) -> None:
    wanted = d.definition(name=node, labels=d.pairs(label, "--label"))
    made = run(lambda s: s.call("pair_node", node=wanted))
    output.done(made, f"node '{node}' paired, {made['status']}")


@n.verb(app, "unpair", "unpair_node")
def unpair(node: n.NodeArgument, expect_version: n.Expect = None) -> None:
    async def work(s: Session) -> Any:
        return await s.call("unpair_node", node_oid=await s.node_oid(node), expect_version=expect_version)

    gone = run(work)
    output.done(gone, f"node '{gone['name']}' unpaired")
