"""Worker groups: so many equal workers of one runtime."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from busbar.bus import params as p
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.exposure import check_exposure
from busbar.bus.messages import OUTDATED
from busbar.bus.runtimes import check_for_runtime
from busbar.bus.states import STARTED, ClusterState, NodeStatus
from busbar.bus.transport import check_transport
from msgspec import UNSET

from ...planner.admission import unoffered
from ...store import Tx
from ...store.reads import Queries
from ...store.rows import ClusterRow, GroupRow
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
from .paging import paged

LOST_AFTER: Final = 30.0
"""Default: seconds after which the workers of a lost node move."""
START_DEADLINE: Final = 60.0
"""Default: seconds after which a group with no ready worker is in ERROR."""
MAX_UNAVAILABLE: Final = 1
"""Default: workers below the scale that an update may leave not ready."""
MAX_SURGE: Final = 0
"""Default: workers above the scale that an update may use."""
_AT: Final = "/params/workergroup"
_WEB: Final = frozenset({"web"})
_MQTT: Final = frozenset({"mqtt", None})
_SUPPORTED: Final = {"crossbar": _WEB, "amqtt": _MQTT, "mosquitto": _MQTT}
"""Transport types that the built-in runtimes can serve; operator-defined runtimes take any."""


def result(store: Queries, row: GroupRow) -> p.Group:
    """The contract's worker group of a row."""
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
    )


def add_routercluster_workergroup(ctx: ChangeContext, params: p.AddGroup) -> p.Group:
    tx, definition = ctx.tx, params.workergroup
    cluster = need_cluster(tx, params.routercluster_oid)
    transport = definition.transport
    if transport is not None:
        transport = check_transport(transport, f"{_AT}/transport")
        sizes.check_definition(tx, transport, f"{_AT}/transport")
    at = "transport" if transport else "runtime"
    runtime = _runtime(definition.runtime, transport or cluster.transport, at)
    _check_runs(tx, runtime, transport or cluster.transport)
    check_exposure(transport or cluster.transport, f"{_AT}/transport", runtime)
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
    )
    tx.insert_group(row)
    if used := transport or cluster.transport:
        sizes.check_cluster(tx, cluster.oid, f"{_AT}/{at}", used)
    if row.scale:
        sizes.check_scale(tx, cluster.oid, f"{_AT}/scale")
    record_event(ctx, "added", cluster, row, {"scale": row.scale, "runtime": row.runtime})
    return result(tx, row)


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
        _runtime(runtime, transport, "transport" if columns.get("transport") else "runtime")
        _check_runs(tx, runtime, transport)
        check_exposure(transport, f"{_AT}/transport", runtime)
    same = {r.revision for r in tx.revisions(row.oid) if (r.runtime, r.transport) == (runtime, transport)}
    renewed = _outdated_starts(tx, row) if "runtime" in columns else set()
    new = row.revision not in same or bool(renewed)
    columns |= rollout_limits(params, row, new)
    if new:
        columns |= {"revision": row.revision + 1, "held_back": None}
    tx.update_group(row.oid, **columns)
    if new:
        _keep_equal_workers(tx, row, same, renewed)
        if transport and len(encode(transport)) > len(encode(row.transport or cluster.transport)):
            sizes.check_cluster(tx, cluster.oid, f"{_AT}/transport", transport)
    now = need_group(tx, row.cluster_oid, row.oid)
    if new:
        more = ("revision", "runtime", "max_unavailable", "max_surge")
        record_event(ctx, "updating", cluster, now, {name: getattr(now, name) for name in more})
    return result(tx, now)


def _requested_columns(tx: Tx, update: p.GroupUpdate) -> dict[str, Any]:
    """The columns that a request sets.

    Raises:
        BusError: `invalid_configuration`: the transport is invalid, or too large.
    """
    fields = update.__struct_fields__
    found = {name: value for name in fields if (value := getattr(update, name)) is not UNSET}
    if found.get("transport") is not None:
        found["transport"] = check_transport(found["transport"], f"{_AT}/transport")
        sizes.check_definition(tx, found["transport"], f"{_AT}/transport")
    return found


