"""Why a worker is as it is. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from busbar.bus.messages import NOT_READY, NOT_RELOADED, NOT_REPLACED, OUTDATED, QUEUED
from busbar.bus.placement import unmet
from busbar.bus.results import Statement
from busbar.bus.states import ASSIGNED, ClusterState, NodeStatus, WorkerState
from msgspec import Struct

from ..planner import draining, moving, rolling
from ..planner.failing import TRY_S
from ..planner.liveness import left_running, move_limit
from ..planner.model import ClusterView, GroupView, NodeView, WorkerView
from ..planner.status import about
from ..store.rows import ClusterRow, GroupRow, WorkerRow
from .nodes import say_candidates, say_node
from .scene import HISTORY, Past, Scene, Told, by, plural, seconds

_W, _C = WorkerState, ClusterState
_OUTPUT: Final = "; last output: "
_RESTARTED: Final = "restarted: "
_PROBLEMS: Final = (NOT_REPLACED, OUTDATED, NOT_RELOADED, "not told of its present peers", "does not answer")
PEERS: Final = 8
_VERBS: Final = {
    "pending": "had no place",
    "starting": "was started",
    "restarting": "was restarted",
    "ready": "was ready",
    "failed": "failed",
    "stopped": "was stopped",
    "moved": "was moved",
    "unknown": "was not heard of any more",
}


class _Case(Struct, frozen=True):
    """A worker that is wanted, with the views that the planner decides upon."""

    scene: Scene
    told: Told
    row: WorkerRow
    cluster: ClusterView
    group: GroupView
    view: WorkerView
    node: NodeView | None

    def reachable(self) -> list[WorkerView]:
        """The group's workers on members that are online."""
        members = {member.node_oid for member in self.cluster.members}
        online = self.scene.fleet.status
        return [
            worker
            for worker in self.group.workers
            if worker.state in ASSIGNED
            and worker.node_oid in members
            and online.get(worker.node_oid or "") is NodeStatus.ONLINE
        ]

    @property
    def where(self) -> str:
        return self.scene.fleet.name(self.row.node_oid)


def explain_worker(scene: Scene) -> list[Statement]:
    """Why a worker is as it is: what befell it, what keeps it from running, what happens next."""
    told, row, cluster, group = Told(), scene.worker, scene.cluster, scene.group
    assert row is not None and cluster is not None and group is not None
    name = f"{cluster.name}/{row.name}"
    for past, times in _folded(scene, row):
        told.say("history", _worker_event(name, past, times), past)
    if not say_unwanted(scene, told, cluster, group) and not _say_surplus(scene, told, group, row):
        say_present(scene, told, row)
    where = f" on {scene.fleet.name(row.node_oid)}" if row.node_oid else ""
    return told.all(f"worker {name} is {row.state}{where}, with revision {row.revision} of its group")


def say_unwanted(scene: Scene, told: Told, cluster: ClusterRow, group: GroupRow | None) -> bool:
    """Whether a cluster or a group is not to run, and who ordered that."""
    if cluster.status in (_C.STOPPED, _C.STOPPING):
        past = scene.last(cluster.oid, "stopping", "created")
        verb = "was created, and not started yet," if past and past.verb == "created" else "was stopped"
        told.say("stopped", f"cluster {cluster.name} {verb}{by(past)}: it is {cluster.status}", past)
        if cluster.status is _C.STOPPING:
            told.say("stopping", f"workers of cluster {cluster.name} are still being stopped")
        return True
    if cluster.status is _C.PAUSED:
        told.say("paused", f"cluster {cluster.name} is paused: nothing is started or moved")
        return True
    if group is not None and group.stop_ordered:
        past = scene.last(group.oid, "stopping")
        told.say("group_stopped", f"group {cluster.name}/{group.name} was stopped by itself{by(past)}", past)
        return True
    return False


def say_present(scene: Scene, told: Told, row: WorkerRow) -> None:
    """What keeps a worker that is wanted from running, or from being as it should."""
    cluster = scene.cluster_view(row.cluster_oid)
    group = scene.group_view(row.cluster_oid, row.group_oid)
    view = scene.worker_view(row)
    if cluster is None or group is None or view is None:
        # Only between a commit and the snapshot that follows it.
        if row.state is not _W.RUNNING:
            told.say("to_be_placed", "the manager has just been told of it; ask again")
        return
    node = scene.snapshot.nodes.get(row.node_oid or "")
    case = _Case(scene, told, row, cluster, group, view, node)
    _PRESENT[row.state](case)


def _say_surplus(scene: Scene, told: Told, group: GroupRow, row: WorkerRow) -> bool:
    view = scene.group_view(row.cluster_oid, row.group_oid)
    if row.ordinal <= (group.scale if view is None else rolling.slots(view)):
        return False
    past = scene.last(group.oid, "scaled")
    told.say("surplus", f"group {group.name} was scaled to {group.scale}{by(past)}: it is one too many", past)
    return True


