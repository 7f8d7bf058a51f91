"""busbar group: worker groups of a cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.params import Cluster, ClusterStatus, Group, Stat
from msgspec import structs

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster, complete_in_cluster, complete_runtime
from ..arguments.placement import Anywhere, On, PlacementChange, Spread
from ..arguments.scale import ScaleChange, read_scale
from ..arguments.selectors import has_tags
from ..calls import wait
from ..calls.connect import run, split_reference
from ..calls.dry_run import Later, then
from ..documents import definition as d
from ..documents.transport_patch import TransportChange, asked_change, show_change
from ..errors import usage
from ..guards.fenced import change_fenced
from ..printing import output
from ..printing.stats import print_stat, wide_columns
from .cluster import all_clusters

app = n.command_group("Worker groups of a cluster.")


class ListedGroup(Group, frozen=True):
    """A group with the name of its cluster."""

    cluster: str = ""


COLUMNS: list[output.Column[ListedGroup]] = [
    ("group", lambda g: f"{g.cluster}/{g.name}"),
    ("status", lambda g: g.status),
    ("scale", lambda g: g.scale),
    ("runtime", lambda g: g.runtime),
    ("revision", lambda g: g.revision),
    ("label", lambda g: g.label),
    ("tags", lambda g: ", ".join(g.tags or [])),
    ("version", lambda g: g.version),
]
Scale = Annotated[int, typer.Option("--scale", "-n", min=0, help="How many workers.")]
Runtime = Annotated[
    str | None,
    typer.Option(help="amqtt, mosquitto, crossbar, nats or a node's own.", autocompletion=complete_runtime),
]
LostAfter = Annotated[float | None, typer.Option(min=0, help="Seconds until workers of a lost node move.")]
StartDeadline = Annotated[float | None, typer.Option(help="Seconds until a start counts as failed.")]
Mesh = Annotated[bool | None, typer.Option(help="Tell its workers of each other, so that they act as one.")]


@n.subcommand(app, "add", "add_routercluster_workergroup", more="Without GROUP (and with -c) it gets a name.")
def add(
    group: Annotated[
        str | None,
        typer.Argument(help="cluster/group, or its name with -c.", autocompletion=complete_in_cluster),
    ] = None,
    cluster: n.ClusterOption = None,
    scale: Scale = 1,
    runtime: Runtime = None,
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    allow_anonymous: n.AllowAnonymous = False,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
    lost_after: LostAfter = None,
    start_deadline: StartDeadline = None,
    mesh: Mesh = None,
    on: On = None,
    spread: Spread = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    where, name = _place(group, cluster)
    given = d.transport_patch(transport, type, port)
    asked = TransportChange(given, replace=transport is not None, allow_anonymous=allow_anonymous)
    placement = PlacementChange(on or (), spread).of(None) or None

    async def change(bus: BusClient, found: Cluster) -> Group:
        listens = asked.of(found.transport, None, runtime)
        return await bus.add_routercluster_workergroup(
            routercluster_oid=found.oid,
            name=name,
            scale=scale,
            runtime=runtime,
            transport=listens,
            label=label,
            description=description,
            tags=tag or None,
            lost_after=lost_after,
            start_deadline=start_deadline,
            mesh=mesh,
            placement=placement,
            expect_version=expect_version,
        )

    run(lambda bus: _add(bus, where, change, wait, timeout), dry_run=dry_run)


def _place(group: str | None, cluster: str | None) -> tuple[str, str | None]:
    if group is None:
        if cluster is None:
            raise usage("which cluster? Say CLUSTER/GROUP, or use --cluster")
        return cluster, None
    where, name = split_reference(group, cluster, "group")
    return where, name or None


async def _add(
    bus: BusClient,
    where: str,
    change: Callable[[BusClient, Cluster], Awaitable[Group]],
    waits: bool,
    timeout: float,
) -> None:
    found = await bus.find_cluster(where)
    async with bus.watch_statuses(kind="workergroup", cluster=found.name) as watch:
        made = await change(bus, found)
        title, reached = f"group '{found.name}/{made.name}'", None
        if waits:
            goal = goals.scaled(made.version, made.scale)
            reached = await wait.until(watch, goal, title, timeout, name=made.name, oid=made.oid)
    status = reached.status if reached else made.status
    output.done(output.merged(made, reached), f"{title} added, {status}")


@n.subcommand(
    app,
    "list",
    "list_routercluster_workergroups",
    "get_routercluster_workergroup",
    "stat_routercluster_workergroup",
)
def list_(
    cluster: Annotated[
        str | None, typer.Argument(help="Only this cluster's.", autocompletion=complete_cluster)
    ] = None,
    cluster_option: n.ClusterOption = None,
    status: Annotated[
        ClusterStatus | None, typer.Option("--status", help="Only groups in this status.")
    ] = None,
    tag: n.WithTag = None,
    quiet: n.Quiet = False,
) -> None:
    listed, stats = run(lambda bus: _list_with_stats(bus, cluster or cluster_option, status))
    found = [g for g in listed if has_tags(g.tags, tag)]
    found.sort(key=lambda g: (g.cluster, g.name))
    if quiet:
        return output.show_names([f"{g.cluster}/{g.name}" for g in found])
    wide = wide_columns(stats)
    return output.show_list(found, COLUMNS, "no groups", wide=wide)


async def _list_with_stats(
    bus: BusClient, cluster: str | None, status: ClusterStatus | None
) -> tuple[list[ListedGroup], dict[str, Stat]]:
    """The groups, and where there is room for them their statistics."""
    found = await _list(bus, cluster, status)

    where = {group.oid: group.cluster_oid for group in found} if output.is_wide() else {}
    stats = await bus.fetch_each(
        list(where),
        lambda oid: bus.stat_routercluster_workergroup(routercluster_oid=where[oid], workergroup_oid=oid),
    )
    return found, {each.oid: each for each in stats}


async def _list(bus: BusClient, cluster: str | None, status: ClusterStatus | None) -> list[ListedGroup]:
    clusters = await all_clusters(bus) if cluster is None else [await bus.find_cluster(cluster)]
    found = []
    for row in clusters:
        oids = await bus.list_routercluster_workergroups(routercluster_oid=row.oid, filter_by_status=status)
        groups = await _fetch(bus, row.oid, oids)
        found += [ListedGroup(**structs.asdict(group), cluster=row.name) for group in groups]
    return found


async def _fetch(bus: BusClient, cluster_oid: str, oids: list[str]) -> list[Group]:
    return await bus.fetch_groups(cluster_oid, oids)


async def _find(bus: BusClient, group: str, cluster: str | None, *, whole: bool = False) -> Group:
    where, name = split_reference(group, cluster, "group")
    return await bus.find_group(name, where, whole=whole)


@n.subcommand(app, "show", "get_routercluster_workergroup_by_name", "get_routercluster_workergroup")
def show(group: n.GroupArgument, cluster: n.ClusterOption = None) -> None:
    found = run(lambda bus: _find(bus, group, cluster))
    if output.output_format() == "name":
        return output.say(f"{split_reference(group, cluster, 'group')[0]}/{found.name}")
    return output.show_object(found)


@n.subcommand(
    app,
    "scale",
    "scale_routercluster_workergroup",
    more="+N and -N change it by N workers.",
    # So that -1 reaches the argument.
    context_settings={"ignore_unknown_options": True},
)
def scale(
    group: n.GroupArgument,
    scale: Annotated[str, typer.Argument(help="How many workers; +N or -N: so many more or fewer.")],
    cluster: n.ClusterOption = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    change = read_scale(scale)
    run(lambda bus: _scale(bus, group, cluster, change, wait, timeout, expect_version), dry_run=dry_run)


async def _scale(
    bus: BusClient,
    group: str,
    cluster: str | None,
    change: ScaleChange,
    waits: bool,
    timeout: float,
    expect_version: int | None,
) -> None:
    async def scale_group(found: Group, fence: int | None) -> Group:
        return await bus.scale_routercluster_workergroup(
            routercluster_oid=found.cluster_oid,
            workergroup_oid=found.oid,
            scale=change.of(found.scale),
            expect_version=fence,
        )

    found = await _find(bus, group, cluster)
    where = (await bus.find_cluster(found.cluster_oid)).name
    async with bus.watch_statuses(kind="workergroup", cluster=where, name=found.name) as watch:
        before, changed = await change_fenced(
            lambda: _find(bus, group, cluster), scale_group, expect_version, computed=change.relative
        )
        title, reached = f"group '{where}/{found.name}'", None
        if waits:
            goal = goals.scaled(changed.version, changed.scale)
            reached = await wait.until(watch, goal, title, timeout, oid=found.oid)
    status = reached.status if reached else changed.status
    since = f" from {before.scale}" if change.relative else ""
    output.done(output.merged(changed, reached), f"{title} scaled{since} to {changed.scale}, {status}")


@n.subcommand(app, "update", "update_routercluster_workergroup")
def update(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    runtime: Runtime = None,
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    replace_transport: n.ReplaceTransport = False,
    allow_anonymous: n.AllowAnonymous = False,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
    lost_after: LostAfter = None,
    start_deadline: StartDeadline = None,
    mesh: Mesh = None,
    on: On = None,
    spread: Spread = None,
    anywhere: Anywhere = False,
    max_unavailable: n.MaxUnavailable = None,
    max_surge: n.MaxSurge = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    patch = d.transport_patch(transport, type, port)
    asked, places = (
        asked_change(patch, transport, replace_transport, allow_anonymous),
        PlacementChange(on or (), spread, anywhere),
    )
    flags = (allow_anonymous or None, tag or None, places or None)
    plain = (runtime, patch, label, description, lost_after, start_deadline, mesh, max_unavailable, max_surge)
    if all(option is None for option in (*plain, *flags)):
        raise usage("what is to change? Say --transport, --runtime, --port or another option")

    async def change(bus: BusClient, found: Group, fence: int | None) -> Group:
        listens = await _patched(bus, found, asked, runtime)
        return await bus.update_routercluster_workergroup(
            routercluster_oid=found.cluster_oid,
            workergroup_oid=found.oid,
            runtime=d.or_unset(runtime),
            transport=d.or_unset(listens),
            label=d.or_unset(label),
            description=d.or_unset(description),
            tags=d.or_unset(tag or None),
            lost_after=d.or_unset(lost_after),
            start_deadline=d.or_unset(start_deadline),
            mesh=d.or_unset(mesh),
            placement=places.of(found.placement),
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            expect_version=fence,
        )

    # A patch is of the version that was read.
    computed = bool(asked or runtime or places)
    run(
        lambda bus: _update(bus, group, cluster, change, computed, expect_version, wait, timeout),
        dry_run=dry_run,
    )


async def _patched(
    bus: BusClient, found: Group, asked: TransportChange, runtime: str | None
) -> dict[str, Any] | None:
    """The transport that an update asks for, None when it stays; what differs is shown first."""
    whole = found.transport is None and bool(asked or runtime)
    cluster = await bus.find_cluster(found.cluster_oid, whole=whole)
    present = found.transport or cluster.transport
    listens = asked.of(present, found.runtime, runtime or found.runtime)
    show_change(f"group '{cluster.name}/{found.name}'", present, listens)
    return listens


async def _update(
    bus: BusClient,
    group: str,
    cluster: str | None,
    change: Callable[[BusClient, Group, int | None], Awaitable[Group]],
    computed: bool,
    expect_version: int | None,
    waits: bool,
    timeout: float,
) -> None:
    found = await _find(bus, group, cluster)
    where = (await bus.find_cluster(found.cluster_oid)).name
    async with bus.watch_statuses(kind="workergroup", cluster=where, name=found.name) as watch:
        _, changed = await change_fenced(
            lambda: _find(bus, group, cluster, whole=computed),
            lambda group, fence: change(bus, group, fence),
            expect_version,
            computed=computed,
        )
        title, reached = f"group '{where}/{found.name}'", None
        if waits:
            goal = goals.updated(changed.version, changed.revision)
            with wait.way_back(where):
                reached = await wait.until(watch, goal, title, timeout, oid=found.oid)
    status = reached.status if reached else changed.status
    output.done(output.merged(changed, reached), f"{title} has revision {changed.revision}, {status}")


@n.subcommand(app, "start", "start_routercluster_workergroup")
def start(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    async def change(bus: BusClient, found: Group) -> Group:
        return await bus.start_routercluster_workergroup(
            routercluster_oid=found.cluster_oid, workergroup_oid=found.oid, expect_version=expect_version
        )

    def goal(group: Group) -> goals.Goal:
        return goals.scaled(group.version, group.scale)

    run(lambda bus: _order(bus, group, cluster, change, goal if wait else None, timeout), dry_run=dry_run)


@n.subcommand(app, "stop", "stop_routercluster_workergroup")
def stop(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    async def change(bus: BusClient, found: Group) -> Group:
        return await bus.stop_routercluster_workergroup(
            routercluster_oid=found.cluster_oid, workergroup_oid=found.oid, expect_version=expect_version
        )

    run(lambda bus: _order(bus, group, cluster, change, _stopped if wait else None, timeout), dry_run=dry_run)


@n.subcommand(app, "restart", "restart_routercluster_workergroup")
def restart(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    max_unavailable: n.MaxUnavailable = None,
    max_surge: n.MaxSurge = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    async def change(bus: BusClient, found: Group) -> Group:
        return await bus.restart_routercluster_workergroup(
            routercluster_oid=found.cluster_oid,
            workergroup_oid=found.oid,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            expect_version=expect_version,
        )

    def goal(group: Group) -> goals.Goal:
        return goals.updated(group.version, group.revision)

    run(
        lambda bus: _order(bus, group, cluster, change, goal if wait else None, timeout, "restarted, "),
        dry_run=dry_run,
    )


def _stopped(group: Group) -> goals.Goal:
    return goals.stopped(group.version)


async def _order(
    bus: BusClient,
    group: str,
    cluster: str | None,
    change: Callable[[BusClient, Group], Awaitable[Group]],
    goal: Callable[[Group], goals.Goal] | None,
    timeout: float,
    done: str = "",
) -> None:
    """Give an order to a group, and wait for the goal that follows from the answer, if there is one."""
    found = await _find(bus, group, cluster)
    where = (await bus.find_cluster(found.cluster_oid)).name
    title, reached = f"group '{where}/{found.name}'", None
    async with bus.watch_statuses(kind="workergroup", cluster=where, name=found.name) as watch:
        changed = await change(bus, found)
        if goal is not None and not (changed.stop_ordered and changed.status == "STOPPED"):
            reached = await wait.until(watch, goal(changed), title, timeout, oid=found.oid)
    status = reached.status if reached else changed.status
    output.done(output.merged(changed, reached), f"{title} is {done}{status}")


@n.subcommand(app, "remove", "remove_routercluster_workergroup", "stop_routercluster_workergroup")
def remove(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it first, and wait for that.")] = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    run(lambda bus: _remove(bus, group, cluster, stop, timeout, expect_version), dry_run=dry_run)


async def _remove(
    bus: BusClient, group: str, cluster: str | None, stop: bool, timeout: float, expect_version: int | None
) -> None:
    found = await _find(bus, group, cluster)
    where = (await bus.find_cluster(found.cluster_oid)).name
    async with bus.watch_statuses(kind="workergroup", cluster=where, name=found.name) as watch:
        title = f"group '{where}/{found.name}'"
        if stop and found.status != "STOPPED":
            ordered = "stop_routercluster_workergroup" if found.stop_ordered else None
            both: dict[str, Any] = {"routercluster_oid": found.cluster_oid, "workergroup_oid": found.oid}
            text = f"{title} is removed, once it has stopped; the plan ends before that"
            await then(bus, Later("remove_routercluster_workergroup", both, text), ordered=ordered)
            if not found.stop_ordered:
                found = await bus.stop_routercluster_workergroup(**both, expect_version=expect_version)
                expect_version = None
            await wait.until(watch, goals.stopped(found.version), title, timeout, oid=found.oid)
        gone = await bus.remove_routercluster_workergroup(
            routercluster_oid=found.cluster_oid, workergroup_oid=found.oid, expect_version=expect_version
        )
    output.done(gone, f"group '{gone.name}' removed")


@n.subcommand(app, "stat", "stat_routercluster_workergroup")
def stat(group: n.GroupArgument, cluster: n.ClusterOption = None) -> None:
    async def work(bus: BusClient) -> Stat:
        found = await _find(bus, group, cluster)
        return await bus.stat_routercluster_workergroup(
            routercluster_oid=found.cluster_oid, workergroup_oid=found.oid
        )

    print_stat(run(work))
