"""The manager's decisions: a snapshot and a time in, actions out. Pure.

`plan` is stateless, so a pass may be lost, repeated or interrupted. Planning and applying in turn converges
after a few passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from busbar.bus.states import ClusterState, WorkerState

from .draining import notes
from .liveness import Fleet, judge_nodes
from .model import Action, ClusterView, CreateWorker, GroupView, Place, Snapshot
from .peers import plan_peers
from .placement import Load
from .scaling import plan_workers
from .status import judge_statuses

OnError = Callable[[ClusterView, Exception], None]


def plan(
    snapshot: Snapshot, now: float, on_error: OnError | None = None, load: Load | None = None
) -> list[Action]:
    """The actions to take now, in the order in which to apply them.

    `now` is on the clock of the snapshot's times. When planning a cluster raises, `on_error` gets the cluster
    and the exception, and the other clusters are planned; without `on_error` the exception is raised.
    `load`: that of the snapshot, for who looks afterwards at what was counted in it.
    """
    fleet, actions = judge_nodes(snapshot, now)
    load = load or Load(snapshot)
    active = [cluster for cluster in snapshot.clusters.values() if not at_rest(cluster)]
    for cluster in sorted(active, key=lambda cluster: cluster.name):
        try:
            actions += plan_cluster(fleet, load, cluster, now)
        except Exception as error:
            if on_error is None:
                raise
            on_error(cluster, error)
    # What a node is told of members belongs into the assignment that takes a worker from it, not after it.
    return [*plan_peers(snapshot, now), *actions, *notes(fleet, load.total, load.stays)]


def by_node(actions: Iterable[Action]) -> list[Action]:
    """The same actions with placements last, node by node: a node's assignment then changes once, although
    actions are written in chunks."""
    return sorted(actions, key=_placed_on)


def _placed_on(action: Action) -> str:
    return (action.node_oid or "") if isinstance(action, CreateWorker | Place) else ""


def at_rest(cluster: ClusterView) -> bool:
    """Whether the cluster, its groups and its workers are stopped: no plan has actions for it."""
    return cluster.status is ClusterState.STOPPED and all(_group_at_rest(group) for group in cluster.groups)


def _group_at_rest(group: GroupView) -> bool:
    return group.status is ClusterState.STOPPED and all(
        worker.state is WorkerState.STOPPED and worker.ordinal <= group.scale for worker in group.workers
    )


def plan_cluster(fleet: Fleet, load: Load, cluster: ClusterView, now: float) -> list[Action]:
    """Actions for one cluster's workers, then for the statuses that follow from the present workers."""
    return plan_workers(fleet, load, cluster) + judge_statuses(cluster, now)
