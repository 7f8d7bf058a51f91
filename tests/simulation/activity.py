"""What happened in the schedules: where nothing happens, no invariant can break."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import sqrt
from typing import Final

from busbar.manager.planner.draining import DRAINED
from busbar.manager.store.changes import Changes

from tests.simulation.clients import Asked
from tests.simulation.invariants import Watch

VACUOUS: Final = "V"
"""The letter of what is judged here, beside the invariants that are held in each schedule."""
STARTS: Final = "workers started"
MOVES: Final = "workers moved"
UPDATES: Final = "updates completed"
DRAINS: Final = "nodes drained"
FLOORS: Final[dict[str, int]] = {
    STARTS: 1300,
    MOVES: 380,
    UPDATES: 170,
    DRAINS: 210,
    **{
        f"{op} accepted": floor
        for op, floor in {
            "create_routercluster": 90,
            "delete_routercluster": 25,
            "start_routercluster": 95,
            "stop_routercluster": 100,
            "add_routercluster_node": 210,
            "remove_routercluster_node": 80,
            "add_routercluster_workergroup": 120,
            "remove_routercluster_workergroup": 50,
            "stop_routercluster_workergroup": 150,
            "start_routercluster_workergroup": 55,
            "restart_routercluster_workergroup": 95,
            "restart_routercluster_worker": 300,
            "scale_routercluster_workergroup": 200,
            "update_routercluster_workergroup": 230,
            "pair_node": 170,
            "unpair_node": 80,
            "drain_node": 230,
            "undrain_node": 120,
            "cordon_node": 100,
            "uncordon_node": 55,
            "label_node": 55,
            "apply_rebalance": 12,
        }.items()
    },
}
"""Of each kind, at least so many per thousand schedules: about half of what there is."""
SLACK: Final = 3.0
"""Standard deviations (of a Poisson distribution) that a count may be below its floor."""


class Activity:
    """Counts what happens in one schedule."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._nodes: dict[str, str] = {}
        """By worker oid, the node that it was last assigned to."""

    def started(self) -> None:
        """A worker's process was started."""
        self.counts[STARTS] += 1

    def opened(self, watch: Watch) -> None:
        """A manager opened the store."""
        self._note_places(watch, watch.mirror.workers)

    def committed(self, watch: Watch, changes: Changes) -> None:
        """After a commit, of which `watch` has taken note."""
        self._note_places(watch, changes.workers)
        mirror = watch.mirror
        for oid in changes.groups & watch.groups.keys() & mirror.groups.keys():
            self.counts[UPDATES] += watch.groups[oid].settled != mirror.groups[oid].settled
        for oid in changes.nodes & watch.nodes.keys() & mirror.nodes.keys():
            before, now = watch.nodes[oid].drain_note, mirror.nodes[oid].drain_note
            self.counts[DRAINS] += before != now == DRAINED

    def _note_places(self, watch: Watch, oids: Iterable[str]) -> None:
        for oid in oids:
            row = watch.mirror.workers.get(oid)
            if row is not None and row.node_oid is not None:
                self.counts[MOVES] += self._nodes.get(oid, row.node_oid) != row.node_oid
                self._nodes[oid] = row.node_oid

    def asked(self, history: Iterable[Asked]) -> None:
        """At the end: what callers asked for."""
        self.counts.update(f"{each.op} accepted" for each in history if each.outcome == "ok")


def lacking(counts: Mapping[str, int], schedules: int) -> list[str]:
    """What happened too rarely in so many schedules, in words."""
    found = []
    for kind, floor in FLOORS.items():
        expected = floor * schedules / 1000
        if counts.get(kind, 0) < expected - SLACK * sqrt(expected):
            found.append(
                f"{kind}: {counts.get(kind, 0)} in {schedules} schedules, at least {expected:.0f} expected"
            )
    return found
