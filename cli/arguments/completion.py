"""Completion of names: asked of the manager that the line names; nothing when it does not answer soon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from busbar.bus.client.client import BusClient

    Ask = Callable[[BusClient], Awaitable[Iterable[str]]]

REVISIONS: Final = 20
"""Revisions that are offered, the last first."""


def complete_cluster(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of clusters."""
    return _complete(ctx, lambda bus: bus.list_routerclusters(return_names=True), incomplete)


def complete_in_cluster(ctx: typer.Context, incomplete: str) -> list[str]:
    """Clusters with the slash after which a new group's name stands."""
    return [] if "/" in incomplete else [f"{name}/" for name in complete_cluster(ctx, incomplete)]


def complete_node(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of nodes."""
    return _complete(ctx, lambda bus: bus.list_nodes(return_names=True), incomplete)


def complete_group(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of groups, as cluster/group; of a cluster that the line names alone."""
    return _complete_within(
        ctx,
        incomplete,
        lambda bus, oid: bus.list_routercluster_workergroups(routercluster_oid=oid, return_names=True),
    )


def complete_worker(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of workers, as cluster/worker; of a cluster that the line names alone."""
    return _complete_within(
        ctx, incomplete, lambda bus, oid: bus.list_workers(routercluster_oid=oid, return_names=True)
    )


def complete_in(ctx: typer.Context, incomplete: str) -> list[str]:
    """Clusters, and after the slash their groups and workers."""
    names = {*complete_group(ctx, incomplete), *complete_worker(ctx, incomplete)}
    plain = [] if "/" in incomplete or _cluster(ctx) else complete_cluster(ctx, incomplete)
    return [*plain, *sorted(names)]


def complete_object(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of clusters and nodes; after a slash those of the cluster's groups and workers."""
    return complete_in(ctx, incomplete) + ([] if "/" in incomplete else complete_node(ctx, incomplete))


def complete_runtime(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runtimes that nodes offer."""

    async def ask(bus: BusClient) -> list[str]:
        nodes = await bus.fetch_nodes(await bus.list_nodes())
        return [name for node in nodes for name in node.runtimes]

    return _complete(ctx, ask, incomplete)


def complete_tag(ctx: typer.Context, incomplete: str) -> list[str]:
    """The tags that clusters and groups have."""

    async def ask(bus: BusClient) -> list[str]:
        clusters = (await bus.get_definitions()).get("clusters", {}).values()
        groups = [group for cluster in clusters for group in cluster.get("groups", {}).values()]
        return [tag for row in (*clusters, *groups) for tag in row.get("tags") or ()]

    return _complete(ctx, ask, incomplete)


def complete_label(ctx: typer.Context, incomplete: str) -> list[str]:
    """The labels that nodes have, as key=value."""

    async def ask(bus: BusClient) -> list[str]:
        nodes = await bus.fetch_nodes(await bus.list_nodes())
        return [f"{key}={value}" for node in nodes for key, value in (node.labels or {}).items()]

    return _complete(ctx, ask, incomplete)


def complete_label_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the labels that nodes have."""
    found = (label.partition("=")[0] for label in complete_label(ctx, ""))
    return [name for name in sorted({*found}) if name.startswith(incomplete)]


def complete_listener(ctx: typer.Context, incomplete: str) -> list[str]:
    """The listeners of the group that the line names."""

    async def ask(bus: BusClient) -> list[str]:
        where, _, name = _first(ctx, "group").rpartition("/")
        group = await bus.find_group(name, where or _cluster(ctx))
        stat = await bus.stat_routercluster_workergroup(
            routercluster_oid=group.cluster_oid, workergroup_oid=group.oid
        )
        return [endpoint.name for endpoint in stat.endpoints]

    return _complete(ctx, ask, incomplete)


def complete_principal(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of principals."""

    async def ask(bus: BusClient) -> list[str]:
        return [row.name for row in await bus.list_principals()]

    return _complete(ctx, ask, incomplete)


def complete_caller(ctx: typer.Context, incomplete: str) -> list[str]:
    """Who may have asked: principals and nodes."""
    return sorted({*complete_principal(ctx, incomplete), *complete_node(ctx, incomplete)})


def complete_revision(ctx: typer.Context, incomplete: str) -> list[str]:
    """The revisions of the cluster that the line names."""

    async def ask(bus: BusClient) -> list[str]:
        oid = await bus.cluster_oid(_first(ctx, "cluster"))
        rows = await bus.list_routercluster_revisions(routercluster_oid=oid, limit=REVISIONS)
        return [str(row.revision) for row in rows]

    return _complete(ctx, ask, incomplete)


def complete_operation(incomplete: str) -> list[str]:
    """Names of operations."""
    from busbar.bus.contract import OPERATIONS

    return [name for name in OPERATIONS if name.startswith(incomplete)]


def complete_event_type(incomplete: str) -> list[str]:
    """Types of events, and the kinds of objects that stand for all of theirs."""
    from busbar.bus.events import EVENTS

    types = [*EVENTS, *(f"{kind}_{verb}" for kind, verbs in EVENTS.items() for verb in verbs)]
    return [name for name in types if name.startswith(incomplete)]


def complete_context(incomplete: str) -> list[str]:
    """Names of contexts."""
    import os

    from ..context import config_path, load_config
    from ..errors import CliError

    try:
        return [name for name in load_config(config_path(os.environ)).contexts if name.startswith(incomplete)]
    except CliError:
        return []


def _cluster(ctx: typer.Context) -> str | None:
    """What --cluster says so far."""
    found = ctx.params.get("cluster")
    return found if isinstance(found, str) else None


def _first(ctx: typer.Context, argument: str) -> str:
    """The command's first argument: not parsed where an option's value is completed."""
    return str(ctx.params.get(argument) or next(iter(ctx.args), ""))


def _complete_within(
    ctx: typer.Context, incomplete: str, names: Callable[[BusClient, str], Awaitable[list[str]]]
) -> list[str]:
    """Clusters, and after the slash what `names` finds in the cluster with an oid."""
    given = _cluster(ctx)
    if "/" not in incomplete and given is None:
        return complete_in_cluster(ctx, incomplete)
    where = incomplete.partition("/")[0] if "/" in incomplete else str(given)

    async def ask(bus: BusClient) -> list[str]:
        found = await names(bus, await bus.cluster_oid(where))
        return [f"{where}/{name}" for name in found] if "/" in incomplete else found

    return _complete(ctx, ask, incomplete)


def _complete(ctx: typer.Context, ask: Ask, incomplete: str) -> list[str]:
    from ..calls.connect import run_for_completion

    _heed(ctx)
    found = run_for_completion(ask) or ()
    return list(dict.fromkeys(name for name in found if name.startswith(incomplete)))


def _heed(ctx: typer.Context) -> None:
    """Take over the global options that the line has so far, the last ones of all."""
    from ..context import global_options, set_global_options
    from ..lazy import GLOBAL

    given: dict[str, Any] = {}
    at: Any = ctx
    while at is not None:
        given = {name: at.params[name] for name in GLOBAL if at.params.get(name) is not None} | given
        at = at.parent
    set_global_options(global_options().merged(given))
