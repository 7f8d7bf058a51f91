"""Lifecycle events of nodes, workers and clusters, recorded alike by the monitor and by reports."""

from __future__ import annotations

from busbar.bus.states import STARTED, NodeStatus, WorkerState

from .rows import NO_PROCESS, ClusterRow, GroupRow, NodeRow, WorkerRow
from .tx import Tx


class EventRecorder:
    """Records events in one transaction; each name is looked up once."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._clusters: dict[str, str] = {}
        self._nodes: dict[str | None, str | None] = {None: None}

    def cluster(self, oid: str) -> str:
        """The name of a cluster."""
        if oid not in self._clusters:
            row = self._tx.cluster(oid)
            self._clusters[oid] = row.name if row else oid
        return self._clusters[oid]

    def node(self, oid: str | None) -> str | None:
        """The name of a node."""
        if oid not in self._nodes:
            row = self._tx.node(oid or "")
            self._nodes[oid] = row.name if row else oid
        return self._nodes[oid]

    def worker(self, worker: WorkerRow, verb: str, reason: str | None, **more: object) -> None:
        """`on_worker_{verb}`; `worker` is the row before the change."""
        cluster = self.cluster(worker.cluster_oid)
        data = {
            "oid": worker.oid,
            "cluster": cluster,
            "node": self.node(worker.node_oid),
            "generation": worker.generation,
            "version": worker.version + 1,
            "reason": reason,
        }
        self._tx.event("worker", verb, cluster=cluster, name=worker.name, data=data | more)

    def group_updated(self, group: GroupRow, reason: str) -> None:
        """`on_workergroup_updated`: all its workers are ready with its revision."""
        cluster = self.cluster(group.cluster_oid)
        data = {
            "oid": group.oid,
            "version": group.version + 1,
            "cluster_oid": group.cluster_oid,
            "revision": group.revision,
            "scale": group.scale,
            "reason": reason,
        }
        self._tx.event("workergroup", "updated", cluster=cluster, name=group.name, data=data)

    def node_status(self, node: NodeRow, status: NodeStatus, reason: str) -> None:
        """`on_node_{status}`."""
        data = {"oid": node.oid, "version": node.version + 1, "status": status, "reason": reason}
        self._tx.event("node", status.value, cluster=None, name=node.name, data=data)

    def drained(self, node: NodeRow) -> None:
        """`on_node_drained`: it has no workers left."""
        data = {"oid": node.oid, "version": node.version + 1, "reason": node.draining}
        self._tx.event("node", "drained", cluster=None, name=node.name, data=data)

    def cluster_status(self, cluster: ClusterRow, verb: str, status: str, reason: str) -> None:
        """`on_routercluster_{verb}`; `started` and `stopped` name the request that caused them."""
        data: dict[str, object] = {
            "oid": cluster.oid,
            "version": cluster.version + 1,
            "status": status,
            "reason": reason,
        }
        if verb in ("started", "stopped") and cluster.who:
            data |= {"who": cluster.who, "request_id": cluster.request_id}
        name = cluster.name
        self._tx.event("routercluster", verb, cluster=name, name=name, data=data)


def record_replaced(tx: Tx, events: EventRecorder, worker: WorkerRow, revision: int, reason: str) -> None:
    """Set a worker STARTING on the same node as a new generation, and record the event; the caller bumps the
    node's assignment."""
    generation = worker.generation + 1
    tx.update_worker(
        worker.oid,
        state=WorkerState.STARTING,
        reason=reason,
        generation=generation,
        revision=revision,
        **NO_PROCESS,
        restarts=0,
    )
    events.worker(worker, "starting", reason, generation=generation, revision=revision)


def record_stopped(tx: Tx, events: EventRecorder, worker: WorkerRow, reason: str) -> None:
    """Set a worker STOPPED and unassigned, and record the event.

    Its next placement counts as a move only if its cluster and its group keep running.
    """
    cluster = tx.cluster(worker.cluster_oid)
    group = tx.group(worker.group_oid)
    stays = cluster is not None and cluster.status in STARTED
    moving = stays and not (group is not None and group.stop_ordered)
    tx.update_worker(
        worker.oid,
        state=WorkerState.STOPPED,
        reason=reason,
        node_oid=None,
        last_node_oid=worker.node_oid if moving else None,
        unassigned_version=None,
        **NO_PROCESS,
    )
    events.worker(worker, "stopped", reason)
