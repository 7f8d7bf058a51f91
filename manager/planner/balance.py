"""Which workers would better be elsewhere: the moves that bring clusters into balance. Pure.

What counts, in this order: that nodes have the labels that a group requires, that a group is spread evenly
over its label, that nodes are within their softlimits, and that workers are spread evenly over nodes: those
of the group, of the cluster, and all. A limit only bounds what a node takes. Each move makes the first of
these that it changes better, one worker at a time, until none does: so the end is in balance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from busbar.bus.states import STARTED, NodeStatus, WorkerState

from ..slices import Slices
from . import failing
from .admission import occupies
from .liveness import Fleet, judge_nodes
from .model import ClusterView, GroupView, Snapshot, WorkerView
from .placement import Candidates, Load

MAX_MOVES: Final = 1_000
MAX_WORK: Final = 200_000
"""Nodes looked at, over all steps of a search: one on a large realm is cut short."""
_MOVABLE: Final = frozenset({WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF})
Wanted = Callable[[ClusterView, GroupView], bool]
Gain = tuple[int, ...]
_NO_GAIN: Final = (0,) * 6


class Move(NamedTuple):
    """A worker, the nodes (oids) that it would leave and go to, and why."""

    worker: WorkerView
    source: str
    target: str
    reason: str


class Moves(NamedTuple):
    """Moves in an order in which each has room; not `complete`: there are more than were looked for."""

    moves: list[Move]
    complete: bool


class _End(NamedTuple):
    """One end of a move: what leaving it, or going there, is worth; the lesser, the better."""

    gain: Gain
    name: str
    node: str


class _Group:
    """One group while moves are looked for: where its workers will be once all orders are carried out."""

    def __init__(self, fleet: Fleet, load: Load, cluster: ClusterView, view: GroupView) -> None:
        self.fleet, self.load, self.cluster, self.view = fleet, load, cluster, view
        self.found = Candidates(fleet, load, cluster, view)
        self.soft = {member.node_oid: member.softlimit for member in cluster.members}
        self.spread = view.placement.spread if view.placement else None
        self.unfit = failing.unfit(view, fleet.now)
        self.movable: dict[str, list[WorkerView]] = {}

    def take(self, pinned: Collection[str]) -> None:
        """Look which workers may move; those of these oids may not."""
        for worker in self.view.workers:
            node = self.fleet.nodes.get(worker.node_oid or "")
            if worker.state not in _MOVABLE or worker.move is not None or node is None:
                continue
            reachable = node.oid in self.soft and self.fleet.status[node.oid] is NodeStatus.ONLINE
            stays = node.draining or node.refuses is not None or worker.ordinal > self.view.scale
            if reachable and not stays and worker.oid not in pinned:
                self.movable.setdefault(node.oid, []).append(worker)

    def value(self, node_oid: str) -> str | None:
        node = self.fleet.nodes.get(node_oid)
        return node.labels.get(self.spread) if node and self.spread else None

    def values(self) -> Counter[str | None]:
        """Workers of the group by the value of the label that it is spread over."""
        counts = Counter[str | None]()
        for oid, count in self.load.group[self.view.oid].items():
            counts[self.value(oid)] += count
        return counts

    def takes(self, node_oid: str) -> bool:
        """Whether a worker would be moved to that node now."""
        if node_oid in self.unfit or self.fleet.avoids(self.view.oid, node_oid):
            return False
        return self.found.refusal(node_oid) is None

    def best(self) -> tuple[WorkerView, _End, _End, Gain] | None:
        """The best move of one of its workers; None where none makes anything better."""
        leave, join = self._leave(), self._join()
        counts = self.values() if self.spread else Counter[str | None]()
        best: tuple[Gain, str, str, _End, _End] | None = None
        for old, source in leave.items():
            for new, target in join.items():
                # Of squares of counts: evener is less.
                spread = 0 if old == new else 2 * (counts[new] - counts[old] + 1)
                rest = tuple(a + b for a, b in zip(source.gain[1:], target.gain, strict=True))
                gain = (source.gain[0], spread, *rest)
                way = (gain, source.name, target.name, source, target)
                if source.node != target.node and gain < _NO_GAIN and (best is None or way < best):
                    best = way
        if best is None:
            return None
        gain, _, _, source, target = best
        return self._worker(source.node), source, target, gain

    def _leave(self) -> dict[str | None, _End]:
        """By value: the node that a worker would best leave."""
        ends = (self._source(oid) for oid, workers in self.movable.items() if workers)
        return self._least(ends)

    def _join(self) -> dict[str | None, _End]:
        """By value: the node that a worker would best go to."""
        return self._least(self._target(oid) for oid in self.soft if self.takes(oid))

    def _least(self, ends: Iterable[_End]) -> dict[str | None, _End]:
        least: dict[str | None, _End] = {}
        for end in ends:
            value = self.value(end.node)
            if value not in least or end < least[value]:
                least[value] = end
        return least

    def _source(self, oid: str) -> _End:
        of_group, of_cluster, total, soft = self._counts(oid)
        beyond = soft is not None and of_cluster > soft
        misplaced = self.found.unmet(oid) is not None
        gain = (-misplaced, -beyond, -of_group, -of_cluster, -total)
        return _End(gain, self.fleet.name(oid), oid)

    def _target(self, oid: str) -> _End:
        of_group, of_cluster, total, soft = self._counts(oid)
        beyond = soft is not None and of_cluster >= soft
        return _End((+beyond, of_group + 1, of_cluster + 1, total + 1), self.fleet.name(oid), oid)

    def _counts(self, oid: str) -> tuple[int, int, int, int | None]:
        load = self.load
        return (
            load.group[self.view.oid][oid],
            load.cluster[self.cluster.oid][oid],
            load.total[oid],
            self.soft.get(oid),
        )

    def _worker(self, node_oid: str) -> WorkerView:
        """The one to move: one that is not ready first, then the last."""
        return min(self.movable[node_oid], key=lambda w: (w.state is WorkerState.RUNNING, -w.ordinal))

    def move(self, worker: WorkerView, source: str, target: str) -> None:
        """Count the worker where it goes."""
        self.load.shift(source, target, self.cluster.oid, self.view.oid)
        if source in self.movable:
            self.movable[source].remove(worker)
        self.movable.setdefault(target, []).append(worker)

    def why(self, source: str, target: str, gain: Gain) -> str:
        """What a move makes better, before it is made."""
        first = next(place for place, each in enumerate(gain) if each)
        if first == 0:
            return f"{self.fleet.name(source)} {self.found.unmet(source)}"
        names, a, b = f"{self.cluster.name}/{self.view.name}", self._counts(source), self._counts(target)
        where, to = self.fleet.name(source), self.fleet.name(target)
        if first == 1:
            counts, old, new = self.values(), self.value(source), self.value(target)
            ways = (f"{counts[v]} {_with(self.spread, v)}" for v in (old, new))
            return f"{names} has {' and '.join(ways)}"
        if first == 2:
            return f"{where} is beyond its softlimit ({a[1]}/{a[3]})"
        what = (names, f"cluster {self.cluster.name}", "all clusters")[first - 3]
        return f"of {what}, {where} has {a[first - 3]} and {to} {b[first - 3]}"


def _with(label: str | None, value: str | None) -> str:
    return f"with {label}={value}" if value is not None else f"without label {label}"


def moves(snapshot: Snapshot, now: float, wanted: Wanted) -> Slices[Moves]:
    """The moves that would bring the groups that are `wanted` into balance.

    What has been ordered before counts as carried out. Under the mass failure hold there are none.
    """
    fleet, _ = judge_nodes(snapshot, now)
    pinned: set[str] = set()
    while not fleet.hold:
        found, complete = yield from _search(_groups(snapshot, fleet, wanted, pinned))
        ways, stuck = yield from _in_order(_groups(snapshot, fleet, wanted, pinned), found)
        if not stuck:
            return Moves(ways, complete)
        # Full nodes that would have to exchange workers: these stay.
        pinned |= stuck
    return Moves([], True)


def _groups(snapshot: Snapshot, fleet: Fleet, wanted: Wanted, pinned: Collection[str]) -> list[_Group]:
    """The groups that are to run, on one load on which orders are carried out."""
    load = Load(snapshot)
    groups = []
    for cluster in sorted(snapshot.clusters.values(), key=lambda cluster: cluster.name):
        for view in sorted(cluster.groups, key=lambda group: group.name):
            for worker in view.workers:
                _carry_out(load, cluster, view, worker)
            if cluster.status in STARTED and not view.stop_ordered and wanted(cluster, view):
                groups.append((cluster, view))
    made = [_Group(fleet, load, cluster, view) for cluster, view in groups]
    for group in made:
        group.take(pinned)
    return made


def _carry_out(load: Load, cluster: ClusterView, view: GroupView, worker: WorkerView) -> None:
    if worker.move is None:
        return
    if worker.node_oid is not None and occupies(worker.state):
        load.shift(worker.node_oid, worker.move.node, cluster.oid, view.oid)
    elif worker.state is WorkerState.STOPPED:
        load.add(worker.move.node, cluster.oid, view.oid)


def _search(groups: list[_Group]) -> Slices[tuple[dict[str, tuple[_Group, Move]], bool]]:
    """The moves by worker, in the order of the last move of each; one in each slice."""
    found: dict[str, tuple[_Group, Move]] = {}
    work, again = 0, True
    while again:
        again = False
        for group in groups:
            while (best := group.best()) is not None:
                yield
                work += len(group.soft)
                worker, source, target, gain = best
                _, before = found.pop(worker.oid, (None, None))
                reason = before.reason if before else group.why(source.node, target.node, gain)
                group.move(worker, source.node, target.node)
                origin = before.source if before else source.node
                if origin != target.node:
                    found[worker.oid] = (group, Move(worker, origin, target.node, reason))
                again = True
                if len(found) >= MAX_MOVES or work > MAX_WORK:
                    return found, False
            work += len(group.soft)
        if work > MAX_WORK:
            return found, not again
    return found, True


def _in_order(
    groups: list[_Group], found: dict[str, tuple[_Group, Move]]
) -> Slices[tuple[list[Move], set[str]]]:
    """The moves in an order in which each has room, and the workers for which there is none."""
    at = {group.view.oid: group for group in groups}
    left = [(at[group.view.oid], move) for group, move in found.values()]
    ordered: list[Move] = []
    while left:
        later = []
        for group, move in left:
            yield
            if group.takes(move.target):
                group.move(move.worker, move.source, move.target)
                ordered.append(move)
            else:
                later.append((group, move))
        if len(later) == len(left):
            return ordered, {move.worker.oid for _, move in later}
        left = later
    return ordered, set()
