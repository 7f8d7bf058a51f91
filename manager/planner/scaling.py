"""Actions for the workers of one cluster: slots, placements, evictions, replacements and stops. Pure."""

from __future__ import annotations

from busbar.bus.plans import MoveOrder
from busbar.bus.states import ASSIGNED, STARTED, ClusterState, NodeStatus, WorkerState
from msgspec import Struct, field

from . import draining, failing, moving, rolling
from .admission import Refusal
from .liveness import Fleet, left_running, move_limit
from .model import (
    Action,
    BlockRollout,
    CancelMove,
    ClusterView,
    CompleteRollout,
    CreateWorker,
    DropWorker,
    Evict,
    Explain,
    GroupView,
    MarkPending,
    MarkStopped,
    MarkUnknown,
    NodeView,
    Place,
    Relocate,
    Replace,
    StopCause,
    Unassign,
    WorkerView,
)
from .placement import Candidate, Candidates, Load

_W = WorkerState
_NOT_STARTED = "; it is not started there"
"""How the reasons of workers end whose nodes follow another manager."""


class _GroupPlan(Struct):
    """One group while it is planned."""

    fleet: Fleet
    load: Load
    cluster: ClusterView
    view: GroupView
    members: frozenset[str]
    actions: list[Action] = field(default_factory=list)
    waiting: list[WorkerView] = field(default_factory=list)
    silent: list[WorkerView] = field(default_factory=list)
    reachable: list[WorkerView] = field(default_factory=list)
    """Assigned to members that are online."""
    unplaceable: list[WorkerView] = field(default_factory=list)
    """Waiting, and admitted by no node."""
    candidates: Candidates | None = None

    def reserve(self) -> Candidate | None:
        """A node for one more worker; candidates are collected once, and only when they are asked for."""
        return self._candidates().reserve()

    def reserve_fit(self) -> Candidate | None:
        """As `reserve`, a node on which no worker of the group fails to start, or has failed of late."""
        return self._candidates().reserve(failing.unfit(self.view, self.fleet.now))

    def reserve_at(self, node_oid: str) -> bool:
        """Whether that node takes one more worker, which is counted there then."""
        return self._candidates().reserve_at(node_oid)

    def move_refusal(self, move: MoveOrder) -> tuple[Refusal | None, bool]:
        """As `Candidates.move_refusal`."""
        return self._candidates().move_refusal(move)

    def avoided(self) -> str:
        """The avoided nodes, as the end of a reason."""
        return self._candidates().avoided()

    def chosen(self, node: Candidate) -> str:
        """Why that node."""
        held = "1 worker" if node.total == 1 else f"{node.total} workers"
        why = f"{node.name} is the least loaded node with capacity ({held})"
        return why + self._candidates().spread_of(node)

    def unmet(self, node_oid: str) -> str | None:
        """What the node lacks of the labels that the group requires, as a predicate."""
        return self._candidates().unmet(node_oid) if self.view.placement else None

    def why_not(self) -> str:
        """Why `reserve` found none."""
        return self._candidates().reason()

    def rejects(self, node_oid: str) -> str | None:
        """What the node's schema of the runtime has against the group's transport."""
        told = self.view.runtime in self.fleet.nodes[node_oid].schemas
        return self._candidates().rejects(node_oid) if told else None

    def _candidates(self) -> Candidates:
        if self.candidates is None:
            self.candidates = Candidates(self.fleet, self.load, self.cluster, self.view)
        return self.candidates


def plan_workers(fleet: Fleet, load: Load, cluster: ClusterView) -> list[Action]:
    """Actions for the workers of a cluster; placements are counted in `load`. A PAUSED cluster has none."""
    members = frozenset(member.node_oid for member in cluster.members)
    actions: list[Action] = []
    for view in sorted(cluster.groups, key=lambda group: group.name):
        group = _GroupPlan(fleet, load, cluster, view, members)
        if cluster.status in STARTED and not view.stop_ordered:
            _run(group)
        elif cluster.status is not ClusterState.PAUSED:
            _stop(group)
        actions += group.actions
    return actions


def _stop(group: _GroupPlan) -> None:
    """The group is to stop: unassign every worker; it is STOPPED once it is known to be gone."""
    view, cluster = group.view, group.cluster
    reason = f"group {view.name} is to stop" if view.stop_ordered else f"cluster {cluster.name} is to stop"
    for worker in group.view.workers:
        if worker.state in ASSIGNED:
            group.actions.append(Unassign(worker.oid, reason))
        elif worker.state is _W.STOPPING:
            _stopping(group, worker)
        elif worker.ordinal > group.view.scale:
            group.actions.append(DropWorker(worker.oid, _scale_reason(group)))
        elif worker.state is _W.PENDING:
            group.actions.append(MarkStopped(worker.oid, reason))


