"""Worker groups: so many equal workers of one runtime."""

from __future__ import annotations

from itertools import count
from typing import Any, Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.placement import normal_placement
from busbar.bus.routers.definitions import LOST_AFTER, MESHED, START_DEADLINE
from busbar.bus.routers.runtimes import default_runtime
from busbar.bus.routers.transport import check_transport
from busbar.bus.states import STARTED, ClusterState
from msgspec import to_builtins

from ...publish.statuses import unaccepting
from ...store import Tx
from ...store.reads import Queries
from ...store.rows import GroupRow
from . import sizes
from .base import (
    ChangeContext,
    ChangeHandler,
    ReadContext,
    ReadHandler,
    already_exists,
    need_cluster,
    need_group,
)
from .brief import brief
from .definitions import Pointers, check_definition
from .paging import paged
from .rollout import given, record_event, roll_out

_AT: Final = "/params/workergroup"


def result(store: Queries, row: GroupRow) -> p.Group:
    """The contract's worker group of a row."""
    cluster = store.cluster(row.cluster_oid) if row.transport is None else None
    transport = row.transport if cluster is None else cluster.transport
    return p.Group(
        changed=row.changed,
        cluster_oid=row.cluster_oid,
        description=row.description,
        label=row.label,
        name=row.name,
        oid=row.oid,
        scale=row.scale,
        status=row.status,
        tags=row.tags,
        runtime=row.runtime,
        transport=row.transport,
        lost_after=row.lost_after,
        start_deadline=row.start_deadline,
        version=row.version,
        revision=row.revision,
        updated=store.updated(row.oid),
        max_unavailable=row.max_unavailable,
        max_surge=row.max_surge,
        stop_ordered=row.stop_ordered,
        mesh=row.mesh,
        refused_by=[each.node for each in unaccepting(store, row, transport)],
        placement=to_builtins(row.placement),
    )


def add_routercluster_workergroup(ctx: ChangeContext, params: p.AddGroup) -> p.Group:
    tx, definition = ctx.tx, params.workergroup
    cluster = need_cluster(tx, params.routercluster_oid)
    transport = definition.transport
    if transport is not None:
        transport = check_transport(transport, f"{_AT}/transport")
        sizes.check_definition(tx, transport, f"{_AT}/transport")
    at = "transport" if transport else "runtime"
    runtime = definition.runtime or default_runtime(transport or cluster.transport)
    check_definition(tx, cluster.oid, runtime, transport or cluster.transport, _pointers(at))
    name = definition.name or _free_name(tx, cluster.oid)
    if tx.group_by_name(cluster.oid, name) is not None:
        raise already_exists(f"worker group '{name}' of router cluster '{cluster.name}'", f"{_AT}/name")
    ctx.check_quota("groups")
    row = GroupRow(
        oid=ctx.new_oid(),
        cluster_oid=cluster.oid,
        name=name,
        label=definition.label,
        description=definition.description,
        tags=definition.tags,
        transport=transport,
        scale=definition.scale,
        runtime=runtime,
        lost_after=LOST_AFTER if definition.lost_after is None else definition.lost_after,
        start_deadline=START_DEADLINE if definition.start_deadline is None else definition.start_deadline,
        status=ClusterState.STARTING if cluster.status in STARTED else ClusterState.STOPPED,
        reason=None,
        was_running=False,
        changed=tx.now_ns,
        version=1,
        mesh=runtime in MESHED if definition.mesh is None else definition.mesh,
        placement=normal_placement(definition.placement),
    )
    tx.insert_group(row)
    sizes.check_mesh(tx, row, f"{_AT}/scale")
    if used := transport or cluster.transport:
        sizes.check_cluster(tx, cluster.oid, f"{_AT}/{at}", used)
    if row.scale:
        sizes.check_scale(tx, cluster.oid, f"{_AT}/scale")
    sizes.check_readable(tx, found := result(tx, row), _AT)
    record_event(ctx, "added", cluster, row, {"scale": row.scale, "runtime": row.runtime})
    return found


def remove_routercluster_workergroup(ctx: ChangeContext, params: p.GroupRef) -> p.Group:
    row = need_group(ctx.tx, params.routercluster_oid, params.workergroup_oid)
    if row.status is not ClusterState.STOPPED:
        detail = f"worker group '{row.name}' is {row.status}: stop it first"
        raise BusError("not_stopped", detail, ["/params/workergroup_oid"])
    cluster = need_cluster(ctx.tx, row.cluster_oid)
    record_event(ctx, "removed", cluster, row, {})
    removed = result(ctx.tx, row)
    ctx.tx.delete_group(row, cluster.name)
    return removed


