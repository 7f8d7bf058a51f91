"""The manager's decisions: what is known and a time in, actions out. Pure.

`plan` has no memory: what it says follows from the snapshot alone, so that a pass may be lost, repeated or
interrupted. Applying its actions and planning again comes to rest after a few passes.
"""

from __future__ import annotations

from collections.abc import Callable

from manager.liveness import Fleet, survey
from manager.model import Action, ClusterView, Snapshot
from manager.placement import Load
from manager.scaling import work
from manager.status import judge_statuses

OnError = Callable[[ClusterView, Exception], None]


def plan(snapshot: Snapshot, now: float, on_error: OnError | None = None) -> list[Action]:
    """What is to be done now, in the order in which it is to be applied.

    `now` is on the clock of the snapshot's times. A cluster whose planning raises is handed to `on_error`
    with the exception, and the others go on; without `on_error` the exception is raised.
    """
    fleet, actions = survey(snapshot, now)
    load = Load(snapshot)
    for cluster in sorted(snapshot.clusters.values(), key=lambda cluster: cluster.name):
        try:
            actions += plan_cluster(fleet, load, cluster, now)
        except Exception as error:
            if on_error is None:
                raise
            on_error(cluster, error)
    return actions


def plan_cluster(fleet: Fleet, load: Load, cluster: ClusterView, now: float) -> list[Action]:
    """One cluster's workers, then the statuses that follow from them as they are."""
    return work(fleet, load, cluster) + judge_statuses(cluster, now)
