"""What is to become of every worker of one cluster: slots, stops, moves and places. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from busbar.bus.states import ASSIGNED, STARTED, ClusterState, NodeStatus, WorkerState

from . import draining, rolling
from .liveness import Fleet, move_limit
from .model import (
    Action,
    ClusterView,
    CreateWorker,
    Displace,
    DropWorker,
    Ground,
    GroupView,
    HoldBack,
    MarkStopped,
    MarkUnknown,
    Pend,
    Place,
    Renew,
    Settle,
    Unassign,
    WorkerView,
)
from .placement import Candidate, Candidates, Load

_W = WorkerState


@dataclass(slots=True)
class _Group:
    """One group while its workers are looked at."""

    fleet: Fleet
    load: Load
    cluster: ClusterView
    view: GroupView
    members: frozenset[str]
    actions: list[Action] = field(default_factory=list)
    waiting: list[WorkerView] = field(default_factory=list)
    silent: list[WorkerView] = field(default_factory=list)
    steady: list[WorkerView] = field(default_factory=list)
    """Placed on members that can be heard."""
    homeless: list[WorkerView] = field(default_factory=list)
    """Waiting, and no node has room."""
    candidates: Candidates | None = None

    def reserve(self) -> Candidate | None:
        """A node for one more worker; candidates are collected once, and only when they are asked for."""
        return self._candidates().reserve()

    def why_not(self) -> str:
        """Why `reserve` found none."""
        return self._candidates().reason()

    def _candidates(self) -> Candidates:
        if self.candidates is None:
            self.candidates = Candidates(self.fleet, self.load, self.cluster, self.view)
        return self.candidates


def work(fleet: Fleet, load: Load, cluster: ClusterView) -> list[Action]:
    """Actions for the workers of a cluster; `load` is kept up to date with the places given away.

    A PAUSED cluster is left alone.
    """
    members = frozenset(member.node_oid for member in cluster.members)
    actions: list[Action] = []
    for view in sorted(cluster.groups, key=lambda group: group.name):
        group = _Group(fleet, load, cluster, view, members)
        if cluster.status in STARTED:
            _keep(group)
        elif cluster.status is not ClusterState.PAUSED:
            _wind_down(group)
        actions += group.actions
    return actions


def _wind_down(group: _Group) -> None:
    """The cluster is to stop: every worker goes, and is STOPPED once it is known to be gone."""
    reason = f"cluster {group.cluster.name} is to stop"
    for worker in group.view.workers:
        if worker.state in ASSIGNED:
            group.actions.append(Unassign(worker.oid, reason))
        elif worker.state is _W.STOPPING:
            _stopping(group, worker)
        elif worker.ordinal > group.view.scale:
            group.actions.append(DropWorker(worker.oid, _asked(group)))
        elif worker.state is _W.PENDING:
            group.actions.append(MarkStopped(worker.oid, reason))


def _keep(group: _Group) -> None:
    """The cluster is to run: as many workers as asked for, each on a node that can be heard."""
    surplus = []
    wanted, slots = 0, rolling.slots(group.view)
    for worker in group.view.workers:
        if worker.ordinal > slots:
            surplus.append(worker)
            continue
        wanted += 1
        if worker.state in ASSIGNED:
            _placed(group, worker)
        else:
            _unplaced(group, worker)
    for worker in sorted(surplus, key=lambda worker: -worker.ordinal):
        _too_many(group, worker)
    _give_places(group)
    if wanted < slots:
        _create(group, slots)
    _move_silent(group)
    if rolling.updating(group.view) and _roll(group):
        return
    _drain(group)


def _create(group: _Group, slots: int) -> None:
    """New slots, each with a place if there is one."""
    existing = {worker.ordinal for worker in group.view.workers}
    for ordinal in range(1, slots + 1):
        if ordinal not in existing:
            node = group.reserve()
            reason = _opened(group, ordinal, node) if node else group.why_not()
            node_oid = node.node_oid if node else None
            group.actions.append(CreateWorker(group.view.oid, ordinal, reason, node_oid))


def _too_many(group: _Group, worker: WorkerView) -> None:
    if worker.state in ASSIGNED:
        group.actions.append(Unassign(worker.oid, _asked(group), Ground.SURPLUS))
    elif worker.state is _W.STOPPING:
        _stopping(group, worker)
    else:
        group.actions.append(DropWorker(worker.oid, _asked(group)))


def _unplaced(group: _Group, worker: WorkerView) -> None:
    if worker.state is not _W.STOPPING:
        group.waiting.append(worker)
    elif _may_return(group, worker):
        _stopping(group, worker)


def _may_return(group: _Group, worker: WorkerView) -> bool:
    """Whether its slot, which is wanted, may come up elsewhere without a word of its node that it is gone.

    The node may not have heard that it was to leave: that is a move, and bound like any other, unless the
    operator has taken the node out.
    """
    fleet, node_oid = group.fleet, worker.node_oid
    if node_oid is None or not _member(group, node_oid):
        return True
    return not fleet.braked and fleet.silence(node_oid) >= _limit(group, node_oid)


def _stopping(group: _Group, worker: WorkerView) -> None:
    fleet = group.fleet
    if fleet.gave_up(worker.node_oid):
        reason = f"{_standing(fleet, worker.node_oid)}, and no longer has it assigned"
        group.actions.append(MarkStopped(worker.oid, reason))


def _placed(group: _Group, worker: WorkerView) -> None:
    fleet, node_oid = group.fleet, worker.node_oid
    if _member(group, node_oid) and fleet.status.get(node_oid or "") is NodeStatus.ONLINE:
        group.steady.append(worker)
        return
    if node_oid in fleet.nodes and (_member(group, node_oid) or not fleet.hears(node_oid)):
        group.silent.append(worker)
        return
    reason = _removed(group, node_oid)
    hears = fleet.hears(node_oid)
    group.actions.append(
        Unassign(worker.oid, reason, Ground.REMOVED) if hears else Displace(worker.oid, reason)
    )


def _member(group: _Group, node_oid: str | None) -> bool:
    """An unpaired node is a node of no cluster, whatever its memberships say."""
    status = group.fleet.status.get(node_oid or "")
    return node_oid in group.members and status not in (None, NodeStatus.UNPAIRED)


def _removed(group: _Group, node_oid: str | None) -> str:
    return f"{group.fleet.name(node_oid)} is no longer a node of cluster {group.cluster.name}"


def _give_places(group: _Group) -> None:
    for worker in sorted(group.waiting, key=lambda worker: worker.ordinal):
        node = group.reserve()
        if node is not None:
            group.actions.append(Place(worker.oid, node.node_oid, _chosen(node)))
            continue
        group.homeless.append(worker)
        reason = group.why_not()
        if worker.state is _W.STOPPED or worker.reason != reason:
            group.actions.append(Pend(worker.oid, reason))


def _move_silent(group: _Group) -> None:
    """Workers of nodes that can't be heard: moved once that has lasted, if nothing speaks against it."""
    for worker in sorted(group.silent, key=lambda worker: worker.ordinal):
        against = _against_moving(group, worker)
        if against is None:
            reason = f"{_where(group, worker)} for over {_limit(group, worker.node_oid):g} s"
            group.actions.append(Displace(worker.oid, reason))
            continue
        reason = _where(group, worker) + against
        if worker.state is not _W.UNKNOWN or worker.reason != reason:
            group.actions.append(MarkUnknown(worker.oid, reason))