def _pending(case: _Case) -> None:
    scene, told, row = case.scene, case.told, case.row
    if row.last_node_oid:
        say_node(scene, told, row.last_node_oid)
    if say_candidates(scene, told, case.cluster, case.group):
        told.say("to_be_placed", "a node takes it: it is placed with the next pass of the manager")
    else:
        told.say("no_place", f"no node takes it: {scene.candidates(case.cluster, case.group).reason()}")


def _starting(case: _Case) -> None:
    scene, told, reason = case.scene, case.told, case.row.reason
    _say_own_node(case)
    if reason and reason.startswith(QUEUED):
        told.say("starting", f"{case.where} starts it when it may: {reason.removeprefix(QUEUED)}")
    elif reason and reason.startswith(NOT_READY):
        _say_failure(case, "starting", f"its process on {case.where} runs, and is not ready yet", NOT_READY)
    else:
        _say_failure(case, "starting", f"its process on {case.where} is not ready yet", "")
    _say_restarts(case)
    if rolling.ready_of(case.group) == 0:
        since = max(case.group.since, case.group.none_ready_since or case.group.since)
        left = since + case.group.start_deadline - scene.now
        when = f"in {seconds(left)}" if left > 0 else "now"
        limit = seconds(case.group.start_deadline)
        told.say("deadline", f"a group without a ready worker for {limit} is ERROR: {when}")


def _backoff(case: _Case) -> None:
    scene, told = case.scene, case.told
    _say_own_node(case)
    _say_failure(case, "failing", f"its process on {case.where} fails", "")
    _say_restarts(case)
    since = case.view.failing_since
    if scene.fleet.hold:
        told.say("brake", f"it is tried nowhere else: {scene.fleet.hold}")
    elif since is not None and scene.now - since < TRY_S:
        told.say("next", f"it is tried on another node that has room in {seconds(since + TRY_S - scene.now)}")
    elif len(case.cluster.members) > 1:
        say_candidates(scene, told, case.cluster, case.group, but=case.row.node_oid)


def _unknown(case: _Case) -> None:
    scene, told, row, node = case.scene, case.told, case.row, case.node
    told.say("unknown", row.reason or "nothing is heard of it")
    if node is None:
        told.say("node_gone", "its node is not known any more")
        return
    _say_own_node(case)
    member = any(each.node_oid == node.oid for each in case.cluster.members)
    limit = move_limit(node, case.group.lost_after, scene.fleet.timing, member=member)
    left = limit - scene.fleet.silence(node.oid)
    what = "runs on where its agent left it, and is moved" if left_running(node) else "is moved"
    rule = (
        f"it {what} {seconds(limit)} after its node was last heard (lost_after of group {case.group.name}: "
    )
    when = f"in {seconds(left)}" if left > 0 else f"{seconds(-left)} ago"
    told.say("lost_after", f"{rule}{seconds(case.group.lost_after)}): {when}")
    if left > 0:
        return
    if scene.fleet.hold:
        told.say("brake", f"it is not moved: {scene.fleet.hold}")
    elif not say_candidates(scene, told, case.cluster, case.group, but=node.oid):
        told.say("not_moved", f"it is not moved: {scene.candidates(case.cluster, case.group).reason()}")


def _stopping(case: _Case) -> None:
    told, row = case.told, case.row
    _say_own_node(case)
    told.say("stopping", f"it is being stopped on {case.where}{f': {row.reason}' if row.reason else ''}")
    told.say("next", "it is placed again once its node reports it gone")


def _running(case: _Case) -> None:
    scene, told, row, group = case.scene, case.told, case.row, case.group
    _say_own_node(case)
    if case.node is not None and case.node.draining:
        why = scene.fleet.hold or draining.blocker(group, case.reachable(), case.view)
        if why:
            told.say("not_moved", f"it stays for now: {why}")
        elif not say_candidates(scene, told, case.cluster, group, but=row.node_oid):
            told.say("not_moved", "it stays: no other node takes it")
    if rolling.updating(group) and rolling.outdated(group, case.view):
        _say_outdated(case)
    if group.mesh:
        _say_mesh(case)
    for part in (row.reason or "").split("; "):
        if part.startswith(_PROBLEMS):
            told.say("unhealthy", part)
    if row.reason and _RESTARTED in row.reason:
        _say_failure(case, "restarts", "it was restarted", row.reason.partition(_RESTARTED)[0] + _RESTARTED)
    _say_restarts(case)


