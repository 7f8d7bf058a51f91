"""Why a worker group or a cluster is as it is. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from busbar.bus.causes import CAUSES
from busbar.bus.placement import unmet
from busbar.bus.results import Statement
from busbar.bus.states import STARTED, ClusterState, NodeStatus, WorkerState

from ..planner import rolling
from ..planner.status import about, all_ready
from ..store.rows import ClusterRow, GroupRow, WorkerRow
from .nodes import say_node
from .scene import HISTORY, Past, Scene, Told, because, by, colon, plural
from .workers import say_present, say_unwanted

WORKERS: Final = 3
"""Workers of a group whose causes are told."""
GROUPS: Final = 3
NODES: Final = 8
_C = ClusterState
_GROUP_VERBS: Final = {
    "added": "was added",
    "scaled": "was scaled",
    "updating": "was updated",
    "updated": "finished its update",
    "starting": "was started",
    "stopping": "was stopped",
}
_CLUSTER_VERBS: Final = {
    "created": "was created",
    "updated": "was changed",
    "starting": "was started",
    "started": "was running",
    "stopping": "was stopped",
    "stopped": "had stopped",
    "degraded": "became DEGRADED",
    "recovered": "was RUNNING again",
    "failed": "became ERROR",
}


def explain_group(scene: Scene) -> list[Statement]:
    """Why a worker group is as it is."""
    told, cluster, group = Told(), scene.cluster, scene.group
    assert cluster is not None and group is not None
    name = f"{cluster.name}/{group.name}"
    for past in scene.events.get(group.oid, ())[-HISTORY:]:
        told.say("history", _group_event(name, past), past)
    if not say_unwanted(scene, told, cluster, group):
        _say_group(scene, told, group)
    return told.all(f"group {name} is {group.status}: {all_ready(group.scale)}")


def explain_cluster(scene: Scene) -> list[Statement]:
    """Why a cluster is as it is: its orders, its nodes, and its groups."""
    told, cluster = Told(), scene.cluster
    assert cluster is not None
    for past in scene.events.get(cluster.oid, ())[-HISTORY:]:
        told.say("history", _cluster_event(cluster, past), past)
    if not say_unwanted(scene, told, cluster, None):
        _say_cluster(scene, told, cluster)
    wanted = sum(group.scale for group in scene.groups if not group.stop_ordered)
    return told.all(f"cluster {cluster.name} is {cluster.status}: {all_ready(wanted)}")


def _say_cluster(scene: Scene, told: Told, cluster: ClusterRow) -> None:
    if not scene.groups:
        told.say(
            "next", f"cluster {cluster.name} has no worker groups: 'busbar group add {cluster.name}/NAME'"
        )
    view = scene.cluster_view(cluster.oid)
    members = view.members if view else ()
    if not members and scene.groups:
        told.say("no_members", f"cluster {cluster.name} has no nodes")
    silent = [
        each.node_oid for each in members if scene.fleet.status.get(each.node_oid) is not NodeStatus.ONLINE
    ]
    for node_oid in silent[:NODES]:
        say_node(scene, told, node_oid)
    if len(silent) > NODES:
        told.say("more", f"{plural(len(silent) - NODES, 'more node')} are not online")
    troubled = [group for group in scene.groups if not group.stop_ordered and _is_troubled(scene, group)]
    for group in troubled[:GROUPS]:
        name = f"{cluster.name}/{group.name}"
        told.say("group_not_running", f"group {name} is {group.status}{colon(group.reason)}", about=name)
        workers = [worker for worker in scene.workers if worker.group_oid == group.oid]
        _say_group(replace(scene, group=group, workers=workers), told, group)
    for group in scene.groups:
        if group not in troubled and not group.stop_ordered and _has_misplaced(scene, group):
            workers = [worker for worker in scene.workers if worker.group_oid == group.oid]
            _say_group(replace(scene, group=group, workers=workers), told, group)
    for group in troubled[GROUPS:]:
        told.say("group_not_running", f"group {cluster.name}/{group.name} is {group.status}")
    for group in scene.groups:
        if group.stop_ordered:
            told.say("next", f"group {cluster.name}/{group.name} is stopped by itself")


def _say_group(scene: Scene, told: Told, group: GroupRow) -> None:
    """What keeps a group that is wanted from running."""
    view = scene.group_view(group.cluster_oid, group.oid)
    slots = group.scale if view is None else rolling.slots(view)
    workers = [worker for worker in scene.workers if worker.ordinal <= slots]
    late = [worker for worker in workers if worker.state is not WorkerState.RUNNING]
    for worker in late[:WORKERS]:
        told.say("worker_not_ready", about(worker.name, worker.state, worker.reason), about=worker.name)
        _say_causes(scene, told, worker)
    if len(late) > WORKERS:
        told.say("worker_not_ready", f"{plural(len(late) - WORKERS, 'more worker')} are not ready")
    if len(workers) < group.scale and group.status in STARTED:
        missing = plural(group.scale - len(workers), "worker")
        told.say("to_be_placed", f"{missing} more are made with the next pass of the manager")
    if scene.unaccepted:
        told.say("not_accepted", scene.unaccepted)
    if view is None:
        return
    if rolling.updating(view):
        _say_rollout(scene, told, group)
    for worker in workers:
        node = scene.snapshot.nodes.get(worker.node_oid or "")
        if node is not None and (lacks := unmet(view.placement, node.labels)):
            told.say("misplaced", f"{worker.name} stays on {node.name}, which {lacks}", about=worker.name)
        seen = worker.mesh
        if group.mesh and seen is not None and seen.connected is not None and seen.connected < seen.of:
            text = f"{worker.name} is connected to {seen.connected} of {plural(seen.of, 'peer')}"
            told.say("not_meshed", text, about=worker.name)
    if told.is_well and group.status is not _C.RUNNING:
        told.say("group_not_running", f"it is {group.status}: it follows with the next pass of the manager")


def _say_causes(scene: Scene, told: Told, worker: WorkerRow) -> None:
    """The causes of a worker, without its history."""
    apart = Told()
    say_present(replace(scene, worker=worker), apart, worker)
    for statement in apart.all(""):
        if statement.code in CAUSES:
            told.repeat(statement, worker.name)


def _say_rollout(scene: Scene, told: Told, group: GroupRow) -> None:
    view = scene.group_view(group.cluster_oid, group.oid)
    assert view is not None
    done = rolling.progress(group.revision, rolling.updated(view), group.scale)
    past = scene.last(group.oid, "updating")
    if group.held_back:
        told.say("rollout_halted", f"the rollout can't go on ({done}): {group.held_back}", past)
    else:
        told.say("next", f"a rollout is under way: {done}")


def _is_troubled(scene: Scene, group: GroupRow) -> bool:
    if group.status is not _C.RUNNING:
        return True
    view = scene.group_view(group.cluster_oid, group.oid)
    return view is not None and (group.held_back is not None or rolling.ready_of(view) < group.scale)


def _has_misplaced(scene: Scene, group: GroupRow) -> bool:
    view = scene.group_view(group.cluster_oid, group.oid)
    nodes = (scene.snapshot.nodes.get(worker.node_oid or "") for worker in view.workers) if view else ()
    return view is not None and any(unmet(view.placement, node.labels) for node in nodes if node is not None)


def _group_event(name: str, past: Past) -> str:
    did, data = _GROUP_VERBS.get(past.verb, past.verb), past.data
    more = f" to {data['scale']}" if past.verb == "scaled" and "scale" in data else ""
    if past.verb in ("updating", "updated") and "revision" in data:
        more = f" (revision {data['revision']})"
    return f"group {name} {did}{more}{by(past)}{because(past)}"


def _cluster_event(cluster: ClusterRow, past: Past) -> str:
    did = _CLUSTER_VERBS.get(past.verb, past.verb)
    return f"cluster {cluster.name} {did}{by(past)}{because(past)}"