def _roll(group: _Group) -> bool:
    """An update is under way: renew what can be spared, say what is in the way, notice when it is over.

    True when it took a worker down: nothing else may do so in this pass.
    """
    view = group.view
    if rolling.settled(view, group.steady):
        reason = f"every worker is ready with revision {view.revision}"
        group.actions.append(Settle(view.oid, view.revision, reason))
        return False
    balance = rolling.balance(view, group.steady)
    before = balance.in_flight
    held_back = None
    for worker in rolling.order(view, group.steady):
        if not balance.spares(worker):
            break
        held_back = _renew(group, worker)
        if held_back is None:
            balance.spend(worker)
    surge = rolling.yields(view, group.steady, group.homeless, balance)
    if surge is not None:
        reason = f"{surge.name} makes room for a worker that is asked for"
        group.actions.append(Unassign(surge.oid, reason, Ground.SURPLUS))
    if held_back != view.held_back:
        group.actions.append(HoldBack(view.oid, held_back, held_back or "nothing is in the way"))
    return surge is not None or balance.in_flight > before


def _renew(group: _Group, worker: WorkerView) -> str | None:
    """Renew a worker where it is, or elsewhere if its node does not offer the runtime; else say why not."""
    if group.fleet.braked:
        return f"{worker.name} is not renewed: {group.fleet.braked}"
    reason = f"update to revision {group.view.revision}"
    node = group.fleet.nodes[worker.node_oid or ""]
    if node.draining and group.reserve() is not None:
        group.actions.append(Unassign(worker.oid, f"{reason}; {node.name} is draining", Ground.DRAINING))
    elif group.view.runtime in node.runtimes:
        group.actions.append(Renew(worker.oid, reason))
    elif group.reserve() is not None:
        why = f"{reason}, whose runtime {node.name} does not offer"
        group.actions.append(Unassign(worker.oid, why))
    else:
        return f"{worker.name} stays as it is: {group.why_not()}"
    return None


