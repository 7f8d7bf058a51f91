"""Router clusters: create, read, start, stop, delete."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.routers.exposure import check_exposure
from busbar.bus.routers.runtimes import check_for_runtime
from busbar.bus.routers.transport import check_transport
from busbar.bus.states import STARTABLE, STARTED, ClusterState, advance, may_advance
from msgspec import to_builtins

from ...store.rows import ClusterRow, GroupRow
from . import sizes
from .base import ChangeContext, ChangeHandler, ReadContext, ReadHandler, already_exists, need_cluster
from .brief import brief
from .definitions import Pointers, Transport, check_definition
from .paging import paged
from .rollout import given, roll_out

_TRANSPORT: Final = "/params/routercluster/transport"


def result(row: ClusterRow) -> p.Cluster:
    """The contract's cluster of a row."""
    return p.Cluster(
        oid=row.oid,
        name=row.name,
        label=row.label,
        description=row.description,
        tags=row.tags,
        status=row.status,
        owner_oid=row.owner_oid,
        changed=row.changed,
        version=row.version,
        transport=row.transport,
    )


def list_routerclusters(ctx: ReadContext, params: p.ListClusters) -> list[str]:
    """Names, or oids, sorted by name."""
    return [name if params.return_names else oid for oid, name in ctx.reads.cluster_keys()]


def get_routercluster(ctx: ReadContext, params: p.GetCluster) -> p.Cluster:
    return brief(result(need_cluster(ctx.reads, params.routercluster_oid)), params.brief)


def get_routercluster_by_name(ctx: ReadContext, params: p.ClusterByName) -> p.Cluster:
    row = ctx.reads.cluster_by_name(params.routercluster_name)
    if row is None:
        detail = f"no router cluster named '{params.routercluster_name}'"
        raise BusError("no_such_object", detail, ["/params/routercluster_name"])
    return brief(result(row), params.brief)


def create_routercluster(ctx: ChangeContext, params: p.CreateCluster) -> p.Cluster:
    definition = params.routercluster
    transport = definition.transport
    if transport is not None:
        transport = check_transport(transport, _TRANSPORT)
        sizes.check_definition(ctx.tx, transport, _TRANSPORT)
        check_exposure(transport, _TRANSPORT)
        check_for_runtime(transport, "", _TRANSPORT)
    if ctx.tx.cluster_by_name(definition.name) is not None:
        raise already_exists(f"router cluster '{definition.name}'", "/params/routercluster/name")
    ctx.check_quota("clusters")
    row = ClusterRow(
        oid=ctx.new_oid(),
        name=definition.name,
        label=definition.label,
        description=definition.description,
        tags=definition.tags,
        transport=transport,
        owner_oid=ctx.principal_oid,
        status=ClusterState.STOPPED,
        reason=None,
        was_running=False,
        who=None,
        request_id=None,
        changed=ctx.tx.now_ns,
        version=1,
    )
    ctx.tx.insert_cluster(row)
    sizes.check_readable(ctx.tx, found := result(row), "/params/routercluster")
    _record_event(ctx, row, "created")
    return found


def update_routercluster(ctx: ChangeContext, params: p.UpdateCluster) -> p.Cluster:
    """A new transport is rolled out to every group without one of its own, if all of them can run it."""
    tx, columns = ctx.tx, given(params.routercluster)
    before = need_cluster(tx, params.routercluster_oid)
    transport = columns.get("transport", before.transport)
    if transport is not None and "transport" in columns:
        transport = columns["transport"] = check_transport(transport, _TRANSPORT)
        sizes.check_definition(tx, transport, _TRANSPORT)
        check_for_runtime(transport, "", _TRANSPORT)
    followers = [group for group in tx.groups_of(before.oid) if group.transport is None]
    if transport != before.transport:
        for group in followers:
            _check_follower(ctx, group, transport)
        if not followers:
            check_exposure(transport, _TRANSPORT)
    if columns:
        tx.update_cluster(before.oid, **columns)
        _record_event(ctx, need_cluster(tx, before.oid), "updated")
    for group in followers if transport != before.transport else ():
        roll_out(ctx, group, {}, (group.runtime, transport), params, _TRANSPORT)
    sizes.check_readable(tx, found := result(need_cluster(tx, before.oid)), "/params/routercluster")
    return found


