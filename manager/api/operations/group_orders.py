"""Orders to one worker group: stop, start, restart."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.states import STARTED, ClusterState, may_advance

from ...store.rows import GroupRow
from .base import ChangeContext, ChangeHandler, ReadHandler, need_cluster, need_group
from .rollout import record_event, rollout_limits
from .workergroups import result

_AT: Final = "/params/workergroup_oid"


def stop_routercluster_workergroup(ctx: ChangeContext, params: p.GroupRef) -> p.Group:
    row = need_group(ctx.tx, params.routercluster_oid, params.workergroup_oid)
    if row.stop_ordered:
        raise BusError("cannot_stop", f"worker group '{row.name}' is stopped by itself already", [_AT])
    return _order(ctx, row, ClusterState.STOPPING, stopped=True)


def start_routercluster_workergroup(ctx: ChangeContext, params: p.GroupRef) -> p.Group:
    """In a cluster that is not started the group stays STOPPED, and starts with it."""
    row = need_group(ctx.tx, params.routercluster_oid, params.workergroup_oid)
    if not row.stop_ordered:
        detail = f"worker group '{row.name}' is not stopped by itself: it starts and stops with its cluster"
        raise BusError("cannot_start", detail, [_AT])
    if row.status is not ClusterState.STOPPED:
        raise BusError("cannot_start", f"worker group '{row.name}' is {row.status}, not STOPPED", [_AT])
    return _order(ctx, row, ClusterState.STARTING, stopped=False)


def restart_routercluster_workergroup(ctx: ChangeContext, params: p.RestartGroup) -> p.Group:
    """A rollout to a new revision of the same definition."""
    row = need_group(ctx.tx, params.routercluster_oid, params.workergroup_oid)
    if row.status not in STARTED:
        raise BusError("cannot_start", f"worker group '{row.name}' is {row.status}, not started", [_AT])
    limits = rollout_limits(params, row, True)
    ctx.tx.update_group(row.oid, revision=row.revision + 1, held_back=None, **limits)
    ctx.tx.add_revision(row.oid)
    now = need_group(ctx.tx, row.cluster_oid, row.oid)
    more = {name: getattr(now, name) for name in ("revision", "runtime", "max_unavailable", "max_surge")}
    record_event(ctx, "updating", need_cluster(ctx.tx, row.cluster_oid), now, more)
    return result(ctx.tx, now)


def _order(ctx: ChangeContext, row: GroupRow, status: ClusterState, *, stopped: bool) -> p.Group:
    """Set the group to this status, where its present one and its cluster's allow it; the monitor does the
    rest."""
    cluster = need_cluster(ctx.tx, row.cluster_oid)
    reason = f"{'stopped' if stopped else 'started'} by {ctx.who.authid}"
    ctx.tx.update_group(row.oid, stop_ordered=stopped, reason=reason)
    if cluster.status in STARTED and may_advance(row.status, status):
        ctx.tx.update_group(row.oid, status=status, was_running=False)
    now = need_group(ctx.tx, row.cluster_oid, row.oid)
    verb = "stopping" if stopped else "starting"
    record_event(ctx, verb, cluster, now, {"status": now.status, "reason": reason})
    return result(ctx.tx, now)


READS: Final[dict[str, ReadHandler]] = {}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "start_routercluster_workergroup": start_routercluster_workergroup,
    "stop_routercluster_workergroup": stop_routercluster_workergroup,
    "restart_routercluster_workergroup": restart_routercluster_workergroup,
}
