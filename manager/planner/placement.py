"""Chooses a node for a worker, or says why none will do. Pure.

Workers are spread by least load over the nodes that admit one (`admission`): first over the values of the
label that the group is to be spread over. A node that has reached its `softlimit` is taken only when all the
others of that value have too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from busbar.bus.placement import one_way, required, unmet
from busbar.bus.plans import MoveOrder
from busbar.bus.states import ASSIGNED, WorkerState
from msgspec.structs import replace

from .acceptance import rejection
from .admission import Obstacle, Refusal, Target, occupies, refusal
from .liveness import Fleet
from .model import ClusterView, GroupView, MemberView, Snapshot

NAMED: Final = 8
"""How many nodes a reason names; the rest are counted."""
_NONE: Final = "nothing"

Counts = defaultdict[str, int]


class Load:
    """Workers per node: in all, per cluster and per group. Built once per plan and kept up to date by it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.total: Counts = defaultdict(int)
        self.cluster: dict[str, Counts] = defaultdict(lambda: defaultdict(int))
        self.group: dict[str, Counts] = defaultdict(lambda: defaultdict(int))
        self.draining = frozenset(oid for oid, node in snapshot.nodes.items() if node.draining)
        self.stays: dict[str, dict[str, str]] = defaultdict(dict)
        """By draining node: the workers that stay for now, `cluster/worker`, and why."""
        self.arriving: dict[str, list[tuple[int, str]]] = defaultdict(list)
        """By node: the order and the cluster of each worker that is to move there; on the way: order 0."""
        self.leaving: dict[str, list[int]] = defaultdict(list)
        """By node: the order of each worker that is to move elsewhere; 0: it is being stopped."""
        for cluster in snapshot.clusters.values():
            for group in cluster.groups:
                self._count(cluster.oid, group)

    def _count(self, cluster_oid: str, group: GroupView) -> None:
        total, of_cluster, of_group = self.total, self.cluster[cluster_oid], self.group[group.oid]
        for worker in group.workers:
            node = worker.node_oid
            if node is not None and occupies(worker.state):
                total[node] += 1
                of_cluster[node] += 1
                of_group[node] += 1
                if worker.state is WorkerState.STOPPING:
                    self.leaving[node].append(0)
                elif worker.move is not None:
                    self.leaving[node].append(worker.move.order)
            if worker.move is not None:
                order = worker.move.order if worker.state in ASSIGNED else 0
                self.arriving[worker.move.node].append((order, cluster_oid))

    def add(self, node_oid: str, cluster_oid: str, group_oid: str) -> None:
        """One more worker on that node."""
        self.total[node_oid] += 1
        self.cluster[cluster_oid][node_oid] += 1
        self.group[group_oid][node_oid] += 1

    def shift(self, source: str, target: str, cluster_oid: str, group_oid: str) -> None:
        """A worker is counted on another node."""
        self.add(target, cluster_oid, group_oid)
        for counts in (self.total, self.cluster[cluster_oid], self.group[group_oid]):
            counts[source] -= 1


class Candidate(NamedTuple):
    """A node that may take the next worker, in order of preference."""

    avoided: bool
    of_value: int
    """Workers of the group on nodes with the same value of the label that it is spread over."""
    beyond_softlimit: bool
    of_group: int
    of_cluster: int
    total: int
    name: str
    node_oid: str


