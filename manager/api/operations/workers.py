"""Workers: read by callers, changed only by the monitor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from busbar.bus import params as p
from busbar.bus.decode import encode
from busbar.bus.errors import BusError, no_such
from busbar.bus.messages import Command

from ...state.node_memory import WorkerStat
from ...store.rows import ClusterRow, GroupRow, WorkerRow
from .base import ChangeContext, ChangeHandler, ReadContext, ReadHandler, need_cluster, need_node, need_worker
from .brief import brief
from .paging import paged


def results(ctx: ReadContext, rows: Iterable[WorkerRow]) -> list[p.Worker]:
    """The contract's workers of rows, with the names of cluster, group and node."""
    clusters: dict[str, ClusterRow | None] = {}
    groups: dict[str, GroupRow | None] = {}
    nodes: dict[str, str | None] = {}
    found = []
    for row in rows:
        if row.group_oid not in groups:
            groups[row.group_oid] = ctx.reads.group(row.group_oid)
        if row.cluster_oid not in clusters:
            clusters[row.cluster_oid] = ctx.reads.cluster(row.cluster_oid)
        target = row.move.node if row.move else None
        for oid in (row.node_oid, target):
            if oid is not None and oid not in nodes:
                node = ctx.reads.node(oid)
                nodes[oid] = node.name if node else None
        at, to = (nodes.get(oid) if oid else None for oid in (row.node_oid, target))
        found.append(_result(ctx, row, clusters[row.cluster_oid], groups[row.group_oid], at, to))
    return found


def _result(
    ctx: ReadContext,
    row: WorkerRow,
    cluster: ClusterRow | None,
    group: GroupRow | None,
    node: str | None,
    moving_to: str | None,
) -> p.Worker:
    # Figures of a process that is no longer there would be shown as those of one that waits.
    stat = ctx.observed.stat(row.oid) if row.pid is not None else WorkerStat()
    return p.Worker(
        oid=row.oid,
        name=row.name,
        cluster_oid=row.cluster_oid,
        cluster=cluster.name if cluster else "",
        workergroup_oid=row.group_oid,
        workergroup=group.name if group else "",
        node_oid=row.node_oid,
        node=node,
        state=row.state,
        status=row.state,
        generation=row.generation,
        address=row.address,
        pid=row.pid,
        restarts=row.restarts,
        reason=row.reason,
        since_ms=ctx.since_ms(row.oid, row.changed),
        uptime_ms=stat.uptime_ms,
        cpu_s=stat.cpu_s,
        rss=stat.rss,
        revision=row.revision,
        listeners=row.listeners or {},
        mesh=row.mesh,
        traffic=stat.traffic,
        moving_to=moving_to,
    )


def get_worker(ctx: ReadContext, params: p.GetWorker) -> p.Worker:
    return brief(results(ctx, [need_worker(ctx.reads, params.worker_oid)])[0], params.brief)


def list_workers(ctx: ReadContext, params: p.ListWorkers) -> list[str]:
    """Names, or oids in the same order: by cluster name, group name, ordinal."""
    groups = {group.oid: group.name for group in ctx.reads.groups()}
    clusters = dict(ctx.reads.cluster_keys())
    rows = [row for row in _matching(ctx, params) if params.filter_by_status in (None, row.state)]
    rows.sort(key=lambda row: (clusters.get(row.cluster_oid, ""), groups.get(row.group_oid, ""), row.ordinal))
    return [row.name if params.return_names else row.oid for row in rows]


def _matching(ctx: ReadContext, params: p.ListWorkers) -> list[WorkerRow]:
    """The workers of the narrowest object named, filtered by the others.

    Raises:
        BusError: `no_such_object` when an object named does not exist.
    """
    reads = ctx.reads
    if params.routercluster_oid is not None:
        need_cluster(reads, params.routercluster_oid)
    if params.node_oid is not None:
        need_node(reads, params.node_oid)
    if params.workergroup_oid is not None:
        if reads.group(params.workergroup_oid) is None:
            raise no_such("worker group", params.workergroup_oid, "workergroup_oid")
        rows = reads.workers_of(params.workergroup_oid)
    elif params.node_oid is not None:
        rows = reads.workers_on(params.node_oid)
    elif params.routercluster_oid is not None:
        rows = reads.workers_in(params.routercluster_oid)
    else:
        rows = reads.workers()
    return [
        row
        for row in rows
        if params.routercluster_oid in (None, row.cluster_oid) and params.node_oid in (None, row.node_oid)
    ]


def follow_worker(ctx: ChangeContext, params: p.FollowWorker) -> p.Following:
    """Send the node a command. It is a change, so that the audit records who followed the log."""
    tx = ctx.tx
    worker = need_worker(tx, params.worker_oid)
    if worker.node_oid is None:
        raise BusError("no_such_object", f"worker '{worker.name}' runs on no node", ["/params/worker_oid"])
    node = need_node(tx, worker.node_oid)
    cluster = tx.cluster(worker.cluster_oid)
    command = Command(
        follow=worker.name,
        follow_cluster=cluster.name if cluster else None,
        lines=params.lines,
        since_ms=params.since_ms,
        reader=params.reader,
        lease_ms=params.lease_ms,
    )
    topics = tx.context.topics
    tx.send(topics.node(node.name, "command"), encode(command))
    return p.Following(worker.oid, node.name, topics.node_log(node.name, worker.name), params.lease_ms)


READS: Final[dict[str, ReadHandler]] = {"get_worker": get_worker, "list_workers": paged(list_workers)}
CHANGES: Final[dict[str, ChangeHandler]] = {"follow_worker": follow_worker}
