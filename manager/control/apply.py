"""Carries out what was planned: one function per action, each asking first whether it still makes sense.

Between the snapshot and the transaction the world may have changed; an action whose ground is gone is left
out quietly, for the next pass sees the world as it is then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from busbar.bus.states import STARTED, ClusterState, NodeStatus, WorkerState, may_advance

from ..planner import model as m
from ..planner.draining import DRAINED
from ..planner.placement import max_workers
from ..planner.scaling import PLACED
from ..store.lifecycle_events import EventRecorder, record_stopped
from ..store.meta import BRAKE_KEY, read_brake
from ..store.rows import GroupRow, MemberRow, NodeRow, WorkerRow
from ..store.tx import Tx

Failure = tuple[m.Action, Exception]
Heard = Callable[[str], bool]


class Outcome(NamedTuple):
    """What became of a batch: the actions that raised, and whether anything at all was changed."""

    failures: list[Failure]
    changed: bool


_VERBS: Final = {
    ClusterState.DEGRADED: "degraded",
    ClusterState.ERROR: "failed",
    ClusterState.STOPPED: "stopped",
}


def apply_all(tx: Tx, actions: Sequence[m.Action], manager_id: str, heard_since: Heard) -> Outcome:
    """Apply actions in order; one that raises is undone alone and returned with its exception.

    `heard_since(node_oid)` tells whether the node gave a sign of life after the actions were planned.

    Raises:
        Exception: the transaction itself was lost (a full disk): nothing of it holds.
    """
    batch = Batch(tx, manager_id, heard_since)
    failures: list[Failure] = []
    if _attempt(tx, batch, actions) is not None:
        # One of them raised, and with it all were undone: once more, each by itself.
        for action in actions:
            error = _attempt(tx, batch, [action])
            if error is not None:
                failures.append((action, error))
    return Outcome(failures, bool(tx.changes))


def _attempt(tx: Tx, batch: Batch, actions: Sequence[m.Action]) -> Exception | None:
    """Apply all of these, or none; returns what was raised."""
    try:
        tx.attempt(lambda: batch.apply(actions))
    except Exception as error:
        if not tx.db.conn.in_transaction:
            raise
        batch.forget()
        return error
    return None


class Batch:
    """The actions of one transaction: a node's assignment is bumped once, look-ups are remembered."""

    def __init__(self, tx: Tx, manager_id: str, heard_since: Heard) -> None:
        self._tx = tx
        self._manager_id = manager_id
        self._heard_since = heard_since
        self._tell = EventRecorder(tx)
        self._doers: dict[type[Any], Callable[[Any], None]] = {
            m.SetNode: self._set_node,
            m.NoteDrain: self._note_drain,
            m.CreateWorker: self._create,
            m.DropWorker: self._drop,
            m.Pend: self._pend,
            m.Place: self._place,
            m.Unassign: self._unassign,
            m.Displace: self._displace,
            m.MarkUnknown: self._mark_unknown,
            m.MarkStopped: self._mark_stopped,
            m.Renew: self._renew,
            m.HoldBack: self._hold_back,
            m.Settle: self._settle,
            m.SetGroup: self._set_group,
            m.SetCluster: self._set_cluster,
            m.Brake: self._brake,
        }
        self.forget()

    def apply(self, actions: Sequence[m.Action]) -> None:
        for action in actions:
            self._doers[type(action)](action)

    def forget(self) -> None:
        """Drop what is remembered: an action was undone, and with it perhaps what was remembered of it."""
        self._bumped: dict[str, int] = {}
        self._nodes: dict[str, NodeRow | None] = {}
        self._members: dict[tuple[str, str], MemberRow | None] = {}
        self._on_node: dict[str, Counter[str]] = {}
        self._groups: dict[str, GroupRow | None] = {}
        self._statuses: dict[str, ClusterState | None] = {}

    # --- nodes and the brake

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

    def _brake(self, action: m.Brake) -> None:
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
        if group is None or not self._started(group.cluster_oid):
            return
        if action.ordinal > _slots(group) or self._tx.has_slot(group.oid, action.ordinal):
            return
        node_oid = action.node_oid
        if node_oid is not None and not self._has_room(group, node_oid):
            return
        row = self._tx.insert_worker(group, action.ordinal, action.reason, node_oid)
        told = {"version": row.version, "generation": row.generation}
        if node_oid is None:
            self._tell.worker(row, "pending", action.reason, **told)
            return
        self._take_seat(group.cluster_oid, node_oid)
        self._tell.worker(row, "starting", action.reason, **told)

    def _drop(self, action: m.DropWorker) -> None:
        row = self._in(action.worker_oid, WorkerState.STOPPED, WorkerState.PENDING)
        group = self._group(row.group_oid) if row else None
        if row is None or (group is not None and row.ordinal <= group.scale):
            return
        self._tx.delete_worker(row.oid)
        # The store speaks of the group alone; whoever mirrors the workers must hear of this one too.
        self._tx.changes.workers.add(row.oid)

    def _pend(self, action: m.Pend) -> None:
        row = self._in(action.worker_oid, WorkerState.PENDING, WorkerState.STOPPED)
        if row is None or not self._started(row.cluster_oid):
            return
        if row.state is WorkerState.PENDING and row.reason == action.reason:
            return
        self._tx.update_worker(row.oid, state=WorkerState.PENDING, reason=action.reason)
        self._tell.worker(row, "pending", action.reason)

    # --- places

    def _place(self, action: m.Place) -> None:
        row = self._in(action.worker_oid, WorkerState.PENDING, WorkerState.STOPPED)
        group = self._group(row.group_oid) if row else None
        if row is None or group is None or not self._started(row.cluster_oid):
            return
        if row.ordinal > _slots(group) or not self._has_room(group, action.node_oid):
            return
        self._take_seat(row.cluster_oid, action.node_oid)
        self._tx.update_worker(
            row.oid,
            state=WorkerState.STARTING,
            reason=action.reason,
            node_oid=action.node_oid,
            generation=row.generation + 1,
            revision=group.revision,
            unassigned_version=None,
            address=None,
            pid=None,
            restarts=0,
        )
        node, generation = self._tell.node(action.node_oid), row.generation + 1
        if row.last_node_oid not in (None, action.node_oid):
            where = {"from": self._tell.node(row.last_node_oid), "to": node}
            self._tell.worker(row, "moved", action.reason, node=node, generation=generation, **where)
        self._tell.worker(row, "starting", action.reason, node=node, generation=generation)

    def _take_seat(self, cluster_oid: str, node_oid: str) -> None:
        self._load(node_oid)[cluster_oid] += 1
        self._bump(node_oid)

    def _has_room(self, group: GroupRow, node_oid: str) -> bool:
        node = self._node(node_oid)
        member = self._member(group.cluster_oid, node_oid)
        if node is None or member is None:
            return False
        if node.status is not NodeStatus.ONLINE or node.draining is not None:
            return False
        if group.runtime not in node.runtimes:
            return False
        load = self._load(node_oid)
        if member.hardlimit is not None and load[group.cluster_oid] >= member.hardlimit:
            return False
        limit = max_workers(node.capacity)
        return limit is None or load.total() < limit

    def _unassign(self, action: m.Unassign) -> None:
        row = self._in(action.worker_oid, *PLACED)
        if row is None or row.node_oid is None or not self._holds(action.ground, row, row.node_oid):
            return
        self._tx.update_worker(
            row.oid,
            state=WorkerState.STOPPING,
            reason=action.reason,
            unassigned_version=self._bump(row.node_oid),
        )

    def _holds(self, ground: m.Ground, row: WorkerRow, node_oid: str) -> bool:
        """Whether a worker is still to go: what is asked for may have changed since the plan was made."""
        node = self._node(node_oid)
        if node is None or not self._started(row.cluster_oid):
            return True
        if ground is m.Ground.SURPLUS:
            group = self._group(row.group_oid)
            return group is None or row.ordinal > group.scale
        if ground is m.Ground.DRAINING:
            return node.draining is not None
        if ground is m.Ground.REMOVED:
            member = self._member(row.cluster_oid, node_oid)
            return member is None or node.status is NodeStatus.UNPAIRED
        return True

    def _renew(self, action: m.Renew) -> None:
        row = self._in(action.worker_oid, WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF)
        group = self._group(row.group_oid) if row else None
        if row is None or group is None or row.node_oid is None or row.revision == group.revision:
            return
        if not self._started(row.cluster_oid) or not self._serves(row.cluster_oid, row.node_oid):
            return
        if row.state is WorkerState.RUNNING and not self._can_spare_one(group):
            return
        self._bump(row.node_oid)
        generation = row.generation + 1
        self._tx.update_worker(
            row.oid,
            state=WorkerState.STARTING,
            reason=action.reason,
            generation=generation,
            revision=group.revision,
            address=None,
            pid=None,
            restarts=0,
        )
        more = {"generation": generation, "revision": group.revision}
        self._tell.worker(row, "starting", action.reason, **more)

    def _can_spare_one(self, group: GroupRow) -> bool:
        """Whether enough stay ready as it is now: another may have failed since the plan was made."""
        ready = self._tx.worker_states("group_oid", group.oid).get(WorkerState.RUNNING, 0)
        return ready > group.scale - group.max_unavailable

    def _displace(self, action: m.Displace) -> None:
        row = self._in(action.worker_oid, *PLACED)
        if row is None or (row.node_oid is not None and self._serves(row.cluster_oid, row.node_oid)):
            return
        if self._speaks(row):
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
            address=None,
            pid=None,
        )
        self._tell.worker(row, "pending", action.reason)

    def _mark_unknown(self, action: m.MarkUnknown) -> None:
        row = self._in(action.worker_oid, *PLACED)
        if row is None or row.node_oid is None or self._serves(row.cluster_oid, row.node_oid):
            return
        if self._speaks(row):
            return
        self._tx.update_worker(row.oid, state=WorkerState.UNKNOWN, reason=action.reason)
        if row.state is not WorkerState.UNKNOWN:
            self._tell.worker(row, "unknown", action.reason)

    def _mark_stopped(self, action: m.MarkStopped) -> None:
        row = self._in(action.worker_oid, WorkerState.STOPPING, WorkerState.PENDING)
        if row is None or (row.state is WorkerState.PENDING and self._started(row.cluster_oid)):
            return
        if self._speaks(row):
            return
        node = self._tx.node(row.node_oid) if row.node_oid else None
        if node is not None and node.status in (NodeStatus.ONLINE, NodeStatus.LATE):
            return
        record_stopped(self._tx, self._tell, row, action.reason)

    # --- groups and clusters

    def _hold_back(self, action: m.HoldBack) -> None:
        row = self._group(action.group_oid)
        if row is not None and row.updating and row.held_back != action.why:
            self._tx.update_group(row.oid, held_back=action.why)
            self._groups.pop(row.oid, None)

    def _settle(self, action: m.Settle) -> None:
        row = self._group(action.group_oid)
        if row is None or not row.updating or row.revision != action.revision:
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
        if action.status is ClusterState.STOPPED and self._living(row.oid):
            return
        columns: dict[str, Any] = {"status": action.status, "reason": action.reason}
        self._tx.update_cluster(row.oid, **columns, **_was_running(action.status))
        self._statuses.pop(row.oid, None)
        verb = _VERBS.get(action.status) or ("recovered" if row.was_running else "started")
        self._tell.cluster_status(row, verb, action.status, action.reason)

    def _living(self, cluster_oid: str) -> bool:
        return bool(set(self._tx.worker_states("cluster_oid", cluster_oid)) - {WorkerState.STOPPED.value})

    # --- look-ups

    def _in(self, worker_oid: str, *states: WorkerState) -> WorkerRow | None:
        row = self._tx.worker(worker_oid)
        return row if row is not None and row.state in states else None

    def _node(self, oid: str) -> NodeRow | None:
        """A node's row; its assignment's version may be an older one."""
        if oid not in self._nodes:
            self._nodes[oid] = self._tx.node(oid)
        return self._nodes[oid]

    def _member(self, cluster_oid: str, node_oid: str) -> MemberRow | None:
        key = (cluster_oid, node_oid)
        if key not in self._members:
            self._members[key] = self._tx.member(cluster_oid, node_oid)
        return self._members[key]

    def _group(self, oid: str) -> GroupRow | None:
        if oid not in self._groups:
            self._groups[oid] = self._tx.group(oid)
        return self._groups[oid]

    def _started(self, cluster_oid: str) -> bool:
        if cluster_oid not in self._statuses:
            row = self._tx.cluster(cluster_oid)
            self._statuses[cluster_oid] = row.status if row else None
        return self._statuses[cluster_oid] in STARTED

    def _serves(self, cluster_oid: str, node_oid: str) -> bool:
        """Whether the node is a member that can be heard: nothing is taken from such a one unasked."""
        node = self._node(node_oid)
        if node is None or node.status is not NodeStatus.ONLINE:
            return False
        return self._member(cluster_oid, node_oid) is not None

    def _speaks(self, worker: WorkerRow) -> bool:
        """Whether its node, which was silent when this was planned, has been heard since."""
        return worker.node_oid is not None and self._heard_since(worker.node_oid)

    def _load(self, node_oid: str) -> Counter[str]:
        if node_oid not in self._on_node:
            held = self._tx.workers_on(node_oid)
            self._on_node[node_oid] = Counter(worker.cluster_oid for worker in held)
        return self._on_node[node_oid]

    def _bump(self, node_oid: str) -> int:
        if node_oid not in self._bumped:
            self._bumped[node_oid] = self._tx.bump_assignment(node_oid)
        return self._bumped[node_oid]


def _slots(group: GroupRow) -> int:
    """The highest ordinal that the group has a use for."""
    return group.scale + (group.max_surge if group.updating else 0)


def _was_running(status: ClusterState) -> dict[str, bool]:
    if status is ClusterState.RUNNING:
        return {"was_running": True}
    return {"was_running": False} if status in (ClusterState.STOPPED, ClusterState.STARTING) else {}
