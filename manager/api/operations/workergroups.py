"""Worker groups: so many equal workers of one runtime."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.states import STARTED, ClusterState
from busbar.bus.transport import check_transport
from msgspec import UNSET

from ...store import Tx
from ...store.reads import Queries
from ...store.rows import ClusterRow, GroupRow
from .base import Change, ChangeHandler, ReadHandler, View, exists, need_cluster, need_group

LOST_AFTER: Final = 30.0
"""Seconds after which a lost node's workers move elsewhere, unless the group says otherwise."""
START_DEADLINE: Final = 60.0
"""Seconds after which a group with no ready worker is in ERROR, unless it says otherwise."""
MAX_UNAVAILABLE: Final = 1
"""Workers below the scale that an update may leave not ready, unless it says otherwise …"""
MAX_SURGE: Final = 0
"""… and workers above the scale that it may use."""
_AT: Final = "/params/workergroup"
_WEB: Final = frozenset({"web"})
_MQTT: Final = frozenset({"mqtt", None})
_FITTING: Final = {"crossbar": _WEB, "amqtt": _MQTT, "mosquitto": _MQTT}
"""Which transport types the built-in runtimes can serve; operators' own runtimes take any."""


def result(store: Queries, row: GroupRow) -> p.Group:
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
        revision=row.revision,
        updated=store.updated(row.oid),
        max_unavailable=row.max_unavailable,
        max_surge=row.max_surge,
    )


def add_routercluster_workergroup(change: Change, params: p.AddGroup) -> p.Group:
    tx, wish = change.tx, params.workergroup
    cluster = need_cluster(tx, params.routercluster_oid)
    transport = wish.transport
    if transport is not None:
        transport = check_transport(transport, f"{_AT}/transport")
    runtime = _runtime(wish.runtime, transport or cluster.transport, "transport" if transport else "runtime")
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
    return result(tx, row)


def remove_routercluster_workergroup(change: Change, params: p.GroupRef) -> p.Group:
    row = need_group(change.tx, params.routercluster_oid, params.workergroup_oid)
    if row.status is not ClusterState.STOPPED:
        detail = f"worker group '{row.name}' is {row.status}: stop its cluster first"
        raise BusError("not_stopped", detail, ["/params/workergroup_oid"])
    cluster = need_cluster(change.tx, row.cluster_oid)
    _tell(change, "removed", cluster, row, {})
    gone = result(change.tx, row)
    change.tx.delete_group(row, cluster.name)
    return gone


def scale_routercluster_workergroup(change: Change, params: p.ScaleGroup) -> p.Group:
    row = need_group(change.tx, params.routercluster_oid, params.workergroup_oid)
    change.tx.update_group(row.oid, scale=params.scale)
    now = need_group(change.tx, row.cluster_oid, row.oid)
    cluster = need_cluster(change.tx, row.cluster_oid)
    _tell(change, "scaled", cluster, now, {"scale": now.scale, "previous": row.scale})
    return result(change.tx, now)


def update_routercluster_workergroup(change: Change, params: p.UpdateGroup) -> p.Group:
    """The monitor renews the workers; one that runs the same definition already is only relabelled."""
    tx = change.tx
    row = need_group(tx, params.routercluster_oid, params.workergroup_oid)
    cluster = need_cluster(tx, row.cluster_oid)
    columns = _wished(params.workergroup)
    transport = columns.get("transport", row.transport) or cluster.transport
    runtime = columns.get("runtime", row.runtime)
    if {"runtime", "transport"} & columns.keys():
        _runtime(runtime, transport, "transport" if columns.get("transport") else "runtime")
    same = {r.revision for r in tx.revisions(row.oid) if (r.runtime, r.transport) == (runtime, transport)}
    new = row.revision not in same
    columns |= _limits(params, row, new)
    if new:
        columns |= {"revision": row.revision + 1, "held_back": None}
    tx.update_group(row.oid, **columns)
    if new:
        _adopt(tx, row, same)
    now = need_group(tx, row.cluster_oid, row.oid)
    if new:
        more = ("revision", "runtime", "max_unavailable", "max_surge")
        _tell(change, "updating", cluster, now, {name: getattr(now, name) for name in more})
    return result(tx, now)