def _run(group: _GroupPlan) -> None:
    """The cluster is to run: one worker per slot, each on a member that is online."""
    surplus = []
    wanted, slots = 0, rolling.slots(group.view)
    for worker in group.view.workers:
        if worker.ordinal > slots:
            surplus.append(worker)
            continue
        wanted += 1
        if worker.state in ASSIGNED:
            _assigned(group, worker)
        else:
            _unassigned(group, worker)
    for worker in sorted(surplus, key=lambda worker: -worker.ordinal):
        _surplus(group, worker)
    _place_waiting(group)
    if wanted < slots:
        _create(group, slots)
    _evict_silent(group)
    if rolling.updating(group.view) and _roll_out(group):
        return
    if not (_relocate(group) or _drain(group)):
        _move(group)


def _create(group: _GroupPlan, slots: int) -> None:
    """Open the missing slots, each on a node if one admits it."""
    existing = {worker.ordinal for worker in group.view.workers}
    for ordinal in range(1, slots + 1):
        if ordinal not in existing:
            node = group.reserve()
            reason = _opened(group, ordinal, node) if node else group.why_not()
            node_oid = node.node_oid if node else None
            group.actions.append(CreateWorker(group.view.oid, ordinal, reason, node_oid))


def _surplus(group: _GroupPlan, worker: WorkerView) -> None:
    if worker.state in ASSIGNED:
        group.actions.append(Unassign(worker.oid, _scale_reason(group), StopCause.SURPLUS))
    elif worker.state is _W.STOPPING:
        _stopping(group, worker)
    else:
        group.actions.append(DropWorker(worker.oid, _scale_reason(group)))


def _unassigned(group: _GroupPlan, worker: WorkerView) -> None:
    if worker.state is not _W.STOPPING:
        group.waiting.append(worker)
    elif _may_reassign(group, worker):
        _stopping(group, worker)


def _may_reassign(group: _GroupPlan, worker: WorkerView) -> bool:
    """Whether a stopping worker that is wanted again may be placed before its node reports it gone.

    The node may not know that it was to stop: that is a move, under the same limits as an eviction, unless
    the operator has removed the node.
    """
    fleet, node_oid = group.fleet, worker.node_oid
    if node_oid is None or not _is_member(group, node_oid):
        return True
    if fleet.hold:
        return False
    refused = fleet.refuses(node_oid, group.view.lost_after)
    return refused or fleet.silence(node_oid) >= _limit(group, node_oid)


def _stopping(group: _GroupPlan, worker: WorkerView) -> None:
    fleet = group.fleet
    if fleet.gave_up(worker.node_oid, member=_is_member(group, worker.node_oid)):
        standing = _standing(fleet, worker.node_oid, "was")
        reason = f"counted as stopped while {standing}: it is no longer assigned"
        group.actions.append(MarkStopped(worker.oid, reason))


def _assigned(group: _GroupPlan, worker: WorkerView) -> None:
    fleet, node_oid = group.fleet, worker.node_oid
    if _is_member(group, node_oid) and fleet.status.get(node_oid or "") is NodeStatus.ONLINE:
        group.reachable.append(worker)
        _refused(group, worker)
        return
    if node_oid in fleet.nodes and (_is_member(group, node_oid) or not fleet.hears(node_oid)):
        group.silent.append(worker)
        return
    reason = _removed_reason(group, node_oid)
    hears = fleet.hears(node_oid)
    group.actions.append(
        Unassign(worker.oid, reason, StopCause.REMOVED) if hears else Evict(worker.oid, reason)
    )


def _refused(group: _GroupPlan, worker: WorkerView) -> None:
    """A worker that its node does not start as it follows another manager: said, and in time evicted.

    What the node reports as having a process stays, whomever the node follows.
    """
    fleet, node = group.fleet, group.fleet.nodes[worker.node_oid or ""]
    if worker.state is not _W.STARTING or worker.pid is not None:
        return
    if node.refuses is None:
        if (worker.reason or "").endswith(_NOT_STARTED):
            group.actions.append(Explain(worker.oid, f"node {node.name} follows this manager again"))
        return
    reason = f"node {node.name} {node.refuses}{_NOT_STARTED}"
    if fleet.refuses(node.oid, group.view.lost_after):
        blocker = f": {fleet.hold}" if fleet.hold else None
        if blocker is None and group.reserve() is None:
            blocker = f"; not rescheduled: {group.why_not()}"
        if blocker is None:
            group.actions.append(Evict(worker.oid, reason, refused=True))
            return
        reason = f"node {node.name} {node.refuses}{blocker}{_NOT_STARTED}"
    if worker.reason != reason:
        group.actions.append(Explain(worker.oid, reason))