def _say_outdated(case: _Case) -> None:
    scene, told, group = case.scene, case.told, case.group
    past = scene.last(group.oid, "updating")
    told.say(
        "outdated",
        f"it runs revision {case.row.revision}; group {case.cluster.name}/{group.name} was updated{by(past)}"
        f" to revision {group.revision}",
        past,
    )
    done = rolling.progress(group.revision, rolling.updated(group), group.scale)
    if scene.fleet.hold:
        told.say("brake", f"nothing is replaced: {scene.fleet.hold}")
    if group.held_back:
        told.say("rollout_halted", f"the rollout can't go on ({done}): {group.held_back}")
        return
    budget = rolling.disruption_budget(group, case.reachable())
    if budget.allows(case.view):
        told.say("rollout_waits", f"it is replaced with one of the next passes of the manager ({done})")
        return
    told.say(
        "rollout_waits",
        f"the disruption budget holds it back ({done}): {budget.ready} of {group.scale} workers are ready,"
        f" and at least {budget.least} stay so; {budget.in_flight} of at most {budget.most} are on the way",
    )
    flying = [w for w in group.workers if w.revision == group.revision and w.state is not _W.RUNNING]
    for worker in flying[:PEERS]:
        told.say("worker_not_ready", about(worker.name, worker.state, worker.reason))


def _say_mesh(case: _Case) -> None:
    seen, told = case.row.mesh, case.told
    if seen is None or seen.connected is None or seen.connected >= seen.of:
        return
    told.say("not_meshed", f"it is connected to {seen.connected} of {plural(seen.of, 'peer')}")
    states = {worker.name: worker for worker in case.group.workers}
    for name in seen.missing[:PEERS]:
        peer = states.get(name)
        what = about(name, peer.state, peer.reason) if peer else "it is no worker of the group now"
        told.say("not_meshed", f"it is not connected to {name}; {what}")


def _say_own_node(case: _Case) -> None:
    """What is wrong with the node that the worker is on."""
    node_oid = case.row.node_oid
    if node_oid is None:
        return
    if case.node is not None and not any(each.node_oid == node_oid for each in case.cluster.members):
        told = f"{case.where} is no longer a node of cluster {case.cluster.name}"
        case.told.say("not_member", told, about=f"node {case.where}")
    if case.node is not None and (lacks := unmet(case.group.placement, case.node.labels)):
        case.told.say("misplaced", f"it stays on {case.where}, which {lacks}", about=f"node {case.where}")
    say_node(case.scene, case.told, node_oid)
    _say_move(case)


def _say_move(case: _Case) -> None:
    """Where the worker is ordered to be, and what that waits for."""
    move, fleet = case.view.move, case.scene.fleet
    if move is None:
        return
    why = fleet.hold or moving.blocker(case.group, case.reachable(), case.view)
    waits = f"; it waits: {why}" if why and case.view.state is not _W.STOPPING else ""
    case.told.say("next", f"it is to move to {fleet.name(move.node)}: {move.reason}{waits}")


def _say_failure(case: _Case, code: str, head: str, prefix: str) -> None:
    """A reason as its agent gives it: what happened, and each of the last lines of output."""
    reason = (case.row.reason or "").removeprefix(prefix)
    text, _, output = reason.partition(_OUTPUT)
    case.told.say(code, f"{head}: {text}" if text else head)
    for line in output.split(" | ") if output else ():
        case.told.say("output", f"its last output: {line}")


def _say_restarts(case: _Case) -> None:
    if case.row.restarts:
        case.told.say("restarts", f"it was restarted {plural(case.row.restarts, 'time')} on {case.where}")


def _folded(scene: Scene, row: WorkerRow) -> list[tuple[Past, int]]:
    """The last events of a worker; a run of the same ones is told once, with how often."""
    found: list[tuple[Past, int]] = []
    for past in scene.events.get(row.oid, ()):
        if found and (found[-1][0].verb, found[-1][0].reason) == (past.verb, past.reason):
            found[-1] = (past, found[-1][1] + 1)
        else:
            found.append((past, 1))
    return found[-HISTORY:]


def _worker_event(name: str, past: Past, times: int) -> str:
    did, node = _VERBS.get(past.verb, past.verb), past.data.get("node")
    where = f" {'to' if past.verb == 'moved' else 'on'} {node}" if node else ""
    reason = (past.reason or "").partition(_OUTPUT)[0]
    often = f" ({times} times)" if times > 1 else ""
    return f"worker {name} {did}{where}{often}{f': {reason}' if reason else ''}"


_PRESENT: Final[dict[WorkerState, Callable[[_Case], None]]] = {
    _W.PENDING: _pending,
    _W.STOPPED: _pending,
    _W.STARTING: _starting,
    _W.BACKOFF: _backoff,
    _W.UNKNOWN: _unknown,
    _W.STOPPING: _stopping,
    _W.RUNNING: _running,
}