def _wished(wish: p.GroupUpdate) -> dict[str, Any]:
    """The columns that a request sets.

    Raises:
        BusError: `invalid_configuration`: the transport is none.
    """
    found = {name: value for name in wish.__struct_fields__ if (value := getattr(wish, name)) is not UNSET}
    if found.get("transport") is not None:
        found["transport"] = check_transport(found["transport"], f"{_AT}/transport")
    return found


def _limits(params: p.UpdateGroup, row: GroupRow, new: bool) -> dict[str, int]:
    """Raises BusError `invalid_argument` when nothing could ever be renewed."""
    before = (MAX_UNAVAILABLE, MAX_SURGE) if new else (row.max_unavailable, row.max_surge)
    unavailable = before[0] if params.max_unavailable is None else params.max_unavailable
    surge = before[1] if params.max_surge is None else params.max_surge
    if unavailable == surge == 0:
        at = "max_unavailable" if params.max_unavailable is not None else "max_surge"
        detail = "max_unavailable and max_surge are both 0: no worker could ever be renewed"
        raise BusError("invalid_argument", detail, [f"/params/{at}"])
    return {"max_unavailable": unavailable, "max_surge": surge}


def _adopt(tx: Tx, row: GroupRow, same: set[int]) -> None:
    """Keep the new revision; workers of older ones that run the very same need not be touched."""
    for worker in tx.workers_of(row.oid):
        if worker.revision in same:
            tx.update_worker(worker.oid, revision=row.revision + 1)
    tx.add_revision(row.oid)


def get_routercluster_workergroup(view: View, params: p.GroupRef) -> p.Group:
    row = need_group(view.reads, params.routercluster_oid, params.workergroup_oid)
    return result(view.reads, row)


def get_routercluster_workergroup_by_name(view: View, params: p.GroupByName) -> p.Group:
    cluster = view.reads.cluster_by_name(params.routercluster_name)
    if cluster is None:
        detail = f"no router cluster named '{params.routercluster_name}'"
        raise BusError("no_such_object", detail, ["/params/routercluster_name"])
    row = view.reads.group_by_name(cluster.oid, params.workergroup_name)
    if row is None:
        detail = f"no worker group named '{params.workergroup_name}' in router cluster '{cluster.name}'"
        raise BusError("no_such_object", detail, ["/params/workergroup_name"])
    return result(view.reads, row)


def list_routercluster_workergroups(view: View, params: p.ListGroups) -> list[str]:
    """Names, or oids in the order of the names."""
    need_cluster(view.reads, params.routercluster_oid)
    return [
        group.name if params.return_names else group.oid
        for group in view.reads.groups_of(params.routercluster_oid)
        if params.filter_by_status in (None, group.status)
    ]


def _runtime(wish: str | None, transport: Mapping[str, Any] | None, at: str) -> str:
    """The runtime asked for, or the one that follows from the transport; `at` is the member to blame.

    Raises:
        BusError: `invalid_configuration`: a built-in runtime can't serve that transport.
    """
    kind = transport["type"] if transport else None
    runtime = wish or ("crossbar" if kind == "web" else "amqtt")
    fitting = _FITTING.get(runtime)
    if fitting is not None and kind not in fitting:
        given = f"a transport of type '{kind}'" if kind else "no transport"
        need = " or ".join(sorted(f"type '{word}'" if word else "none" for word in fitting))
        pointer = f"{_AT}/transport/type" if at == "transport" else f"{_AT}/runtime"
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
    "update_routercluster_workergroup": update_routercluster_workergroup,
}
