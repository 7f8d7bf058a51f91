"""Applies a plan's actions in one transaction: one function per action, which checks its preconditions first.

Rows may have changed since the snapshot. Skips actions whose precondition no longer holds; the next pass
plans again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from busbar.bus.placement import unmet
from busbar.bus.states import ASSIGNED, ClusterState, NodeStatus, WorkerState, may_advance

from ..planner import model as m
from ..planner.acceptance import rejection
from ..planner.admission import Refusal, Target, max_workers, refusal
from ..planner.draining import DRAINED
from ..planner.rolling import least_ready, max_slots, outdated, updating
from ..store.lifecycle_events import EventRecorder, record_replaced, record_stopped
from ..store.meta import BRAKE_KEY, read_brake
from ..store.rows import NO_PROCESS, GroupRow, WorkerRow
from ..store.tx import Tx
from .batch_rows import BatchRows, Heard

Failure = tuple[m.Action, Exception]


class Outcome(NamedTuple):
    """The result of a batch: the actions that raised, whether anything was changed, and which ones did it."""

    failures: list[Failure]
    changed: bool
    done: Sequence[m.Action] = ()


_VERBS: Final = {
    ClusterState.DEGRADED: "degraded",
    ClusterState.ERROR: "failed",
    ClusterState.STOPPED: "stopped",
}


def apply_all(tx: Tx, actions: Sequence[m.Action], manager_id: str, heard_since: Heard) -> Outcome:
    """Apply actions in order; one that raises is rolled back alone and returned with its exception.

    `heard_since(node_oid)` tells whether the node gave a sign of life after the actions were planned.

    Raises:
        Exception: the transaction itself was lost, as on a full disk; none of it was applied.
    """
    batch = Batch(tx, manager_id, heard_since)
    failures: list[Failure] = []
    if _attempt(tx, batch, actions) is not None:
        # One raised, and all were rolled back: apply each by itself.
        for action in actions:
            error = _attempt(tx, batch, [action])
            if error is not None:
                failures.append((action, error))
    return Outcome(failures, bool(tx.changes), batch.done)


def _attempt(tx: Tx, batch: Batch, actions: Sequence[m.Action]) -> Exception | None:
    """Apply all of these, or none; returns the exception."""
    before = list(batch.done)
    try:
        tx.attempt(lambda: batch.apply(actions))
    except Exception as error:
        if not tx.db.conn.in_transaction:
            raise
        batch.reset()
        batch.done = before
        return error
    return None


class Batch(BatchRows):
    """The actions of one transaction: each node's assignment version is bumped once, rows are cached."""

    def __init__(self, tx: Tx, manager_id: str, heard_since: Heard) -> None:
        super().__init__(tx, heard_since)
        self._manager_id = manager_id
        self._tell = EventRecorder(tx)
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            m.SetNode: self._set_node,
            m.NoteDrain: self._note_drain,
            m.SetPeers: self._set_peers,
            m.CreateWorker: self._create,
            m.DropWorker: self._drop,
            m.MarkPending: self._mark_pending,
            m.Place: self._place,
            m.Unassign: self._unassign,
            m.Relocate: self._relocate,
            m.CancelMove: self._cancel_move,
            m.Evict: self._evict,
            m.Explain: self._explain,
            m.MarkUnknown: self._mark_unknown,
            m.MarkStopped: self._mark_stopped,
            m.Replace: self._replace,
            m.BlockRollout: self._block_rollout,
            m.CompleteRollout: self._complete_rollout,
            m.SetGroup: self._set_group,
            m.SetCluster: self._set_cluster,
            m.MassFailureHold: self._set_hold,
        }
        self.done: list[m.Action] = []
        """The actions that wrote something."""

    def apply(self, actions: Sequence[m.Action]) -> None:
        connection = self._tx.db.conn
        for action in actions:
            before = connection.total_changes
            if not isinstance(action, m.Replace):
                self._ready.clear()
            self._handlers[type(action)](action)
            if connection.total_changes != before:
                self.done.append(action)

    # --- nodes and the mass failure hold

    def _set_node(self, action: m.SetNode) -> None:
        row = self._tx.node(action.node_oid)
        if row is None or row.status is action.status or not may_advance(row.status, action.status):
            return
        if row.goodbye and action.status is not NodeStatus.OFFLINE:
            return
        if action.status is not NodeStatus.ONLINE and self._heard_since(row.oid):
            return
        self._tx.update_node(row.oid, status=action.status, reason=action.reason)
        self._nodes.pop(row.oid, None)
        self._tell.node_status(row, action.status, action.reason)

    def _note_drain(self, action: m.NoteDrain) -> None:
        row = self._tx.node(action.node_oid)
        if row is None or row.draining is None or row.drain_note == action.note:
            return
        self._tx.update_node(row.oid, drain_note=action.note)
        if action.note == DRAINED:
            self._tell.drained(row)

    def _set_peers(self, action: m.SetPeers) -> None:
        row = self._tx.node(action.node_oid)
        if row is None or row.status is NodeStatus.UNPAIRED:
            return
        if (row.peers or {}, row.members or {}) == (action.peers, action.members):
            return
        self._tx.update_node(row.oid, peers=action.peers or None, members=action.members or None)
        self._bump(row.oid)

    def _set_hold(self, action: m.MassFailureHold) -> None:
        before = read_brake(self._tx.meta(BRAKE_KEY))
        value = json.dumps({"reason": action.reason, "nodes": sorted(action.nodes)})
        self._tx.set_meta(BRAKE_KEY, value)
        if bool(before[0]) == bool(action.reason):
            return
        reason = action.reason or "enough nodes are heard again"
        nodes = sorted(self._tell.node(oid) or oid for oid in action.nodes)
        self._tx.event(
            "manager",
            "braked" if action.reason else "released",
            cluster=None,
            name=self._manager_id,
            data={"reason": reason, "nodes": nodes},
        )

    # --- slots

    def _create(self, action: m.CreateWorker) -> None:
        group = self._group(action.group_oid)
        if group is None or not self._wanted(group):
            return
        if action.ordinal > max_slots(group) or self._tx.has_slot(group.oid, action.ordinal):
            return
        node_oid = action.node_oid
        if node_oid is not None and self.refusal(group, node_oid):
            return
        row = self._tx.insert_worker(group, action.ordinal, action.reason, node_oid)
        told = {"version": row.version, "generation": row.generation}
        if node_oid is None:
            self._tell.worker(row, "pending", action.reason, **told)
            return
        self._count(group.cluster_oid, node_oid)
        self._tell.worker(row, "starting", action.reason, **told)

    def _drop(self, action: m.DropWorker) -> None:
        row = self._worker_in(action.worker_oid, WorkerState.STOPPED, WorkerState.PENDING)
        group = self._group(row.group_oid) if row else None
        if row is None or (group is not None and row.ordinal <= group.scale):
            return
        self._tx.delete_worker(row.oid)
        # `delete_worker` marks the group alone; the state cache needs the worker too.
        self._tx.changes.workers.add(row.oid)

    def _mark_pending(self, action: m.MarkPending) -> None:
        row = self._worker_in(action.worker_oid, WorkerState.PENDING, WorkerState.STOPPED)
        if row is None or not self._is_wanted(row):
            return
        if row.state is WorkerState.PENDING and row.reason == action.reason:
            return
        self._tx.update_worker(row.oid, state=WorkerState.PENDING, reason=action.reason, move=None)
        self._tell.worker(row, "pending", action.reason)

    # --- places

    def _place(self, action: m.Place) -> None:
        row = self._worker_in(action.worker_oid, WorkerState.PENDING, WorkerState.STOPPED)
        group = self._group(row.group_oid) if row else None
        if row is None or group is None or not self._wanted(group):
            return
        if row.ordinal > max_slots(group) or self.refusal(group, action.node_oid):
            return
        self._count(row.cluster_oid, action.node_oid)
        self._tx.update_worker(
            row.oid,
            state=WorkerState.STARTING,
            reason=action.reason,
            node_oid=action.node_oid,
            generation=row.generation + 1,
            revision=group.revision,
            unassigned_version=None,
            move=None,
            **NO_PROCESS,
            restarts=0,
        )
        node, generation = self._tell.node(action.node_oid), row.generation + 1
        if row.last_node_oid not in (None, action.node_oid):
            where = {"from": self._tell.node(row.last_node_oid), "to": node}
            self._tell.worker(row, "moved", action.reason, node=node, generation=generation, **where)
        self._tell.worker(row, "starting", action.reason, node=node, generation=generation)

    def _count(self, cluster_oid: str, node_oid: str) -> None:
        """One more worker is assigned to that node."""
        self._load(node_oid)[cluster_oid] += 1
        self._bump(node_oid)

    def refusal(self, group: GroupRow, node_oid: str) -> Refusal | None:
        """Why the node, as it is in this transaction, takes no more workers of the group; None if it does."""
        return refusal(self._target(group, node_oid), group.runtime)

    def _rejects(self, group: GroupRow, node_oid: str) -> str | None:
        if node_oid not in self._schemas:
            self._schemas[node_oid] = self._tx.node_schemas([node_oid]).get(node_oid, {})
        schema = self._schemas[node_oid].get(group.runtime)
        if schema is None:
            return None
        cluster = self._tx.cluster(group.cluster_oid)
        return rejection(schema, group.transport or (cluster.transport if cluster else None))

    def _target(self, group: GroupRow, node_oid: str) -> Target | None:
        cluster_oid = group.cluster_oid
        node, member = self._node(node_oid), self._member(cluster_oid, node_oid)
        if node is None:
            return None
        load = self._load(node_oid)
        return Target(
            status=node.status,
            refuses=node.refuses,
            draining=node.draining is not None,
            cordoned=node.cordoned is not None,
            runtimes=node.runtimes,
            max_workers=max_workers(node.capacity, self._tx.context.max_packet()),
            member=member is not None,
            hardlimit=member.hardlimit if member else None,
            in_cluster=load[cluster_oid],
            total=load.total(),
            unmet=unmet(group.placement, node.labels),
            rejects=self._rejects(group, node_oid),
        )

    def _unassign(self, action: m.Unassign) -> None:
        row = self._worker_in(action.worker_oid, *ASSIGNED)
        if row is None or row.node_oid is None or not self._still_due(action.cause, row, row.node_oid):
            return
        version = self._bump(row.node_oid)
        self._tx.update_worker(
            row.oid,
            state=WorkerState.STOPPING,
            reason=action.reason,
            unassigned_version=version,
            move=row.move if action.cause is m.StopCause.MOVE else None,
        )

    def _cancel_move(self, action: m.CancelMove) -> None:
        row = self._worker_in(action.worker_oid, *ASSIGNED)
        group = self._group(row.group_oid) if row else None
        if row is not None and row.move is not None and (group is None or self.refusal(group, row.move.node)):
            self._tx.update_worker(row.oid, move=None)

    def _relocate(self, action: m.Relocate) -> None:
        row = self._worker_in(action.worker_oid, WorkerState.BACKOFF)
        if row is not None and row.node_oid == action.node_oid:
            self._unassign(m.Unassign(row.oid, action.reason))

    def _still_due(self, cause: m.StopCause, row: WorkerRow, node_oid: str) -> bool:
        """Whether the cause of a stop still holds: an operation may have undone it since the plan."""
        node, group = self._node(node_oid), self._group(row.group_oid)
        if node is None or not self._is_wanted(row):
            return True
        if cause is m.StopCause.MOVE:
            return row.move is not None and group is not None and not self.refusal(group, row.move.node)
        if cause is m.StopCause.SURPLUS:
            return group is None or row.ordinal > group.scale
        if cause is m.StopCause.DRAINING:
            return node.draining is not None
        if cause is m.StopCause.REMOVED:
            member = self._member(row.cluster_oid, node_oid)
            return member is None or node.status is NodeStatus.UNPAIRED
        return True

    def _replace(self, action: m.Replace) -> None:
        row = self._worker_in(
            action.worker_oid, WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF
        )
        group = self._group(row.group_oid) if row else None
        if row is None or group is None or row.node_oid is None or not outdated(group, row):
            return
        if not self._wanted(group) or not self._is_online_member(row.cluster_oid, row.node_oid):
            return
        if self._refuses(row.node_oid):
            return
        # Another may have failed since the plan.
        if row.state is WorkerState.RUNNING and self._ready_in(group.oid) <= least_ready(group):
            return
        self._bump(row.node_oid)
        record_replaced(self._tx, self._tell, row, group.revision, action.reason)
        if row.state is WorkerState.RUNNING:
            self._ready[group.oid] -= 1

    def _evict(self, action: m.Evict) -> None:
        row = self._refused(action.worker_oid) if action.refused else self._unreachable(action.worker_oid)
        if row is None:
            return
        if row.node_oid is not None and self._tx.node(row.node_oid) is not None:
            self._load(row.node_oid)[row.cluster_oid] -= 1
            self._bump(row.node_oid)
        self._tx.update_worker(
            row.oid,
            state=WorkerState.PENDING,
            reason=action.reason,
            node_oid=None,
            last_node_oid=row.node_oid,
            unassigned_version=None,
            move=None,
            **NO_PROCESS,
        )
        self._tell.worker(row, "pending", action.reason)

    def _refused(self, worker_oid: str) -> WorkerRow | None:
        """A worker that its node, which follows another manager, does not report; None when it does."""
        row = self._worker_in(worker_oid, WorkerState.STARTING)
        return row if row is not None and row.pid is None and self._refuses(row.node_oid) else None

    def _refuses(self, node_oid: str | None) -> bool:
        node = self._node(node_oid) if node_oid is not None else None
        return node is not None and node.refuses is not None

    def _explain(self, action: m.Explain) -> None:
        row = self._worker_in(action.worker_oid, WorkerState.STARTING)
        if row is not None and row.pid is None and row.reason != action.reason:
            self._tx.update_worker(row.oid, reason=action.reason)

    def _mark_unknown(self, action: m.MarkUnknown) -> None:
        row = self._unreachable(action.worker_oid)
        if row is None or row.node_oid is None:
            return
        self._tx.update_worker(row.oid, state=WorkerState.UNKNOWN, reason=action.reason)
        if row.state is not WorkerState.UNKNOWN:
            self._tell.worker(row, "unknown", action.reason)

    def _unreachable(self, worker_oid: str) -> WorkerRow | None:
        """An assigned worker whose node is still silent, or no member; None when it is reachable again."""
        row = self._worker_in(worker_oid, *ASSIGNED)
        if row is None or self._heard_again(row):
            return None
        if row.node_oid is not None and self._is_online_member(row.cluster_oid, row.node_oid):
            return None
        return row

    def _mark_stopped(self, action: m.MarkStopped) -> None:
        row = self._worker_in(action.worker_oid, WorkerState.STOPPING, WorkerState.PENDING)
        if row is None or (row.state is WorkerState.PENDING and self._is_wanted(row)):
            return
        if self._refuses(row.node_oid):
            record_stopped(self._tx, self._tell, row, action.reason)
            return
        if self._heard_again(row):
            return
        node = self._tx.node(row.node_oid) if row.node_oid else None
        if node is not None and node.status in (NodeStatus.ONLINE, NodeStatus.LATE):
            return
        record_stopped(self._tx, self._tell, row, action.reason)

    # --- groups and clusters

    def _block_rollout(self, action: m.BlockRollout) -> None:
        row = self._group(action.group_oid)
        if row is not None and updating(row) and row.held_back != action.why:
            self._tx.update_group(row.oid, held_back=action.why)
            self._groups.pop(row.oid, None)

    def _complete_rollout(self, action: m.CompleteRollout) -> None:
        row = self._group(action.group_oid)
        if row is None or not updating(row) or row.revision != action.revision:
            return
        self._tx.update_group(row.oid, settled=row.revision, held_back=None)
        self._tx.drop_revisions(row.oid)
        self._groups.pop(row.oid, None)
        self._tell.group_updated(row, action.reason)

    def _set_group(self, action: m.SetGroup) -> None:
        row = self._group(action.group_oid)
        if row is None or row.status is action.status or not may_advance(row.status, action.status):
            return
        columns: dict[str, Any] = {"status": action.status, "reason": action.reason}
        self._tx.update_group(row.oid, **columns, **_was_running(action.status))
        self._groups.pop(row.oid, None)

    def _set_cluster(self, action: m.SetCluster) -> None:
        row = self._tx.cluster(action.cluster_oid)
        if row is None or row.status is action.status or not may_advance(row.status, action.status):
            return
        if action.status is ClusterState.STOPPED and self._has_living(row.oid):
            return
        columns: dict[str, Any] = {"status": action.status, "reason": action.reason}
        self._tx.update_cluster(row.oid, **columns, **_was_running(action.status))
        self._statuses.pop(row.oid, None)
        verb = _VERBS.get(action.status) or ("recovered" if row.was_running else "started")
        self._tell.cluster_status(row, verb, action.status, action.reason)

    def _has_living(self, cluster_oid: str) -> bool:
        return bool(set(self._tx.worker_states("cluster_oid", cluster_oid)) - {WorkerState.STOPPED.value})


def _was_running(status: ClusterState) -> dict[str, bool]:
    if status is ClusterState.RUNNING:
        return {"was_running": True}
    return {"was_running": False} if status in (ClusterState.STOPPED, ClusterState.STARTING) else {}
