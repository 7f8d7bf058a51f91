"""Router clusters: create, look at, start, stop, delete."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.states import STARTABLE, STARTED, ClusterState, advance, may_advance
from busbar.bus.transport import check_transport
from msgspec import to_builtins

from ...store.rows import ClusterRow
from .base import Change, ChangeHandler, ReadHandler, View, exists, need_cluster


def result(row: ClusterRow) -> p.Cluster:
    """A cluster as callers see it."""
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


def list_routerclusters(view: View, params: p.ListClusters) -> list[str]:
    """Names, or oids in the order of the names."""
    return [name if params.return_names else oid for oid, name in view.reads.cluster_keys()]


def get_routercluster(view: View, params: p.ClusterRef) -> p.Cluster:
    return result(need_cluster(view.reads, params.routercluster_oid))


def get_routercluster_by_name(view: View, params: p.ClusterByName) -> p.Cluster:
    row = view.reads.cluster_by_name(params.routercluster_name)
    if row is None:
        detail = f"no router cluster named '{params.routercluster_name}'"
        raise BusError("no_such_object", detail, ["/params/routercluster_name"])
    return result(row)


def create_routercluster(change: Change, params: p.CreateCluster) -> p.Cluster:
    wish = params.routercluster
    transport = wish.transport
    if transport is not None:
        transport = check_transport(transport, "/params/routercluster/transport")
    if change.tx.cluster_by_name(wish.name) is not None:
        raise exists(f"router cluster '{wish.name}'", "/params/routercluster/name")
    row = ClusterRow(
        oid=change.new_oid(),
        name=wish.name,
        label=wish.label,
        description=wish.description,
        tags=wish.tags,
        transport=transport,
        owner_oid=change.principal_oid,
        status=ClusterState.STOPPED,
        reason=None,
        was_running=False,
        who=None,
        request_id=None,
        changed=change.tx.now_ns,
        version=1,
    )
    change.tx.insert_cluster(row)
    _tell(change, row, "created")
    return result(row)


def delete_routercluster(change: Change, params: p.ClusterRef) -> p.Cluster:
    row = need_cluster(change.tx, params.routercluster_oid)
    if row.status is not ClusterState.STOPPED:
        detail = f"router cluster '{row.name}' is {row.status}: stop it first"
        raise BusError("not_stopped", detail, ["/params/routercluster_oid"])
    _tell(change, row, "deleted")
    change.tx.delete_cluster(row)
    return result(row)


def start_routercluster(change: Change, params: p.ClusterRef) -> p.Accepted:
    row = need_cluster(change.tx, params.routercluster_oid)
    if row.status not in STARTABLE:
        detail = f"router cluster '{row.name}' is {row.status}, not STOPPED or PAUSED"
        raise BusError("cannot_start", detail, ["/params/routercluster_oid"])
    return _turn(change, row, ClusterState.STARTING, "starting", f"started by {change.who.authid}")


def stop_routercluster(change: Change, params: p.ClusterRef) -> p.Accepted:
    row = need_cluster(change.tx, params.routercluster_oid)
    if row.status not in STARTED:
        detail = f"router cluster '{row.name}' is {row.status}, not started"
        raise BusError("cannot_stop", detail, ["/params/routercluster_oid"])
    return _turn(change, row, ClusterState.STOPPING, "stopping", f"stopped by {change.who.authid}")


def _turn(change: Change, row: ClusterRow, status: ClusterState, verb: str, reason: str) -> p.Accepted:
    """Set the cluster and its groups STARTING or STOPPING; the monitor does the rest."""
    tx = change.tx
    facts = {"status": advance(row.status, status), "reason": reason, "was_running": False}
    tx.update_cluster(row.oid, **facts, who=to_builtins(change.who), request_id=change.request_id)
    for group in tx.groups_of(row.oid):
        if group.status is not status and may_advance(group.status, status):
            tx.update_group(group.oid, **facts)
    now = need_cluster(tx, row.oid)
    _tell(change, now, verb, reason)
    return p.Accepted(now.changed, now.oid, now.status, change.who, now.version)


def _tell(change: Change, row: ClusterRow, verb: str, reason: str | None = None) -> None:
    data = {"oid": row.oid, "version": row.version, "status": row.status}
    if reason is not None:
        data["reason"] = reason
    change.tx.event(
        "routercluster", verb, cluster=row.name, kind="routercluster", name=row.name, data=dict(data)
    )


READS: Final[dict[str, ReadHandler]] = {
    "list_routerclusters": list_routerclusters,
    "get_routercluster": get_routercluster,
    "get_routercluster_by_name": get_routercluster_by_name,
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "create_routercluster": create_routercluster,
    "delete_routercluster": delete_routercluster,
    "start_routercluster": start_routercluster,
    "stop_routercluster": stop_routercluster,
}
