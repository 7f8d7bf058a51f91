"""busbar cluster: clusters of routers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Final

import typer
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.client.errors import WaitTimeoutError
from busbar.bus.clock import SystemClock
from busbar.bus.errors import BusError
from busbar.bus.params import Accepted, Cluster, ClusterStatus, Membership, Node, NodeStatusName, Stat

from ..arguments import common_options as n
from ..arguments.selectors import has_tags
from ..calls import wait
from ..calls.connect import run
from ..calls.dry_run import Later, then
from ..calls.wait import way_back
from ..documents import definition as d
from ..documents.transport_patch import TransportChange, asked_change, show_change
from ..errors import CliError, ExitCode, usage
from ..guards import last_node
from ..guards.fenced import change_fenced
from ..printing import output
from ..printing.stats import print_stat, wide_columns

app = n.command_group("Clusters of routers.")


class Member(Membership, frozen=True):
    """A membership with the node's name and status."""

    node: str | None = None
    status: str | None = None


COLUMNS: list[output.Column[Cluster]] = [
    ("name", lambda c: c.name),
    ("status", lambda c: c.status),
    ("label", lambda c: c.label),
    ("tags", lambda c: ", ".join(c.tags or [])),
    ("transport", lambda c: (c.transport or {}).get("type")),
    ("version", lambda c: c.version),
]
MEMBER_COLUMNS: list[output.Column[Member]] = [
    ("node", lambda m: m.node),
    ("status", lambda m: m.status),
    ("hardlimit", lambda m: m.hardlimit),
    ("softlimit", lambda m: m.softlimit),
]
WIDE: list[output.Column[Member]] = [("oid", lambda m: m.node_oid)]


Strict = Annotated[bool, typer.Option("--strict", help="Fail (exit code 4) if it is so already.")]
_ORDERED: Final = {
    "start": frozenset({"STARTING", "RUNNING", "DEGRADED", "ERROR"}),
    "stop": frozenset({"STOPPING", "STOPPED"}),
}
"""The statuses in which an order has been given before."""


@n.subcommand(app, "create", "create_routercluster")
def create(
    name: Annotated[str, typer.Argument(help="Its name, unique in the realm.")],
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    allow_anonymous: n.AllowAnonymous = False,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
) -> None:
    given = d.transport(transport, type, port)
    listens = TransportChange(given, replace=True, allow_anonymous=allow_anonymous).of(None, None, None)
    made = run(
        lambda bus: bus.create_routercluster(
            name=name, label=label, description=description, tags=tag or None, transport=listens
        )
    )
    output.done(made, f"cluster '{name}' created, {made.status}")


@n.subcommand(app, "list", "list_routerclusters", "get_routercluster", "stat_routercluster")
def list_(
    status: Annotated[
        ClusterStatus | None, typer.Option("--status", help="Only clusters in this status.")
    ] = None,
    tag: n.WithTag = None,
    quiet: n.Quiet = False,
) -> None:
    if quiet and not (status or tag):
        return output.show_names(run(lambda bus: bus.list_routerclusters(return_names=True)))
    every, stats = run(_list)
    found = [c for c in every if status in (None, c.status) and has_tags(c.tags, tag)]
    found.sort(key=lambda c: c.name)
    if quiet:
        return output.show_names([c.name for c in found])
    wide = wide_columns(stats)
    return output.show_list(found, COLUMNS, "no clusters", wide=wide)


async def _list(bus: BusClient) -> tuple[list[Cluster], dict[str, Stat]]:
    """Every cluster, and where there is room for them the statistics."""
    found = await all_clusters(bus)
    oids = [c.oid for c in found] if output.is_wide() else []
    stats = await bus.fetch_each(oids, lambda oid: bus.stat_routercluster(routercluster_oid=oid))
    return found, {stat.oid: stat for stat in stats}


async def all_clusters(bus: BusClient) -> list[Cluster]:
    """Every cluster of the realm."""
    oids = await bus.list_routerclusters()
    return await bus.fetch_clusters(oids)


