"""The statuses of groups and clusters from their workers (contract, section 5). Pure."""

from __future__ import annotations

from typing import Final

from busbar.bus.states import STARTED, ClusterState, WorkerState, may_advance

from .model import Action, ClusterView, GroupView, SetCluster, SetGroup
from .rolling import progress, ready_of, slots, updated, updating

_C = ClusterState
WorstWorker = tuple[str, str, str | None]
_DOWN: Final = frozenset({_C.STOPPED, _C.STOPPING})


def judge_statuses(cluster: ClusterView, now: float) -> list[Action]:
    """Changed statuses of a cluster's groups, then of the cluster: allowed transitions only."""
    actions: list[Action] = []
    after: dict[str, ClusterState] = {}
    for group in sorted(cluster.groups, key=lambda group: group.name):
        status, reason = judge_group(group, cluster, now)
        after[group.oid] = status
        if status is not group.status:
            actions.append(SetGroup(group.oid, status, reason))
    status, reason = judge_cluster(cluster, after)
    if status is not cluster.status:
        actions.append(SetCluster(cluster.oid, status, reason))
    return actions


def judge_group(group: GroupView, cluster: ClusterView, now: float) -> tuple[ClusterState, str]:
    """A group's status under its cluster's, and why."""
    if cluster.status is _C.PAUSED:
        return group.status, "its cluster is paused"
    if cluster.status in _DOWN or group.stop_ordered:
        status, reason = _going_down(group, cluster)
    else:
        status, reason = _going_up(group, now)
    return (status, reason) if may_advance(group.status, status) else (group.status, "unchanged")


def judge_cluster(cluster: ClusterView, groups: dict[str, ClusterState]) -> tuple[ClusterState, str]:
    """A cluster's status from the new ones of its groups, and why.

    ERROR means that no worker of the cluster is ready; while one is, the cluster is DEGRADED.
    """
    status, reason = cluster.status, "unchanged"
    if cluster.status is _C.STOPPING:
        if all(group is _C.STOPPED for group in groups.values()) and not _living(cluster):
            status, reason = _C.STOPPED, "all workers have stopped"
    elif cluster.status in STARTED:
        status, reason = _cluster_up(cluster, groups)
    return (status, reason) if may_advance(cluster.status, status) else (cluster.status, "unchanged")


def _going_down(group: GroupView, cluster: ClusterView) -> tuple[ClusterState, str]:
    subject = f"group {group.name}" if group.stop_ordered else f"cluster {cluster.name}"
    if group.status is _C.STOPPED:
        return _C.STOPPED, "it is stopped"
    if group.status is not _C.STOPPING:
        return _C.STOPPING, f"{subject} is to stop"
    if any(worker.state is not WorkerState.STOPPED for worker in group.workers):
        return _C.STOPPING, "workers are still being stopped"
    return _C.STOPPED, "all workers have stopped"


def _going_up(group: GroupView, now: float) -> tuple[ClusterState, str]:
    if group.status in (_C.STOPPED, _C.PAUSED):
        return _C.STARTING, "its cluster is started"
    if group.status is _C.STOPPING:
        return _C.STOPPED, "it was started again"
    ready = ready_of(group)
    if ready >= group.scale:
        return _C.RUNNING, all_ready(group.scale)
    reason = f"{_update(group)}{_ready(ready, group.scale)}{_worst(group)}"
    if ready == 0 and now - deadline_from(group) >= group.start_deadline:
        return _C.ERROR, f"{_ready(0, group.scale)} after {group.start_deadline:g} s{_worst(group)}"
    if group.status is _C.RUNNING or (group.status is _C.ERROR and ready):
        return _C.DEGRADED, reason
    return group.status, reason


def _update(group: GroupView) -> str:
    return f"{progress(group.revision, updated(group), group.scale)}; " if updating(group) else ""


def deadline_from(group: GroupView) -> float:
    """When the start deadline began: with the present status, or later, when the last ready worker failed."""
    if group.none_ready_since is None:
        return group.since
    return max(group.since, group.none_ready_since)


def _cluster_up(cluster: ClusterView, groups: dict[str, ClusterState]) -> tuple[ClusterState, str]:
    wanted = [group for group in cluster.groups if not group.stop_ordered]
    asked = sum(group.scale for group in wanted)
    ready = sum(min(ready_of(group), group.scale) for group in wanted)
    not_running = [group for group in wanted if groups[group.oid] is not _C.RUNNING]
    if not not_running:
        return _C.RUNNING, all_ready(asked)
    reason = f"{_ready(ready, asked)}{_worst(*not_running)}"
    asking = [group for group in wanted if group.scale]
    if ready == 0 and asking and all(groups[group.oid] is _C.ERROR for group in asking):
        return _C.ERROR, reason
    if cluster.status is _C.RUNNING or (cluster.status is _C.ERROR and ready):
        return _C.DEGRADED, reason
    return cluster.status, reason


def _living(cluster: ClusterView) -> bool:
    return any(w.state is not WorkerState.STOPPED for group in cluster.groups for w in group.workers)


def present_reason(
    status: ClusterState, reason: str | None, ready: int, asked: int, worst: WorstWorker | None
) -> str | None:
    """The reason that holds now: the stored one dates from the last change of status.

    `worst` is the first worker that is not ready: name, state and reason.
    """
    if status is _C.RUNNING and ready >= asked:
        return all_ready(asked)
    if status not in (_C.RUNNING, _C.DEGRADED, _C.ERROR):
        return reason
    text = _ready(min(ready, asked), asked)
    return f"{text}; {about(*worst)}" if worst else text


def all_ready(asked: int) -> str:
    if asked == 0:
        return "no worker is asked for"
    return "its worker is ready" if asked == 1 else f"all {asked} workers are ready"


def _ready(ready: int, asked: int) -> str:
    if (ready, asked) == (0, 1):
        return "its worker is not ready"
    return f"{ready or 'none'} of {asked} workers {'is' if ready == 1 else 'are'} ready"


def _worst(*groups: GroupView) -> str:
    """The first worker that is not ready, and what is known about it."""
    for group in groups:
        for worker in sorted(group.workers, key=lambda worker: worker.ordinal):
            if worker.state is not WorkerState.RUNNING and worker.ordinal <= slots(group):
                return f"; {about(worker.name, worker.state, worker.reason)}"
    return ""


def about(name: str, state: str, reason: str | None) -> str:
    """For example: web-1 is BACKOFF: exit code 1."""
    return f"{name} is {state}: {reason}" if reason else f"{name} is {state}"