def _is_member(group: _GroupPlan, node_oid: str | None) -> bool:
    """Whether the node is a member; an unpaired one is none, whatever rows there are."""
    status = group.fleet.status.get(node_oid or "")
    return node_oid in group.members and status not in (None, NodeStatus.UNPAIRED)


def _removed_reason(group: _GroupPlan, node_oid: str | None) -> str:
    return f"{group.fleet.name(node_oid)} is no longer a node of cluster {group.cluster.name}"


def _place_waiting(group: _GroupPlan) -> None:
    for worker in sorted(group.waiting, key=lambda worker: worker.ordinal):
        if worker.move is not None and group.reserve_at(worker.move.node):
            group.actions.append(Place(worker.oid, worker.move.node, worker.move.reason))
            continue
        node = group.reserve()
        if node is not None:
            reason = group.chosen(node) + group.avoided()
            group.actions.append(Place(worker.oid, node.node_oid, reason))
            continue
        group.unplaceable.append(worker)
        reason = group.why_not()
        if worker.state is _W.STOPPED or worker.reason != reason:
            group.actions.append(MarkPending(worker.oid, reason))


def _evict_silent(group: _GroupPlan) -> None:
    """Workers of silent nodes: evicted after the limit, unless something blocks it; UNKNOWN until then."""
    for worker in sorted(group.silent, key=lambda worker: worker.ordinal):
        blocker = _eviction_blocker(group, worker)
        if blocker is None:
            reason = f"{_located(group, worker)} for over {_limit(group, worker.node_oid):g} s"
            group.actions.append(Evict(worker.oid, reason))
            continue
        reason = _located(group, worker) + blocker
        if worker.state is not _W.UNKNOWN or worker.reason != reason:
            group.actions.append(MarkUnknown(worker.oid, reason))


def _roll_out(group: _GroupPlan) -> bool:
    """Continue a rollout: replace what the disruption budget allows, report what blocks it, complete it.

    True when a worker was taken down: then a drain must not take down another in this pass.
    """
    view = group.view
    if rolling.is_complete(view, group.reachable):
        reason = f"every worker is ready with revision {view.revision}"
        group.actions.append(CompleteRollout(view.oid, view.revision, reason))
        return False
    budget = rolling.disruption_budget(view, group.reachable)
    before = budget.in_flight
    blocked = None
    for worker in rolling.order(view, group.reachable):
        if not budget.allows(worker):
            break
        blocked = _replace(group, worker)
        if blocked is None:
            budget.spend(worker)
    surge = rolling.surge_to_release(view, group.reachable, group.unplaceable, budget)
    if surge is not None:
        reason = f"{surge.name} makes room for a worker that is asked for"
        group.actions.append(Unassign(surge.oid, reason, StopCause.SURPLUS))
    if blocked != view.held_back:
        group.actions.append(BlockRollout(view.oid, blocked, blocked or "nothing blocks the rollout"))
    return surge is not None or budget.in_flight > before


def _replace(group: _GroupPlan, worker: WorkerView) -> str | None:
    """Replace a worker in place, or elsewhere if its node drains or lacks the runtime or, where another node
    has room, a label; None or a blocker."""
    if group.fleet.hold:
        return f"{worker.name} is not replaced: {group.fleet.hold}"
    reason = f"update to revision {group.view.revision}"
    node = group.fleet.nodes[worker.node_oid or ""]
    if node.refuses is not None:
        return f"{worker.name} stays as it is: {node.name} {node.refuses}"
    if node.draining and group.reserve() is not None:
        group.actions.append(Unassign(worker.oid, f"{reason}; {node.name} is draining", StopCause.DRAINING))
    elif (unmet := group.unmet(node.oid)) is not None and group.reserve() is not None:
        group.actions.append(Unassign(worker.oid, f"{reason}; {node.name} {unmet}"))
    elif (missing := _missing(group, node)) is None:
        group.actions.append(Replace(worker.oid, reason))
    elif group.reserve() is not None:
        group.actions.append(Unassign(worker.oid, f"{reason}, {missing}"))
    else:
        return f"{worker.name} stays as it is: {group.why_not()}"
    return None


def _missing(group: _GroupPlan, node: NodeView) -> str | None:
    """Why a node can't run what the group asks for, as the end of a reason."""
    if group.view.runtime not in node.runtimes:
        return f"whose runtime {node.name} does not offer"
    rejects = group.rejects(node.oid)
    return f"whose transport {node.name} does not accept ({rejects})" if rejects else None