def _check_follower(ctx: ChangeContext, group: GroupRow, transport: Transport) -> None:
    """Raises BusError `invalid_configuration`, naming the group that could not run the transport."""
    try:
        check_definition(
            ctx.tx,
            group.cluster_oid,
            group.runtime,
            transport,
            Pointers(_TRANSPORT, _TRANSPORT, f"{_TRANSPORT}/type"),
        )
    except BusError as error:
        raise BusError(error.code, f"worker group '{group.name}': {error.detail}", error.pointers) from None


def delete_routercluster(ctx: ChangeContext, params: p.ClusterRef) -> p.Cluster:
    row = need_cluster(ctx.tx, params.routercluster_oid)
    if row.status is not ClusterState.STOPPED:
        detail = f"router cluster '{row.name}' is {row.status}: stop it first"
        raise BusError("not_stopped", detail, ["/params/routercluster_oid"])
    _record_event(ctx, row, "deleted")
    ctx.tx.delete_cluster(row)
    return result(row)


def start_routercluster(ctx: ChangeContext, params: p.ClusterRef) -> p.Accepted:
    row = need_cluster(ctx.tx, params.routercluster_oid)
    if row.status not in STARTABLE:
        detail = f"router cluster '{row.name}' is {row.status}, not STOPPED or PAUSED"
        raise BusError("cannot_start", detail, ["/params/routercluster_oid"])
    sizes.check_cluster(ctx.tx, row.oid, "/params/routercluster_oid")
    return _set_status(ctx, row, ClusterState.STARTING, "starting", f"started by {ctx.who.authid}")


def stop_routercluster(ctx: ChangeContext, params: p.ClusterRef) -> p.Accepted:
    row = need_cluster(ctx.tx, params.routercluster_oid)
    if row.status not in STARTED:
        detail = f"router cluster '{row.name}' is {row.status}, not started"
        raise BusError("cannot_stop", detail, ["/params/routercluster_oid"])
    return _set_status(ctx, row, ClusterState.STOPPING, "stopping", f"stopped by {ctx.who.authid}")


def _set_status(
    ctx: ChangeContext, row: ClusterRow, status: ClusterState, verb: str, reason: str
) -> p.Accepted:
    """Set the cluster and its groups to STARTING or STOPPING, but for groups stopped by themselves."""
    tx = ctx.tx
    facts = {"status": advance(row.status, status), "reason": reason, "was_running": False}
    tx.update_cluster(row.oid, **facts, who=to_builtins(ctx.who), request_id=ctx.request_id)
    for group in tx.groups_of(row.oid):
        if group.stop_ordered and status is ClusterState.STARTING:
            continue
        if group.status is not status and may_advance(group.status, status):
            tx.update_group(group.oid, **facts)
    now = need_cluster(tx, row.oid)
    _record_event(ctx, now, verb, reason)
    return p.Accepted(now.changed, now.oid, now.status, ctx.who, now.version)


def _record_event(ctx: ChangeContext, row: ClusterRow, verb: str, reason: str | None = None) -> None:
    data = {"oid": row.oid, "version": row.version, "status": row.status}
    if reason is not None:
        data["reason"] = reason
    ctx.tx.event("routercluster", verb, cluster=row.name, name=row.name, data=data)


READS: Final[dict[str, ReadHandler]] = {
    "list_routerclusters": paged(list_routerclusters),
    "get_routercluster": get_routercluster,
    "get_routercluster_by_name": get_routercluster_by_name,
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "create_routercluster": create_routercluster,
    "update_routercluster": update_routercluster,
    "delete_routercluster": delete_routercluster,
    "start_routercluster": start_routercluster,
    "stop_routercluster": stop_routercluster,
}