@n.subcommand(app, "show", "get_routercluster_by_name", "get_routercluster")
def show(cluster: n.ClusterArgument) -> None:
    output.show_object(run(lambda bus: bus.find_cluster(cluster)))


@n.subcommand(
    app,
    "update",
    "update_routercluster",
    more="Groups without a transport of their own get a new one by a rolling update.",
)
def update(
    cluster: n.ClusterArgument,
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    replace_transport: n.ReplaceTransport = False,
    allow_anonymous: n.AllowAnonymous = False,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
    max_unavailable: n.MaxUnavailable = None,
    max_surge: n.MaxSurge = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    patch = d.transport_patch(transport, type, port)
    asked = asked_change(patch, transport, replace_transport, allow_anonymous)
    if not tag and all(option is None for option in (patch, allow_anonymous or None, label, description)):
        raise usage("what is to change? Say --transport, --port or another option")

    async def change(bus: BusClient, found: Cluster, fence: int | None) -> Cluster:
        listens = asked.of(found.transport, None, None)
        show_change(f"cluster '{found.name}'", found.transport, listens)
        return await bus.update_routercluster(
            routercluster_oid=found.oid,
            transport=d.or_unset(listens),
            label=d.or_unset(label),
            description=d.or_unset(description),
            tags=d.or_unset(tag or None),
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            expect_version=fence,
        )

    async def work(bus: BusClient) -> None:
        _, changed = await change_fenced(
            lambda: bus.find_cluster(cluster, whole=bool(asked)),
            lambda found, fence: change(bus, found, fence),
            expect_version,
            computed=bool(asked),
        )
        if wait:
            with way_back(changed.name):
                await _rolled_out(bus, changed, timeout)
        output.done(changed, f"cluster '{changed.name}' updated, {changed.status}")

    run(work, dry_run=dry_run)


async def _rolled_out(bus: BusClient, cluster: Cluster, timeout: float) -> None:
    """Until each group that follows the cluster's transport has completed its update; those that are stopped
    run it from their next start."""
    clock = SystemClock()
    ends = clock.monotonic() + timeout
    oids = await bus.list_routercluster_workergroups(routercluster_oid=cluster.oid)
    for oid in oids:
        group = await bus.find_group(oid, cluster.oid)
        own = group.transport is not None or "transport" in (group.left_out or ())
        if own or group.status in ("STOPPING", "STOPPED"):
            continue
        left = max(ends - clock.monotonic(), 0.1)
        async with bus.watch_statuses(kind="workergroup", cluster=cluster.name, name=group.name) as watch:
            goal = goals.updated(group.version, group.revision)
            await wait.until(watch, goal, f"group '{cluster.name}/{group.name}'", left, oid=oid)


@n.subcommand(app, "start", "start_routercluster")
def start(
    cluster: n.ClusterArgument,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    strict: Strict = False,
    dry_run: n.DryRun = False,
) -> None:
    run(
        lambda bus: _order(bus, cluster, "start", wait and not dry_run, timeout, expect_version, strict),
        dry_run=dry_run,
    )


@n.subcommand(app, "stop", "stop_routercluster")
def stop(
    cluster: n.ClusterArgument,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    strict: Strict = False,
    dry_run: n.DryRun = False,
) -> None:
    run(
        lambda bus: _order(bus, cluster, "stop", wait and not dry_run, timeout, expect_version, strict),
        dry_run=dry_run,
    )


async def _order(
    bus: BusClient,
    cluster: str,
    order: str,
    waits: bool,
    timeout: float,
    expect_version: int | None,
    strict: bool,
) -> None:
    found = await bus.find_cluster(cluster)
    change, goal = (
        (bus.start_routercluster, goals.started)
        if order == "start"
        else (bus.stop_routercluster, goals.stopped)
    )
    async with bus.watch_statuses(kind="routercluster", cluster=found.name, name=found.name) as watch:
        title, reached, already = f"cluster '{found.name}'", None, ""
        accepted: Accepted | Cluster
        try:
            accepted = await change(routercluster_oid=found.oid, expect_version=expect_version)
        except BusError as error:
            if strict or expect_version is not None or error.code not in ("cannot_start", "cannot_stop"):
                raise
            accepted, already = await bus.find_cluster(found.oid), "already "
            if accepted.status not in _ORDERED[order]:
                raise
        if waits:
            reached = await wait.until(watch, goal(accepted.version), title, timeout, oid=found.oid)
    status = reached.status if reached else accepted.status
    output.done(output.merged(accepted, reached), f"{title} is {'' if reached else already}{status}")


@n.subcommand(app, "delete", "delete_routercluster", "stop_routercluster")
def delete(
    cluster: n.ClusterArgument,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it first, and wait for that.")] = False,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    run(lambda bus: _delete(bus, cluster, stop, wait, timeout, expect_version), dry_run=dry_run)


async def _delete(
    bus: BusClient, cluster: str, stop: bool, waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await bus.find_cluster(cluster)
    title = f"cluster '{found.name}'"
    async with bus.watch_statuses(kind="routercluster", cluster=found.name, name=found.name) as watch:
        if stop and found.status != "STOPPED":
            version, is_ordered = found.version, found.status == "STOPPING"
            text = f"{title} is deleted, once it has stopped; the plan ends before that"
            later = Later("delete_routercluster", {"routercluster_oid": found.oid}, text)
            await then(bus, later, ordered="stop_routercluster" if is_ordered else None)
            if not is_ordered:
                accepted = await bus.stop_routercluster(
                    routercluster_oid=found.oid, expect_version=expect_version
                )
                version, expect_version = accepted.version, None
            await wait.until(watch, goals.stopped(version), title, timeout, oid=found.oid)
        gone = await bus.delete_routercluster(routercluster_oid=found.oid, expect_version=expect_version)
        if waits:
            await wait.until(watch, goals.deleted(), title, timeout, oid=found.oid)
    output.done(gone, f"{title} deleted")


@n.subcommand(app, "stat", "stat_routercluster")
def stat(cluster: n.ClusterArgument) -> None:
    async def work(bus: BusClient) -> Stat:
        return await bus.stat_routercluster(routercluster_oid=await bus.cluster_oid(cluster))

    print_stat(run(work))


@n.subcommand(app, "nodes", "list_routercluster_nodes", "get_routercluster_node")
def nodes(
    cluster: n.ClusterArgument,
    status: Annotated[
        NodeStatusName | None, typer.Option("--status", help="Only nodes in this status.")
    ] = None,
    quiet: n.Quiet = False,
) -> None:
    if quiet:
        return output.show_names(run(lambda bus: _member_nodes(bus, cluster, status)))
    found = run(lambda bus: _members(bus, cluster, status))
    found.sort(key=lambda m: str(m.node))
    return output.show_list(found, MEMBER_COLUMNS, "no nodes", _node_of, WIDE)


def _node_of(member: Member) -> str:
    return member.node or member.node_oid


async def _member_nodes(bus: BusClient, cluster: str, status: NodeStatusName | None) -> list[str]:
    oid = await bus.cluster_oid(cluster)
    return await bus.list_routercluster_nodes(
        routercluster_oid=oid, return_names=True, filter_by_status=status
    )


async def _members(bus: BusClient, cluster: str, status: NodeStatusName | None) -> list[Member]:
    oid = await bus.cluster_oid(cluster)
    oids = await bus.list_routercluster_nodes(routercluster_oid=oid, filter_by_status=status)
    members = await bus.fetch_each(
        oids, lambda node: bus.get_routercluster_node(routercluster_oid=oid, node_oid=node)
    )
    nodes = await bus.fetch_nodes(oids)
    known = {row.oid: (row.name, row.status) for row in nodes}
    return [
        Member(m.cluster_oid, m.node_oid, m.hardlimit, m.softlimit, *known.get(m.node_oid, (None, None)))
        for m in members
    ]


@n.subcommand(app, "add-node", "add_routercluster_node")
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
    dry_run: n.DryRun = False,
) -> None:
    async def work(bus: BusClient) -> Membership:
        return await bus.add_routercluster_node(
            routercluster_oid=await bus.cluster_oid(cluster),
            node_oid=await bus.node_oid(node),
            hardlimit=hardlimit,
            softlimit=softlimit,
            expect_version=expect_version,
        )

    output.done(run(work, dry_run=dry_run), f"node '{node}' added to cluster '{cluster}'")


@n.subcommand(
    app,
    "remove-node",
    "remove_routercluster_node",
    "drain_node",
    "undrain_node",
    more="The last one is removed with --yes, or when asked.",
)
def remove_node(
    cluster: n.ClusterArgument,
    node: n.NodeArgument,
    drain: Annotated[
        bool, typer.Option("--drain", help="Move its workers away first, one of each group at a time.")
    ] = False,
    yes: last_node.Yes = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Timeout of --drain, in seconds.")] = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    async def work(bus: BusClient, may: bool) -> Membership:
        oid, found = await bus.cluster_oid(cluster), await bus.find_node(node)
        if not (may or drain):
            await last_node.check(bus, found.oid, oid)
        if drain:
            await _drain(bus, oid, found, timeout, expect_version)
        gone = await bus.remove_routercluster_node(
            routercluster_oid=oid, node_oid=found.oid, expect_version=expect_version
        )
        if drain and found.draining is None:
            await bus.undrain_node(node_oid=found.oid)
        return gone

    gone = last_node.run_asking(work, yes, dry_run=dry_run)
    output.done(gone, f"node '{node}' removed from cluster '{cluster}'")


def _after_drain(cluster_oid: str, node: Node, expect_version: int | None) -> Iterator[Later]:
    title, of_node = f"node '{node.name}'", {"node_oid": node.oid}
    text = f"{title} is removed from the cluster, once nothing is left on it; the plan ends before that"
    both = {"routercluster_oid": cluster_oid, **of_node}
    yield Later("remove_routercluster_node", both, text, expect_version)
    if node.draining is None:
        text = f"{title} takes workers again; which of other clusters come there is not planned"
        yield Later("undrain_node", of_node, text)


async def _drain(
    bus: BusClient, cluster_oid: str, node: Node, timeout: float, expect_version: int | None
) -> None:
    """Drain the node, which is of this cluster alone; take that back if it can't be done.

    `expect_version` is of the removal that follows.
    """
    try:
        await last_node.check(bus, node.oid, cluster_oid)
    except last_node.Asks as asks:
        raise CliError(f"{asks}: --drain can't move them", ExitCode.CONFLICT, "cannot_drain") from None
    workers = await bus.fetch_workers(await bus.list_workers(node_oid=node.oid))
    others = sorted({w.cluster for w in workers if w.cluster_oid != cluster_oid and w.state != "STOPPED"})
    if others:
        raise CliError(
            f"node '{node.name}' runs workers of {', '.join(others)} too, which --drain would move: "
            f"see 'busbar node drain'",
            ExitCode.CONFLICT,
            "shared_node",
        )
    await then(bus, *_after_drain(cluster_oid, node, expect_version))
    async with bus.watch_statuses(kind="node", name=node.name) as watch:
        changed = await bus.drain_node(node_oid=node.oid, reason=node.draining or "removed from its cluster")
        try:
            goal, title = goals.drained(changed.version), f"node '{node.name}'"
            await wait.until(watch, goal, title, timeout, oid=node.oid)
        except (WaitTimeoutError, asyncio.CancelledError):
            if node.draining is None:
                await bus.undrain_node(node_oid=node.oid)
            raise
