"""An order to one worker: restart.

A worker that is ready is replaced as in an update of its group: the group gets a new revision of the same
definition, which all its other workers have already. So a restart keeps to the disruption budget, waits where
it must, and is found again by any later planning pass. One that is not ready is replaced at once.
"""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.states import ASSIGNED, STARTED, NodeStatus, WorkerState

from ...planner.rolling import least_ready, outdated, updating
from ...store.lifecycle_events import EventRecorder, record_replaced
from ...store.rows import GroupRow, WorkerRow
from .base import ChangeContext, ChangeHandler, ReadHandler, need_cluster, need_group, need_worker
from .rollout import record_event, rollout_limits

_AT: Final = "/params/worker_oid"
_NOT_READY: Final = (WorkerState.STARTING, WorkerState.BACKOFF)


def restart_routercluster_worker(ctx: ChangeContext, params: p.RestartWorker) -> p.WorkerRestart:
    """Asked for again while it waits for its turn, it is restarted once."""
    group = need_group(ctx.tx, params.routercluster_oid, params.workergroup_oid)
    row = _restartable(ctx, group, params.worker_oid)
    if outdated(group, row):
        # It waits for this already, or an update replaces it anyway.
        return _result(ctx, group, row, f"to be replaced by revision {group.revision}")
    if row.state in _NOT_READY and _node_obeys(ctx, row):
        reason = _restart_now(ctx, group, row)
    else:
        reason = _roll(ctx, group, row)
    return _result(ctx, group, row, reason)


def _restartable(ctx: ChangeContext, group: GroupRow, oid: str) -> WorkerRow:
    """Raises BusError `no_such_object`, or `cannot_start` where the worker is not to run or has no node."""
    row = need_worker(ctx.tx, oid)
    if row.group_oid != group.oid:
        raise BusError("no_such_object", f"no worker in this worker group with oid {oid}", [_AT])
    if group.status not in STARTED or row.state not in ASSIGNED:
        what = f"worker '{row.name}' is {row.state}, not started"
        raise BusError("cannot_start", f"{what}: {row.reason}" if row.reason else what, [_AT])
    if row.ordinal > group.scale:
        detail = f"worker '{row.name}' is more than its group's scale of {group.scale}: it is to stop"
        raise BusError("cannot_start", detail, [_AT])
    return row


def _node_obeys(ctx: ChangeContext, row: WorkerRow) -> bool:
    """Whether its node is heard, a member, and follows this manager."""
    node = ctx.tx.node(row.node_oid or "")
    if node is None or node.status is not NodeStatus.ONLINE or node.refuses is not None:
        return False
    return ctx.tx.member(row.cluster_oid, node.oid) is not None


def _restart_now(ctx: ChangeContext, group: GroupRow, row: WorkerRow) -> str:
    """Returns the reason that is told."""
    tell, reason = EventRecorder(ctx.tx), _ordered(ctx)
    tell.worker(row, "restarting", reason)
    ctx.tx.bump_assignment(row.node_oid or "")
    record_replaced(ctx.tx, tell, row, group.revision, reason)
    return reason


def _roll(ctx: ChangeContext, group: GroupRow, row: WorkerRow) -> str:
    """Begin a new revision, which all workers of the present one have except this worker.

    An update that is under way goes on, with its limits.
    """
    tx, revision = ctx.tx, group.revision + 1
    limits = rollout_limits(p.RestartGroup(group.cluster_oid, group.oid), group, not updating(group))
    tx.update_group(group.oid, revision=revision, held_back=None, **limits)
    for other in tx.workers_of(group.oid):
        if other.revision == group.revision and other.oid != row.oid:
            tx.update_worker(other.oid, revision=revision)
    tx.add_revision(group.oid)
    now = need_group(tx, group.cluster_oid, group.oid)
    reason = _ordered(ctx) + _must_wait(ctx, now, row)
    EventRecorder(tx).worker(row, "restarting", reason)
    tx.update_worker(row.oid, reason=reason)
    more = {name: getattr(now, name) for name in ("revision", "runtime", "max_unavailable", "max_surge")}
    record_event(ctx, "updating", need_cluster(tx, now.cluster_oid), now, {**more, "worker": row.name})
    return reason


def _ordered(ctx: ChangeContext) -> str:
    return f"restart ordered by {ctx.who.authid}"


def _must_wait(ctx: ChangeContext, group: GroupRow, row: WorkerRow) -> str:
    """What the restart waits for, as the end of a reason."""
    if not _node_obeys(ctx, row):
        return "; it waits until its node is heard and follows this manager"
    ready = ctx.tx.worker_states("group_oid", group.oid).get(WorkerState.RUNNING, 0)
    if ready > least_ready(group):
        return ""
    return f"; it waits while {ready} of {group.scale} workers of group {group.name} are ready"


def _result(ctx: ChangeContext, group: GroupRow, row: WorkerRow, reason: str) -> p.WorkerRestart:
    """`row` is the worker before the order."""
    now = need_worker(ctx.tx, row.oid)
    node = ctx.tx.node(row.node_oid or "")
    return p.WorkerRestart(
        oid=row.oid,
        name=row.name,
        cluster_oid=row.cluster_oid,
        cluster=need_cluster(ctx.tx, row.cluster_oid).name,
        workergroup_oid=group.oid,
        workergroup=group.name,
        node=node.name if node else None,
        status=now.state,
        generation=row.generation + 1,
        reason=reason,
    )


READS: Final[dict[str, ReadHandler]] = {}
CHANGES: Final[dict[str, ChangeHandler]] = {"restart_routercluster_worker": restart_routercluster_worker}
