"""Statistics of clusters and worker groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from busbar.bus import params as p
from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import MAX_COUNT, Endpoint, Traffic, serves
from busbar.bus.states import STARTED, WorkerState
from msgspec.structs import astuple

from ...planner.rolling import updating
from ...publish.render import (
    NOT_READY,
    group_open_condition,
    open_conditions,
    placement_conditions,
    reason_now,
    update_condition,
    worker_conditions,
)
from ...publish.statuses import placed_workers, unaccepted_condition
from ...store.rows import ClusterRow, GroupRow, WorkerRow
from . import workers
from .base import ChangeHandler, ReadContext, ReadHandler, need_cluster, need_group
from .paging import page


def stat_routercluster(ctx: ReadContext, params: p.StatCluster) -> p.Stat:
    with ctx.reads.consistent():
        row = need_cluster(ctx.reads, params.routercluster_oid)
        groups = ctx.reads.groups_of(row.oid)
        names = {group.oid: group.name for group in groups}
        rows = ctx.reads.workers_in(row.oid)
        rows.sort(key=lambda worker: (names.get(worker.group_oid, ""), worker.ordinal))
        return _stat(ctx, params, row, sum(group.scale for group in _wanted(groups)), rows, groups)


def _wanted(groups: Sequence[GroupRow]) -> list[GroupRow]:
    """Those that are not stopped by themselves."""
    return [group for group in groups if not group.stop_ordered]


def stat_routercluster_workergroup(ctx: ReadContext, params: p.StatGroup) -> p.Stat:
    with ctx.reads.consistent():
        row = need_group(ctx.reads, params.routercluster_oid, params.workergroup_oid)
        return _stat(ctx, params, row, row.scale, ctx.reads.workers_of(row.oid), ())


def _stat(
    ctx: ReadContext,
    params: p.StatCluster | p.StatGroup,
    row: ClusterRow | GroupRow,
    scale: int,
    rows: Sequence[WorkerRow],
    groups: Sequence[GroupRow],
) -> p.Stat:
    found = workers.results(ctx, rows)
    shown, told = _page(found, groups, params.limit, params.after)
    states = Counter(worker.state for worker in rows)
    return p.Stat(
        oid=row.oid,
        name=row.name,
        status=row.status,
        scale=scale,
        ready=states[WorkerState.RUNNING],
        starting=states[WorkerState.STARTING],
        backoff=states[WorkerState.BACKOFF],
        pending=states[WorkerState.PENDING],
        unknown=states[WorkerState.UNKNOWN],
        stopping=states[WorkerState.STOPPING],
        restarts=sum(worker.restarts for worker in rows),
        cpu_s=round(sum(worker.cpu_s or 0.0 for worker in found), 3),
        rss=sum(worker.rss or 0 for worker in found),
        since_ms=ctx.since_ms(row.oid, row.changed),
        conditions=_conditions(ctx, row, rows, groups)[: params.limit],
        endpoints=_endpoints(shown),
        workers=shown,
        workergroups=[_group(group, rows) for group in told],
        version=row.version,
        changed=row.changed,
        traffic=traffic_sum(worker.traffic for worker in found),
    )


def _page(
    found: Sequence[p.Worker], groups: Sequence[GroupRow], limit: int | None, after: str | None
) -> tuple[list[p.Worker], list[GroupRow]]:
    """Workers and groups of one page: the first groups go with every page of workers, the others follow."""
    if any(group.oid == after for group in groups):
        return [], page(groups, limit, after, lambda group: group.oid)
    return page(found, limit, after, lambda worker: worker.oid), list(groups[:limit])


def traffic_sum(told: Iterable[Traffic | None]) -> Traffic | None:
    """The sums over those that tell theirs; None when none does."""
    figures = [astuple(each) for each in told if each is not None]
    return Traffic(*(min(sum(each), MAX_COUNT) for each in zip(*figures, strict=True))) if figures else None


def _conditions(
    ctx: ReadContext, row: ClusterRow | GroupRow, rows: Sequence[WorkerRow], groups: Sequence[GroupRow]
) -> list[str]:
    not_ready = [
        (worker.name, worker.state, worker.reason, None) for worker in rows if worker.state in NOT_READY
    ]
    asked = [row] if isinstance(row, GroupRow) else _wanted(groups)
    ready = sum(min(group.scale, _ready(group, rows)) for group in asked)
    # Each worker that is not ready has a condition of its own.
    reason = reason_now(row, ready, sum(group.scale for group in asked), ())
    if isinstance(row, GroupRow) and updating(row):
        reason = update_condition(row, ctx.reads.updated(row.oid), not_ready)
    halted = [text for group in groups if (text := _halted(ctx, group))]
    halted += _unaccepted(ctx, row)
    for group in [row] if isinstance(row, GroupRow) else groups:
        halted += placement_conditions(group, placed_workers(ctx.reads, group))
    return ([reason] if reason else []) + halted + worker_conditions(not_ready) + _open_access(ctx, row)


def _halted(ctx: ReadContext, group: GroupRow) -> str | None:
    """The condition of a group whose update can't go on."""
    if not updating(group) or not group.held_back or group.status not in STARTED:
        return None
    return f"group {group.name}: {update_condition(group, ctx.reads.updated(group.oid), ())}"


def _open_access(ctx: ReadContext, row: ClusterRow | GroupRow) -> list[str]:
    if isinstance(row, ClusterRow):
        return open_conditions(ctx.reads.listening(row.oid))
    text = group_open_condition(row, row.transport or need_cluster(ctx.reads, row.cluster_oid).transport)
    return [text] if text else []


def _unaccepted(ctx: ReadContext, row: ClusterRow | GroupRow) -> list[str]:
    if isinstance(row, ClusterRow):
        return []
    transport = row.transport or need_cluster(ctx.reads, row.cluster_oid).transport
    text = unaccepted_condition(ctx.reads, row, transport)
    return [text] if text else []


def _endpoints(found: Sequence[p.Worker]) -> list[Endpoint]:
    return [
        Endpoint(worker.name, worker.node or "", url, name)
        for worker in found
        if worker.address and serves(worker.state, worker.reason)
        for name, url in (worker.listeners or {DEFAULT: worker.address}).items()
    ]


def _ready(group: GroupRow, rows: Sequence[WorkerRow]) -> int:
    return sum(row.group_oid == group.oid and row.state is WorkerState.RUNNING for row in rows)


def _group(group: GroupRow, rows: Sequence[WorkerRow]) -> p.GroupStat:
    return p.GroupStat(
        oid=group.oid,
        name=group.name,
        status=group.status,
        scale=group.scale,
        ready=_ready(group, rows),
        runtime=group.runtime,
        revision=group.revision,
    )


READS: Final[dict[str, ReadHandler]] = {
    "stat_routercluster": stat_routercluster,
    "stat_routercluster_workergroup": stat_routercluster_workergroup,
}
CHANGES: Final[dict[str, ChangeHandler]] = {}