def _relocate(group: _GroupPlan) -> bool:
    """Have one worker that can't start on its node tried on another; True when there was one."""
    worker = None if group.fleet.hold else failing.to_move(group.view, group.reachable, group.fleet.now)
    if worker is None or worker.node_oid is None or group.reserve_fit() is None:
        return False
    where = group.fleet.name(worker.node_oid)
    why = f": {worker.reason}" if worker.reason else ""
    reason = f"it can't start on {where}, which its group avoids for {failing.AVOID_S:g} s{why}"
    group.actions.append(Relocate(worker.oid, group.view.oid, worker.node_oid, reason))
    return True


def _drain(group: _GroupPlan) -> bool:
    """Move one worker off its draining node, if its group can do without it and another node admits it; True
    when there was one."""
    gone = False
    if not group.load.draining:
        return gone
    for worker in draining.to_move(group.load.draining, group.reachable):
        why = f"{worker.name} is being replaced" if gone else _drain_blocker(group, worker)
        node = group.fleet.nodes[worker.node_oid or ""]
        if why is None:
            gone = True
            group.actions.append(Unassign(worker.oid, f"{node.name} is draining", StopCause.DRAINING))
        elif not gone:
            group.load.stays[node.oid][f"{group.cluster.name}/{worker.name}"] = why
    return gone


def _move(group: _GroupPlan) -> None:
    """Take one worker that is ordered elsewhere off its node, if its group can do without it; give up the
    orders that can't be carried out."""
    gone = bool(group.fleet.hold)
    for worker in moving.to_move(group.reachable):
        if worker.move is None or group.fleet.nodes[worker.node_oid or ""].refuses is not None:
            continue
        refused, waits = group.move_refusal(worker.move)
        if refused is not None and not waits:
            reason = f"{group.fleet.name(worker.move.node)} {refused.text}"
            group.actions.append(CancelMove(worker.oid, reason))
        elif refused is None and not gone and not moving.blocker(group.view, group.reachable, worker):
            gone = True
            group.actions.append(Unassign(worker.oid, worker.move.reason, StopCause.MOVE))


def _drain_blocker(group: _GroupPlan, worker: WorkerView) -> str | None:
    """Why the worker stays for now; None when it is to move, and room is reserved for it."""
    if group.fleet.hold:
        return group.fleet.hold
    why = draining.blocker(group.view, group.reachable, worker)
    if why is None and group.reserve() is None:
        why = group.why_not()
    return why


def _eviction_blocker(group: _GroupPlan, worker: WorkerView) -> str | None:
    """What blocks an eviction (empty: it is not due yet); None when it is to be evicted now."""
    fleet, node_oid = group.fleet, worker.node_oid
    assert node_oid is not None
    if fleet.status[node_oid] is NodeStatus.LATE or fleet.silence(node_oid) < _limit(group, node_oid):
        return _left_running(group, node_oid)
    if not _is_member(group, node_oid):
        return None
    if fleet.hold:
        return f"; it is not moved: {fleet.hold}"
    if group.reserve() is None:
        return f"; not rescheduled: {group.why_not()}"
    return None


def _limit(group: _GroupPlan, node_oid: str | None) -> float:
    """Seconds of silence after which this group's workers are evicted from the node."""
    node, member = group.fleet.nodes[node_oid or ""], _is_member(group, node_oid)
    return move_limit(node, group.view.lost_after, group.fleet.timing, member=member)


def _left_running(group: _GroupPlan, node_oid: str) -> str:
    """Why the workers of a node whose agent has exited stay, as the end of a reason; empty otherwise."""
    if not (_is_member(group, node_oid) and left_running(group.fleet.nodes[node_oid])):
        return ""
    limit = _limit(group, node_oid)
    return f"; its workers run on, and are moved after {limit:g} s, or at once by draining it"


def _located(group: _GroupPlan, worker: WorkerView) -> str:
    standing = _standing(group.fleet, worker.node_oid)
    if _is_member(group, worker.node_oid):
        return standing
    return f"{_removed_reason(group, worker.node_oid)}, and {standing.removeprefix('node ')}"


def _standing(fleet: Fleet, node_oid: str | None, verb: str = "is") -> str:
    status, node = fleet.status.get(node_oid or ""), fleet.nodes.get(node_oid or "")
    if node is not None and node.refuses is not None and status is NodeStatus.ONLINE:
        return f"node {node.name} {node.refuses}"
    return f"node {fleet.name(node_oid)} {verb} {status}" if status else fleet.name(node_oid)


def _scale_reason(group: _GroupPlan) -> str:
    return f"group {group.view.name} is scaled to {group.view.scale}"


def _opened(group: _GroupPlan, ordinal: int, node: Candidate) -> str:
    if ordinal <= group.view.scale:
        return group.chosen(node)
    return f"surge of the update to revision {group.view.revision}; {group.chosen(node)}"