def scale_routercluster_workergroup(ctx: ChangeContext, params: p.ScaleGroup) -> p.Group:
    row = need_group(ctx.tx, params.routercluster_oid, params.workergroup_oid)
    ctx.tx.update_group(row.oid, scale=params.scale)
    if params.scale > row.scale:
        sizes.check_mesh(ctx.tx, need_group(ctx.tx, row.cluster_oid, row.oid), "/params/scale")
        sizes.check_scale(ctx.tx, row.cluster_oid, "/params/scale")
    now = need_group(ctx.tx, row.cluster_oid, row.oid)
    cluster = need_cluster(ctx.tx, row.cluster_oid)
    record_event(ctx, "scaled", cluster, now, {"scale": now.scale, "previous": row.scale})
    return result(ctx.tx, now)


def update_routercluster_workergroup(ctx: ChangeContext, params: p.UpdateGroup) -> p.Group:
    """The monitor replaces the workers; one that runs the same definition only gets the new revision.

    An update that names the runtime also renews workers that their nodes would start otherwise now.
    """
    tx = ctx.tx
    row = need_group(tx, params.routercluster_oid, params.workergroup_oid)
    cluster = need_cluster(tx, row.cluster_oid)
    columns = _requested_columns(tx, params.workergroup)
    transport = columns.get("transport", row.transport) or cluster.transport
    runtime = columns.get("runtime", row.runtime)
    if {"runtime", "transport"} & columns.keys():
        at = "transport" if columns.get("transport") else "runtime"
        check_definition(tx, cluster.oid, runtime, transport, _pointers(at))
    renews = "runtime" in columns
    now = roll_out(ctx, row, columns, (runtime, transport), params, f"{_AT}/transport", renews=renews)
    if columns.get("mesh"):
        sizes.check_mesh(tx, now, f"{_AT}/mesh")
    sizes.check_readable(tx, found := result(tx, now), _AT)
    return found


def _requested_columns(tx: Tx, update: p.GroupUpdate) -> dict[str, Any]:
    """The columns that a request sets.

    Raises:
        BusError: `invalid_configuration`: the transport is invalid, or too large.
    """
    found = given(update)
    if found.get("transport") is not None:
        found["transport"] = check_transport(found["transport"], f"{_AT}/transport")
        sizes.check_definition(tx, found["transport"], f"{_AT}/transport")
    if "placement" in found:
        found["placement"] = normal_placement(found["placement"])
    return found


def get_routercluster_workergroup(ctx: ReadContext, params: p.GetGroup) -> p.Group:
    row = need_group(ctx.reads, params.routercluster_oid, params.workergroup_oid)
    return brief(result(ctx.reads, row), params.brief)


def get_routercluster_workergroup_by_name(ctx: ReadContext, params: p.GroupByName) -> p.Group:
    cluster = ctx.reads.cluster_by_name(params.routercluster_name)
    if cluster is None:
        detail = f"no router cluster named '{params.routercluster_name}'"
        raise BusError("no_such_object", detail, ["/params/routercluster_name"])
    row = ctx.reads.group_by_name(cluster.oid, params.workergroup_name)
    if row is None:
        detail = f"no worker group named '{params.workergroup_name}' in router cluster '{cluster.name}'"
        raise BusError("no_such_object", detail, ["/params/workergroup_name"])
    return brief(result(ctx.reads, row), params.brief)


def list_routercluster_workergroups(ctx: ReadContext, params: p.ListGroups) -> list[str]:
    """Names, or oids, sorted by name."""
    need_cluster(ctx.reads, params.routercluster_oid)
    return [
        group.name if params.return_names else group.oid
        for group in ctx.reads.groups_of(params.routercluster_oid)
        if params.filter_by_status in (None, group.status)
    ]


def _pointers(at: str) -> Pointers:
    """`at`: the parameter at fault when a runtime can't serve a transport."""
    mismatch = f"{_AT}/transport/type" if at == "transport" else f"{_AT}/runtime"
    return Pointers(f"{_AT}/transport", f"{_AT}/runtime", mismatch)


def _free_name(store: Queries, cluster_oid: str) -> str:
    taken = {group.name for group in store.groups_of(cluster_oid)}
    return next(name for number in count(1) if (name := f"group{number}") not in taken)


READS: Final[dict[str, ReadHandler]] = {
    "get_routercluster_workergroup": get_routercluster_workergroup,
    "get_routercluster_workergroup_by_name": get_routercluster_workergroup_by_name,
    "list_routercluster_workergroups": paged(list_routercluster_workergroups),
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "add_routercluster_workergroup": add_routercluster_workergroup,
    "remove_routercluster_workergroup": remove_routercluster_workergroup,
    "scale_routercluster_workergroup": scale_routercluster_workergroup,
    "update_routercluster_workergroup": update_routercluster_workergroup,
}
