"""Worker groups: so many equal workers of one runtime."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from bus import params as p
from bus.errors import BusError
from bus.states import STARTED, ClusterState
from bus.transport import check_transport
from manager.operations.base import (
    Change,
    ChangeHandler,
    ReadHandler,
    View,
    exists,
    need_cluster,
    need_group,
)
from manager.store.reads import Queries
from manager.store.rows import ClusterRow, GroupRow

LOST_AFTER: Final = 30.0
"""Seconds after which a lost node's workers move elsewhere, unless the group says otherwise."""
START_DEADLINE: Final = 60.0
"""Seconds after which a group with no ready worker is in ERROR, unless it says otherwise."""
_AT: Final = "/params/workergroup"
_WEB: Final = frozenset({"web"})
_MQTT: Final = frozenset({"mqtt", None})
_FITTING: Final = {"crossbar": _WEB, "amqtt": _MQTT, "mosquitto": _MQTT}
"""Which transport types the built-in runtimes can serve; operators' own runtimes take any."""


def result(row: GroupRow) -> p.Group:
    """A worker group as callers see it."""
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
    )


def add_routercluster_workergroup(change: Change, params: p.AddGroup) -> p.Group:
    tx, wish = change.tx, params.workergroup
    cluster = need_cluster(tx, params.routercluster_oid)
    transport = wish.transport
    if transport is not None:
        transport = check_transport(transport, f"{_AT}/transport")
    runtime = _runtime(wish, transport or cluster.transport)
    name = wish.name or _free_name(tx, cluster.oid)
    if tx.group_by_name(cluster.oid, name) is not None:
        raise exists(f"worker group '{name}' of router cluster '{cluster.name}'", f"{_AT}/name")
    row = GroupRow(
        oid=change.new_oid(),
        cluster_oid=cluster.oid,
        name=name,
        label=wish.label,
        description=wish.description,
        tags=wish.tags,
        transport=transport,
        scale=wish.scale,
        runtime=runtime,
        lost_after=LOST_AFTER if wish.lost_after is None else wish.lost_after,
        start_deadline=START_DEADLINE if wish.start_deadline is None else wish.start_deadline,
        status=ClusterState.STARTING if cluster.status in STARTED else ClusterState.STOPPED,
        reason=None,
        was_running=False,
        changed=tx.now_ns,
        version=1,
    )
    tx.insert_group(row)
    _tell(change, "added", cluster, row, {"scale": row.scale, "runtime": row.runtime})
    return result(row)


def remove_routercluster_workergroup(change: Change, params: p.GroupRef) -> p.Group:
    row = need_group(change.tx, params.routercluster_oid, params.workergroup_oid)
    if row.status is not ClusterState.STOPPED:
        detail = f"worker group '{row.name}' is {row.status}: stop its cluster first"
        raise BusError("not_stopped", detail, ["/params/workergroup_oid"])
    cluster = need_cluster(change.tx, row.cluster_oid)
    _tell(change, "removed", cluster, row, {})
    change.tx.delete_group(row, cluster.name)
    return result(row)


def scale_routercluster_workergroup(change: Change, params: p.ScaleGroup) -> p.Group:
    row = need_group(change.tx, params.routercluster_oid, params.workergroup_oid)
    change.tx.update_group(row.oid, scale=params.scale)
    now = need_group(change.tx, row.cluster_oid, row.oid)
    cluster = need_cluster(change.tx, row.cluster_oid)
    _tell(change, "scaled", cluster, now, {"scale": now.scale, "previous": row.scale})
    return result(now)


def get_routercluster_workergroup(view: View, params: p.GroupRef) -> p.Group:
    return result(need_group(view.reads, params.routercluster_oid, params.workergroup_oid))


def get_routercluster_workergroup_by_name(view: View, params: p.GroupByName) -> p.Group:
    cluster = view.reads.cluster_by_name(params.routercluster_name)
    if cluster is None:
        detail = f"no router cluster named '{params.routercluster_name}'"
        raise BusError("no_such_object", detail, ["/params/routercluster_name"])
    row = view.reads.group_by_name(cluster.oid, params.workergroup_name)
    if row is None:
        detail = f"no worker group named '{params.workergroup_name}' in router cluster '{cluster.name}'"
        raise BusError("no_such_object", detail, ["/params/workergroup_name"])
    return result(row)


def list_routercluster_workergroups(view: View, params: p.ListGroups) -> list[str]:
    """Names, or oids in the order of the names."""
    need_cluster(view.reads, params.routercluster_oid)
    return [
        group.name if params.return_names else group.oid
        for group in view.reads.groups_of(params.routercluster_oid)
        if params.filter_by_status in (None, group.status)
    ]


def _runtime(wish: p.GroupDefinition, transport: Mapping[str, Any] | None) -> str:
    """The runtime asked for, or the one that follows from the transport.

    Raises:
        BusError: `invalid_configuration`: a built-in runtime can't serve that transport.
    """
    kind = transport["type"] if transport else None
    runtime = wish.runtime or ("crossbar" if kind == "web" else "amqtt")
    fitting = _FITTING.get(runtime)
    if fitting is not None and kind not in fitting:
        given = f"a transport of type '{kind}'" if kind else "no transport"
        need = " or ".join(sorted(f"type '{word}'" if word else "none" for word in fitting))
        pointer = f"{_AT}/transport/type" if wish.transport else f"{_AT}/runtime"
        detail = f"runtime '{runtime}' can't serve {given}: it needs {need}"
        raise BusError("invalid_configuration", detail, [pointer])
    return runtime


def _free_name(store: Queries, cluster_oid: str) -> str:
    taken = {group.name for group in store.groups_of(cluster_oid)}
    return next(name for number in count(1) if (name := f"group{number}") not in taken)


def _tell(change: Change, verb: str, cluster: ClusterRow, row: GroupRow, more: Mapping[str, Any]) -> None:
    data = {"oid": row.oid, "version": row.version, "cluster_oid": cluster.oid, **more}
    change.tx.event("workergroup", verb, cluster=cluster.name, kind="workergroup", name=row.name, data=data)


READS: Final[dict[str, ReadHandler]] = {
    "get_routercluster_workergroup": get_routercluster_workergroup,
    "get_routercluster_workergroup_by_name": get_routercluster_workergroup_by_name,
    "list_routercluster_workergroups": list_routercluster_workergroups,
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "add_routercluster_workergroup": add_routercluster_workergroup,
    "remove_routercluster_workergroup": remove_routercluster_workergroup,
    "scale_routercluster_workergroup": scale_routercluster_workergroup,
}