def rollout_limits(params: p.UpdateGroup | p.RestartGroup, row: GroupRow, new: bool) -> dict[str, int]:
    """Raises BusError `invalid_argument` when no worker could ever be replaced."""
    before = (MAX_UNAVAILABLE, MAX_SURGE) if new else (row.max_unavailable, row.max_surge)
    unavailable = before[0] if params.max_unavailable is None else params.max_unavailable
    surge = before[1] if params.max_surge is None else params.max_surge
    if unavailable == surge == 0:
        at = "max_unavailable" if params.max_unavailable is not None else "max_surge"
        detail = "max_unavailable and max_surge are both 0: no worker could ever be replaced"
        raise BusError("invalid_argument", detail, [f"/params/{at}"])
    return {"max_unavailable": unavailable, "max_surge": surge}


def _outdated_starts(tx: Tx, row: GroupRow) -> set[str]:
    """The oids of the workers whose nodes say that they would start them otherwise now."""
    return {worker.oid for worker in tx.workers_of(row.oid) if OUTDATED in (worker.reason or "")}


def _keep_equal_workers(tx: Tx, row: GroupRow, same: set[int], renewed: set[str]) -> None:
    """Store the new revision; workers of older revisions with an equal definition keep running, except
    `renewed`."""
    for worker in tx.workers_of(row.oid):
        if worker.revision in same and worker.oid not in renewed:
            tx.update_worker(worker.oid, revision=row.revision + 1)
    tx.add_revision(row.oid)


def get_routercluster_workergroup(ctx: ReadContext, params: p.GroupRef) -> p.Group:
    row = need_group(ctx.reads, params.routercluster_oid, params.workergroup_oid)
    return result(ctx.reads, row)


def get_routercluster_workergroup_by_name(ctx: ReadContext, params: p.GroupByName) -> p.Group:
    cluster = ctx.reads.cluster_by_name(params.routercluster_name)
    if cluster is None:
        detail = f"no router cluster named '{params.routercluster_name}'"
        raise BusError("no_such_object", detail, ["/params/routercluster_name"])
    row = ctx.reads.group_by_name(cluster.oid, params.workergroup_name)
    if row is None:
        detail = f"no worker group named '{params.workergroup_name}' in router cluster '{cluster.name}'"
        raise BusError("no_such_object", detail, ["/params/workergroup_name"])
    return result(ctx.reads, row)


def list_routercluster_workergroups(ctx: ReadContext, params: p.ListGroups) -> list[str]:
    """Names, or oids, sorted by name."""
    need_cluster(ctx.reads, params.routercluster_oid)
    return [
        group.name if params.return_names else group.oid
        for group in ctx.reads.groups_of(params.routercluster_oid)
        if params.filter_by_status in (None, group.status)
    ]


def _runtime(requested: str | None, transport: Mapping[str, Any] | None, at: str) -> str:
    """The requested runtime, or the transport's default; `at` is the parameter that an error points at.

    Raises:
        BusError: `invalid_configuration`: a built-in runtime can't serve that transport.
    """
    kind = transport["type"] if transport else None
    runtime = requested or ("crossbar" if kind == "web" else "amqtt")
    supported = _SUPPORTED.get(runtime)
    if supported is not None and kind not in supported:
        given = f"a transport of type '{kind}'" if kind else "no transport"
        need = " or ".join(sorted(f"type '{word}'" if word else "none" for word in supported))
        pointer = f"{_AT}/transport/type" if at == "transport" else f"{_AT}/runtime"
        detail = f"runtime '{runtime}' can't serve {given}: it needs {need}"
        raise BusError("invalid_configuration", detail, [pointer])
    return runtime


def _check_runs(tx: Tx, runtime: str, transport: Mapping[str, Any] | None) -> None:
    """Raises BusError `invalid_configuration` for what no node would run: no worker is stopped for it."""
    offered = {
        name for node in tx.nodes() if node.status is not NodeStatus.UNPAIRED for name in node.runtimes
    }
    why = unoffered(runtime, offered)
    if why is not None:
        raise BusError("invalid_configuration", why, [f"{_AT}/runtime"])
    check_for_runtime(transport, runtime, f"{_AT}/transport")


def _free_name(store: Queries, cluster_oid: str) -> str:
    taken = {group.name for group in store.groups_of(cluster_oid)}
    return next(name for number in count(1) if (name := f"group{number}") not in taken)


def record_event(
    ctx: ChangeContext, verb: str, cluster: ClusterRow, row: GroupRow, more: Mapping[str, object]
) -> None:
    data = {"oid": row.oid, "version": row.version, "cluster_oid": cluster.oid, **more}
    ctx.tx.event("workergroup", verb, cluster=cluster.name, name=row.name, data=data)


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
