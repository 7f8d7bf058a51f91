"""busbar cluster: clusters of routers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from busbar.bus.topics import Topics

from .. import common_options as n
from .. import definition as d
from .. import output, wait
from ..connect import Session, run
from ..stats import print_stat

app = n.noun("Clusters of routers.")

COLUMNS: list[output.Column] = [
    ("name", "name"),
    ("status", "status"),
    ("label", "label"),
    ("tags", lambda c: ", ".join(c.get("tags") or [])),
    ("transport", lambda c: (c.get("transport") or {}).get("type")),
    ("version", "version"),
]
MEMBER_COLUMNS: list[output.Column] = [
    ("node", "node"),
    ("status", "status"),
    ("hardlimit", "hardlimit"),
    ("softlimit", "softlimit"),
]


@n.verb(app, "create", "create_routercluster")
def create(
    name: Annotated[str, typer.Argument(help="Its name, unique in the realm.")],
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
) -> None:
    wanted = d.definition(
        name=name,
        label=label,
        description=description,
        tags=tag,
        transport=d.transport(transport, type, port),
    )
    made = run(lambda s: s.call("create_routercluster", routercluster=wanted))
    output.done(made, f"cluster '{name}' created, {made['status']}")


@n.verb(app, "list", "list_routerclusters", "get_routercluster")
def list_(quiet: n.Quiet = False) -> None:
    async def work(s: Session) -> Any:
        found = await s.call("list_routerclusters", return_names=True if quiet else None)
        return found if quiet else await s.every("get_routercluster", "routercluster_oid", found)

    found = run(work)
    if quiet:
        return output.show_names(found)
    return output.show_list(sorted(found, key=lambda c: c["name"]), COLUMNS, "no clusters")


@n.verb(app, "show", "get_routercluster_by_name", "get_routercluster")
def show(cluster: n.ClusterArgument) -> None:
    output.show_object(run(lambda s: s.cluster(cluster)))


@n.verb(app, "start", "start_routercluster")
def start(
    cluster: n.ClusterArgument,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    run(lambda s: _order(s, cluster, "start", wait, timeout, expect_version))


@n.verb(app, "stop", "stop_routercluster")
def stop(
    cluster: n.ClusterArgument,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    run(lambda s: _order(s, cluster, "stop", wait, timeout, expect_version))


async def _order(
    s: Session, cluster: str, order: str, waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await s.cluster(cluster)
    async with wait.Follow(s, _topic(s.topics, found["name"])) as follow:
        accepted = await s.call(
            f"{order}_routercluster", routercluster_oid=found["oid"], expect_version=expect_version
        )
        if waits:
            goal = wait.started if order == "start" else wait.stopped
            title = f"cluster '{found['name']}'"
            accepted = {**accepted, **(await follow.until(goal(accepted["version"]), title, timeout) or {})}
    output.done(accepted, f"cluster '{found['name']}' is {accepted['status']}")


@n.verb(app, "delete", "delete_routercluster", "stop_routercluster")
def delete(
    cluster: n.ClusterArgument,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it first, and wait for that.")] = False,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    run(lambda s: _delete(s, cluster, stop, wait, timeout, expect_version))


async def _delete(
    s: Session, cluster: str, stop: bool, waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await s.cluster(cluster)
    oid, title = found["oid"], f"cluster '{found['name']}'"
    async with wait.Follow(s, _topic(s.topics, found["name"])) as follow:
        if stop and found["status"] != "STOPPED":
            asked = {"routercluster_oid": oid}
            if found["status"] != "STOPPING":
                accepted = await s.call("stop_routercluster", **asked, expect_version=expect_version)
                found = {**found, **accepted}
                expect_version = None
            await follow.until(wait.stopped(found["version"]), title, timeout)
        gone = await s.call("delete_routercluster", routercluster_oid=oid, expect_version=expect_version)
        if waits:
            await follow.until(wait.deleted(), title, timeout)
    output.done(gone, f"{title} deleted")


@n.verb(app, "stat", "stat_routercluster")
def stat(cluster: n.ClusterArgument) -> None:
    async def work(s: Session) -> Any:
        return await s.call("stat_routercluster", routercluster_oid=await s.cluster_oid(cluster))

    print_stat(run(work))


@n.verb(app, "nodes", "list_routercluster_nodes", "get_routercluster_node")
def nodes(
    cluster: n.ClusterArgument,
    status: Annotated[str | None, typer.Option("--status", help="Only nodes in this status.")] = None,
    quiet: n.Quiet = False,
) -> None:
    async def work(s: Session) -> Any:
        oid = await s.cluster_oid(cluster)
        params: dict[str, Any] = {"routercluster_oid": oid, "filter_by_status": status}
        found = await s.call("list_routercluster_nodes", **params, return_names=True if quiet else None)
        if quiet:
            return found
        members = await s.every("get_routercluster_node", "node_oid", found, routercluster_oid=oid)
        known = {row["oid"]: row for row in await s.every("get_node", "node_oid", found)}
        return [
            {**member, "node": row.get("name"), "status": row.get("status")}
            for member in members
            for row in [known.get(member["node_oid"], {})]
        ]

    found = run(work)
    if quiet:
        return output.show_names(found)
    return output.show_list(sorted(found, key=lambda m: str(m["node"])), MEMBER_COLUMNS, "no nodes")


@n.verb(app, "add-node", "add_routercluster_node")
def add_node(
    cluster: n.ClusterArgument,
    node: n.NodeArgument,
    hardlimit: Annotated[
        int | None, typer.Option(min=0, help="Maximum of the cluster's workers there.")
    ] = None,
    softlimit: Annotated[
        int | None, typer.Option(min=0, help="Beyond this, other nodes are preferred.")
    ] = None,
    expect_version: n.Expect = None,
) -> None:
    async def work(s: Session) -> Any:
        both = {"routercluster_oid": await s.cluster_oid(cluster), "node_oid": await s.node_oid(node)}
        config = d.limits(hardlimit, softlimit)
        return await s.call("add_routercluster_node", **both, config=config, expect_version=expect_version)

    output.done(run(work), f"node '{node}' added to cluster '{cluster}'")


@n.verb(app, "remove-node", "remove_routercluster_node")
def remove_node(cluster: n.ClusterArgument, node: n.NodeArgument, expect_version: n.Expect = None) -> None:
    async def work(s: Session) -> Any:
        both = {"routercluster_oid": await s.cluster_oid(cluster), "node_oid": await s.node_oid(node)}
        return await s.call("remove_routercluster_node", **both, expect_version=expect_version)

    output.done(run(work), f"node '{node}' removed from cluster '{cluster}'")


def _topic(topics: Topics, cluster: str) -> str:
    return topics.status(cluster, "routercluster", cluster)