class Candidates:
    """The nodes that may take workers of one group, best first; what is reserved counts as load at once."""

    def __init__(self, fleet: Fleet, load: Load, cluster: ClusterView, group: GroupView) -> None:
        self._fleet, self._load, self._cluster, self._group = fleet, load, cluster, group
        self._members = {member.node_oid: member for member in cluster.members}
        self._in_cluster, self._in_group = load.cluster[cluster.oid], load.group[group.oid]
        self._rejections: dict[str, str | None] = {}
        self._spread = group.placement.spread if group.placement else None
        self._reserved = False
        self._of_value = Counter[str | None]()
        if self._spread is not None:
            for oid, count in self._in_group.items():
                self._of_value[self._value(oid)] += count
        self._heap = [self._candidate(oid) for oid in self._members if not self.refusal(oid)]
        heapify(self._heap)

    def reserve(self, unfit: Collection[str] | None = None) -> Candidate | None:
        """The best node, with one more worker of this group counted on it; None when none admits one.

        Where `unfit` is given, only a node that is neither one of these (oids) nor avoided.
        """
        passed: list[Candidate] = []
        while (best := self._best()) is not None:
            if unfit is None or not (best.avoided or best.node_oid in unfit):
                break
            passed.append(best)
        for candidate in passed:
            heappush(self._heap, candidate)
        if best is None:
            return None
        self._count(best.node_oid)
        if not self.refusal(best.node_oid):
            heappush(self._heap, self._candidate(best.node_oid))
        return best

    def reserve_at(self, node_oid: str) -> bool:
        """Whether that node takes one more worker of this group, which is counted on it then."""
        if self.refusal(node_oid):
            return False
        self._reserved = True
        self._count(node_oid)
        return True

    def _count(self, node_oid: str) -> None:
        self._load.add(node_oid, self._cluster.oid, self._group.oid)
        if self._spread is not None:
            self._of_value[self._value(node_oid)] += 1

    def _best(self) -> Candidate | None:
        """The best node, taken out. One that stands too far ahead, as it or its value has got workers since,
        is put back where it belongs now."""
        while self._heap:
            best = heappop(self._heap)
            if self._spread is None and not self._reserved:
                return best
            if self.refusal(best.node_oid):
                continue
            now = self._candidate(best.node_oid)
            if now == best:
                return best
            heappush(self._heap, now)
        return None

    def _value(self, node_oid: str) -> str | None:
        """The node's value of the label that the group is spread over; None: it has none."""
        node = self._fleet.nodes.get(node_oid)
        return node.labels.get(self._spread) if node and self._spread else None

    def refusal(self, node_oid: str, *, as_member: bool = False) -> Refusal | None:
        """Why this node takes no more workers of this group; None when it takes one.

        `as_member`: as if it were a node of the cluster, without limits.
        """
        target = self._target(node_oid)
        if as_member and target is not None:
            target = replace(target, member=True)
        return refusal(target, self._group.runtime)

    def move_refusal(self, move: MoveOrder) -> tuple[Refusal | None, bool]:
        """Why a worker can't move there now, None when it can; and whether it has to wait for others alone.

        Room is kept for those that were to come before it.
        """
        refused = self.refusal(move.node)
        if refused is not None:
            full = refused.obstacle in (Obstacle.HARDLIMIT, Obstacle.CAPACITY)
            return refused, full and any(order < move.order for order in self._load.leaving[move.node])
        earlier = [cluster for order, cluster in self._load.arriving[move.node] if order < move.order]
        target = self._target(move.node)
        assert target is not None
        in_cluster, total = target.in_cluster + earlier.count(self._cluster.oid), target.total + len(earlier)
        refused = refusal(replace(target, in_cluster=in_cluster, total=total), self._group.runtime)
        return refused, refused is not None

    def reason(self) -> str:
        """Why no node admits a worker, node by node where they differ."""
        members = self._cluster.members
        if not members:
            return "no node in the cluster"
        nodes = [self._fleet.nodes[m.node_oid] for m in members if m.node_oid in self._fleet.nodes]
        if nodes and not any(self._group.runtime in node.runtimes for node in nodes):
            return f"no node offers runtime '{self._group.runtime}' ({self._offers()})"
        if nodes and all(self.unmet(node.oid) for node in nodes):
            return self._unlabelled()
        refusals = [(self._name(m), self.refusal(m.node_oid)) for m in self._by_name()]
        found = [(name, refused) for name, refused in refusals if refused]
        if all(refused.obstacle is Obstacle.HARDLIMIT for _, refused in found):
            marks = [f"{name}: {refused.figures}" for name, refused in found]
            return f"every node is at its hardlimit ({_some(marks, ', ')})"
        return _some([f"{name} {refused.text}" for name, refused in found], "; ")

    def _target(self, node_oid: str) -> Target | None:
        node, member = self._fleet.nodes.get(node_oid), self._members.get(node_oid)
        if node is None:
            return None
        return Target(
            status=self._fleet.status[node_oid],
            refuses=node.refuses,
            draining=node.draining,
            cordoned=node.cordoned,
            runtimes=node.runtimes,
            max_workers=node.max_workers,
            member=member is not None,
            hardlimit=member.hardlimit if member else None,
            in_cluster=self._in_cluster[node_oid],
            total=self._load.total[node_oid],
            unmet=self.unmet(node_oid),
            rejects=self.rejects(node_oid),
        )

    def unmet(self, node_oid: str) -> str | None:
        """What the node lacks of the labels that the group requires, as a predicate."""
        return unmet(self._group.placement, self._fleet.nodes[node_oid].labels)

    def rejects(self, node_oid: str) -> str | None:
        """What the node's schema of the runtime has against the group's transport."""
        schema = self._fleet.nodes[node_oid].schemas.get(self._group.runtime)
        if schema is None:
            return None
        if schema not in self._rejections:
            self._rejections[schema] = rejection(schema, self._group.transport)
        return self._rejections[schema]

    def _candidate(self, node_oid: str) -> Candidate:
        count, softlimit = self._in_cluster[node_oid], self._members[node_oid].softlimit
        beyond = softlimit is not None and count >= softlimit
        total, name = self._load.total[node_oid], self._fleet.nodes[node_oid].name
        avoided, of_value = (
            self._fleet.avoids(self._group.oid, node_oid),
            self._of_value[self._value(node_oid)],
        )
        return Candidate(avoided, of_value, beyond, self._in_group[node_oid], count, total, name, node_oid)

    def spread_of(self, chosen: Candidate) -> str:
        """What the spread had to do with that choice, as the end of a reason; empty without one."""
        if self._spread is None:
            return ""
        value = self._value(chosen.node_oid)
        where = f"{self._spread}={value}" if value is not None else f"no label {self._spread}"
        return f"; nodes with {where} had {chosen.of_value} of the group"

    def avoided(self) -> str:
        """The members that are avoided, as the end of a reason; empty where there are none."""
        names = [self._name(m) for m in self._by_name() if self._fleet.avoids(self._group.oid, m.node_oid)]
        return f"; a worker of the group could not start on {_some(names, ', ')}" if names else ""

    def _unlabelled(self) -> str:
        """That no node has the labels, and what to do."""
        placement = self._group.placement
        assert placement is not None
        marks = [f"{self._name(m)} {self.unmet(m.node_oid)}" for m in self._by_name()]
        marks = [mark.partition(" (")[0] for mark in marks]
        label = " ".join(one_way(placement))
        asked = f"no node has the labels that group {self._group.name} requires, {required(placement)}"
        return f"{asked} ({_some(marks, '; ')}): 'busbar node label NODE {label}' gives them to one"

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


def _some(parts: list[str], separator: str) -> str:
    shown = separator.join(parts[:NAMED])
    return shown if len(parts) <= NAMED else f"{shown} and {len(parts) - NAMED} more"