def _drain(group: _Group) -> None:
    """One worker leaves its draining node, if its group can spare it and another node has room."""
    if not group.load.draining:
        return
    gone = False
    for worker in draining.leaving(group.load.draining, group.steady):
        why = f"{worker.name} is on its way" if gone else _against_leaving(group, worker)
        node = group.fleet.nodes[worker.node_oid or ""]
        if why is None:
            gone = True
            group.actions.append(Unassign(worker.oid, f"{node.name} is draining", Ground.DRAINING))
        elif not gone:
            group.load.stays[node.oid].append(f"{group.cluster.name}/{worker.name} stays: {why}")


def _against_leaving(group: _Group, worker: WorkerView) -> str | None:
    """Why it stays for now; None when it is to leave, for a place that is kept for it."""
    if group.fleet.braked:
        return group.fleet.braked
    why = draining.against(group.view, group.steady, worker)
    if why is None and group.reserve() is None:
        why = group.why_not()
    return why


def _against_moving(group: _Group, worker: WorkerView) -> str | None:
    """What is to be said against moving it (may be empty: not yet); None when it is to be moved now."""
    fleet, node_oid = group.fleet, worker.node_oid
    assert node_oid is not None
    if fleet.status[node_oid] is NodeStatus.LATE or fleet.silence(node_oid) < _limit(group, node_oid):
        return ""
    if not _member(group, node_oid):
        return None
    if fleet.braked:
        return f"; it is not moved: {fleet.braked}"
    if group.reserve() is None:
        return f"; it stays there: {group.why_not()}"
    return None


def _limit(group: _Group, node_oid: str | None) -> float:
    """Seconds of silence after which this group's workers leave a node."""
    return move_limit(group.fleet.nodes[node_oid or ""], group.view.lost_after, group.fleet.timing)


def _where(group: _Group, worker: WorkerView) -> str:
    standing = _standing(group.fleet, worker.node_oid)
    if _member(group, worker.node_oid):
        return standing
    return f"{_removed(group, worker.node_oid)}, and {standing.removeprefix('node ')}"


def _standing(fleet: Fleet, node_oid: str | None) -> str:
    status = fleet.status.get(node_oid or "")
    return f"node {fleet.name(node_oid)} is {status}" if status else fleet.name(node_oid)


def _asked(group: _Group) -> str:
    return f"group {group.view.name} asks for {group.view.scale}"


def _chosen(node: Candidate) -> str:
    held = "1 worker" if node.total == 1 else f"{node.total} workers"
    return f"{node.name} has the least load of the nodes with room ({held})"


def _opened(group: _Group, ordinal: int, node: Candidate) -> str:
    if ordinal <= group.view.scale:
        return _chosen(node)
    return f"surge of the update to revision {group.view.revision}; {_chosen(node)}"
