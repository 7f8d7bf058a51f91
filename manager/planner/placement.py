"""Chooses a node for a worker, or says why none will do. Pure.

Workers are spread by least load. A node is never filled beyond a `hardlimit` or its own `max_workers`; one
that has reached its `softlimit` is taken only when all the others have too. Workers that are still being
stopped count as load: they hold their memory and their port until they are gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Final, NamedTuple

from busbar.bus.states import NodeStatus, WorkerState

from .liveness import Fleet
from .model import ClusterView, GroupView, MemberView, Snapshot

NAMED: Final = 8
"""How many nodes a reason names before it counts the rest: a reason is read by a person."""
_WEIGHTLESS: Final = frozenset({WorkerState.PENDING, WorkerState.STOPPED})
_NONE: Final = "nothing"

Counts = defaultdict[str, int]


class Load:
    """Workers per node: in all, per cluster and per group. Built once per plan, which keeps it up to date."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.total: Counts = defaultdict(int)
        self.cluster: dict[str, Counts] = defaultdict(lambda: defaultdict(int))
        self.group: dict[str, Counts] = defaultdict(lambda: defaultdict(int))
        self.draining = frozenset(oid for oid, node in snapshot.nodes.items() if node.draining)
        self.stays: dict[str, list[str]] = defaultdict(list)
        """By draining node: why workers are still there."""
        for cluster in snapshot.clusters.values():
            for group in cluster.groups:
                self._count(cluster.oid, group)

    def _count(self, cluster_oid: str, group: GroupView) -> None:
        total, of_cluster, of_group = self.total, self.cluster[cluster_oid], self.group[group.oid]
        for worker in group.workers:
            node = worker.node_oid
            if node is not None and worker.state not in _WEIGHTLESS:
                total[node] += 1
                of_cluster[node] += 1
                of_group[node] += 1

    def add(self, node_oid: str, cluster_oid: str, group_oid: str) -> None:
        """One more worker on that node."""
        self.total[node_oid] += 1
        self.cluster[cluster_oid][node_oid] += 1
        self.group[group_oid][node_oid] += 1


class Seat(NamedTuple):
    """A node with room, in order of preference."""

    beyond_softlimit: bool
    of_group: int
    of_cluster: int
    total: int
    name: str
    node_oid: str


class Room:
    """The nodes that can take workers of one group, best first; what is taken is counted at once."""

    def __init__(self, fleet: Fleet, load: Load, cluster: ClusterView, group: GroupView) -> None:
        self._fleet, self._load, self._cluster, self._group = fleet, load, cluster, group
        self._members = {member.node_oid: member for member in cluster.members}
        self._seats = [self._seat(member) for member in cluster.members if not self._refusal(member)]
        heapify(self._seats)

    def take(self) -> Seat | None:
        """The best node, with this worker counted as its load from now on; None when no node will do."""
        if not self._seats:
            return None
        seat = heappop(self._seats)
        self._load.add(seat.node_oid, self._cluster.oid, self._group.oid)
        member = self._members[seat.node_oid]
        if not self._refusal(member):
            heappush(self._seats, self._seat(member))
        return seat

    def reason(self) -> str:
        """Why no node will do, node by node where they differ."""
        members = self._cluster.members
        if not members:
            return "no node in the cluster"
        nodes = [self._fleet.nodes[m.node_oid] for m in members if m.node_oid in self._fleet.nodes]
        if nodes and not any(self._group.runtime in node.runtimes for node in nodes):
            return f"no node offers runtime '{self._group.runtime}' ({self._offers()})"
        marks = [self._at_hardlimit(member) for member in self._by_name()]
        if all(marks):
            return f"every node is at its hardlimit ({_some(marks, ', ')})"
        return _some([f"{self._name(m)} {self._refusal(m)}" for m in self._by_name()], "; ")

    def _refusal(self, member: MemberView) -> str:
        """Why this node takes no worker of this group; empty when it does."""
        node = self._fleet.nodes.get(member.node_oid)
        if node is None:
            return "is not known"
        status = self._fleet.status[node.oid]
        if status is not NodeStatus.ONLINE:
            return f"is {status}"
        if node.draining:
            return "is draining"
        if self._group.runtime not in node.runtimes:
            return f"does not offer runtime '{self._group.runtime}'"
        count, total = self._load.cluster[self._cluster.oid][node.oid], self._load.total[node.oid]
        if member.hardlimit is not None and count >= member.hardlimit:
            return f"is at its hardlimit ({count}/{member.hardlimit})"
        if node.max_workers is not None and total >= node.max_workers:
            return f"is full ({total}/{node.max_workers} workers)"
        return ""

    def _seat(self, member: MemberView) -> Seat:
        oid, load = member.node_oid, self._load
        count = load.cluster[self._cluster.oid][oid]
        beyond = member.softlimit is not None and count >= member.softlimit
        of_group = load.group[self._group.oid][oid]
        return Seat(beyond, of_group, count, load.total[oid], self._fleet.nodes[oid].name, oid)

    def _at_hardlimit(self, member: MemberView) -> str:
        refusal = self._refusal(member)
        if not refusal.startswith("is at its hardlimit"):
            return ""
        return f"{self._name(member)}: {refusal[refusal.index('(') + 1 : -1]}"

    def _offers(self) -> str:
        """`n1, n2 offer amqtt, mosquitto; n3 offers nothing`."""
        by_offer: dict[str, list[str]] = {}
        for member in self._by_name():
            node = self._fleet.nodes.get(member.node_oid)
            offer = ", ".join(sorted(node.runtimes)) if node and node.runtimes else _NONE
            by_offer.setdefault(offer, []).append(self._name(member))
        return "; ".join(
            f"{_some(names, ', ')} {'offers' if len(names) == 1 else 'offer'} {offer}"
            for offer, names in list(by_offer.items())[:NAMED]
        )

    def _by_name(self) -> list[MemberView]:
        return sorted(self._cluster.members, key=lambda m: self._name(m))

    def _name(self, member: MemberView) -> str:
        return self._fleet.name(member.node_oid)


def max_workers(capacity: Mapping[str, Any] | None) -> int | None:
    """A node's own limit, as its agent reports it; None when it has none."""
    limit = (capacity or {}).get("max_workers")
    return limit if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else None


def _some(parts: list[str], separator: str) -> str:
    shown = separator.join(parts[:NAMED])
    return shown if len(parts) <= NAMED else f"{shown} and {len(parts) - NAMED} more"
