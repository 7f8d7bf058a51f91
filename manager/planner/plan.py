"""The manager's decisions: what is known and a time in, actions out. Pure.

`plan` has no memory: what it says follows from the snapshot alone, so that a pass may be lost, repeated or
interrupted. Applying its actions and planning again comes to rest after a few passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from busbar.bus.states import ClusterState, WorkerState

from .draining import notes
from .liveness import Fleet, survey
from .model import Action, ClusterView, CreateWorker, GroupView, Place, Snapshot
from .placement import Load
from .scaling import work
from .status import judge_statuses

OnError = Callable[[ClusterView, Exception], None]


def plan(snapshot: Snapshot, now: float, on_error: OnError | None = None) -> list[Action]:
    """What is to be done now, in the order in which it is to be applied.

    `now` is on the clock of the snapshot's times. A cluster whose planning raises is handed to `on_error`
    with the exception, and the others go on; without `on_error` the exception is raised.
    """
    fleet, actions = survey(snapshot, now)
    load = Load(snapshot)
    awake = [cluster for cluster in snapshot.clusters.values() if not at_rest(cluster)]
    for cluster in sorted(awake, key=lambda cluster: cluster.name):
        try:
            actions += plan_cluster(fleet, load, cluster, now)
        except Exception as error:
            if on_error is None:
                raise
            on_error(cluster, error)
    return actions + notes(fleet, load.total, load.stays)


def by_node(actions: Iterable[Action]) -> list[Action]:
    """The same with the places last, node by node: so a node's assignment changes once, though actions are
    written a hundred at a time."""
    return sorted(actions, key=_filled)


def _filled(action: Action) -> str:
    return (action.node_oid or "") if isinstance(action, CreateWorker | Place) else ""


def at_rest(cluster: ClusterView) -> bool:
    """Whether a cluster is stopped with all that it has: then nothing is to be done, come what may."""
    return cluster.status is ClusterState.STOPPED and all(_group_at_rest(group) for group in cluster.groups)


def _group_at_rest(group: GroupView) -> bool:
    return group.status is ClusterState.STOPPED and all(
        worker.state is WorkerState.STOPPED and worker.ordinal <= group.scale for worker in group.workers
    )


def plan_cluster(fleet: Fleet, load: Load, cluster: ClusterView, now: float) -> list[Action]:
    """One cluster's workers, then the statuses that follow from them as they are."""
    return work(fleet, load, cluster) + judge_statuses(cluster, now)
