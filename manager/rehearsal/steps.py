"""What a plan's actions mean for workers: started, stopped, moved, restarted, or waiting. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from busbar.bus.plans import Step, WorkerStep
from busbar.bus.states import ASSIGNED, NodeStatus, WorkerState

from ..planner import model as m
from ..planner import rolling


class Touched(NamedTuple):
    """What a change itself has written, before any pass: oids."""

    nodes: Collection[str]
    groups: Collection[str]


class _Touch(NamedTuple):
    """One action on one worker, by its name."""

    order: int
    worker: str
    action: Step
    node: str | None
    reason: str


class Recorder:
    """Collects the actions of pass after pass."""

    def __init__(self) -> None:
        self._touched: dict[str, list[_Touch]] = {}
        self._held: dict[str, _Touch] = {}

    def record(self, order: int, snapshot: m.Snapshot, actions: Iterable[m.Action]) -> None:
        """The actions of one pass that have been carried out."""
        nodes = {oid: node.name for oid, node in snapshot.nodes.items()}
        groups = {g.oid: (c.name, g) for c in snapshot.clusters.values() for g in c.groups}
        workers = {w.oid: (f"{name}/{w.name}", w) for name, g in groups.values() for w in g.workers}
        for action in actions:
            match action:
                case m.CreateWorker():
                    name, group = groups[action.group_oid]
                    worker = f"{name}/{group.name}-{action.ordinal}"
                    step: Step = "start" if action.node_oid else "wait"
                    self._add(order, worker, step, nodes.get(action.node_oid or ""), action.reason)
                case m.Place():
                    worker, _ = workers[action.worker_oid]
                    self._add(order, worker, "start", nodes.get(action.node_oid), action.reason)
                case m.MarkPending():
                    worker, _ = workers[action.worker_oid]
                    self._add(order, worker, "wait", None, action.reason)
                case m.Replace():
                    worker, row = workers[action.worker_oid]
                    self._add(order, worker, "restart", nodes.get(row.node_oid or ""), action.reason)
                case m.BlockRollout():
                    name, group = groups[action.group_oid]
                    self._hold(order, f"{name}/{group.name}", action.why)
                case m.Unassign() | m.Relocate() | m.Evict():
                    worker, row = workers[action.worker_oid]
                    self._add(order, worker, "stop", nodes.get(row.node_oid or ""), action.reason)
                case _:
                    pass

    def restarted(self, worker: str, node: str | None, reason: str) -> None:
        """The change itself has restarted a worker, before any pass."""
        self._add(1, worker, "restart", node, reason)

    def record_left(
        self, order: int, snapshot: m.Snapshot, touched: Touched, stays: Mapping[str, Mapping[str, str]]
    ) -> None:
        """At rest: the workers that were to go or to be replaced, and are as they were.

        `stays`: by draining node the workers that can't leave it, and why.
        """
        for cluster in snapshot.clusters.values():
            for group in cluster.groups:
                for worker in _left(snapshot, cluster, group, touched):
                    name, node = f"{cluster.name}/{worker.name}", snapshot.nodes.get(worker.node_oid or "")
                    why = stays.get(worker.node_oid or "", {}).get(name) or _waits(group, worker)
                    self._add(order, name, "wait", node.name if node else None, why)

    def _add(self, order: int, worker: str, step: Step, node: str | None, reason: str) -> None:
        self._touched.setdefault(worker, []).append(_Touch(order, worker, step, node, reason))

    def _hold(self, order: int, group: str, why: str | None) -> None:
        self._held.pop(group, None)
        if why is not None:
            self._held[group] = _Touch(order, group, "hold", None, why)

    def steps(self) -> list[WorkerStep]:
        """In order; a stop and the start that follows it are one step, with the order of the stop."""
        found = [step for touches in self._touched.values() for step in _folded(touches)]
        found += [
            WorkerStep(held.order, held.worker, "hold", reason=held.reason) for held in self._held.values()
        ]
        return sorted(found, key=lambda step: (step.order, step.worker))


def _left(
    snapshot: m.Snapshot, cluster: m.ClusterView, group: m.GroupView, touched: Touched
) -> Iterator[m.WorkerView]:
    """The workers of a group that were to leave their nodes or to be replaced, and are still there as they
    were. What holds the whole group back is told of the group."""
    members = {member.node_oid for member in cluster.members}
    renewed = group.oid in touched.groups and group.held_back is None
    for worker in group.workers:
        node = snapshot.nodes.get(worker.node_oid or "")
        if worker.state not in ASSIGNED or node is None:
            continue
        goes = node.draining or node.oid not in members or node.status is NodeStatus.UNPAIRED
        if (node.oid in touched.nodes and goes) or (renewed and rolling.outdated(group, worker)):
            yield worker


def _waits(group: m.GroupView, worker: m.WorkerView) -> str:
    """Why a worker that can be heard is not replaced; of another one its own reason says it."""
    if worker.state is WorkerState.RUNNING:
        return f"{rolling.ready_of(group)} of {group.scale} workers of group {group.name} are ready"
    return worker.reason or ""


def _folded(touches: list[_Touch]) -> list[WorkerStep]:
    """One worker's actions. Waiting that ends is not told."""
    found: list[WorkerStep] = []
    for touch in touches:
        last = found[-1] if found else None
        if touch.action == "start" and last is not None and last.action == "wait":
            found.pop()
            last = found[-1] if found else None
        if touch.action == "wait" and last is not None and last.action == "wait":
            found.pop()
        if touch.action == "start" and last is not None and last.action == "stop":
            step: Step = "restart" if last.before == touch.node else "move"
            found[-1] = WorkerStep(last.order, touch.worker, step, touch.node, last.before, last.reason)
        elif touch.action == "stop":
            found.append(WorkerStep(touch.order, touch.worker, "stop", None, touch.node, touch.reason))
        elif touch.action == "restart" or (touch.action == "wait" and touch.node is not None):
            found.append(
                WorkerStep(touch.order, touch.worker, touch.action, touch.node, touch.node, touch.reason)
            )
        else:
            found.append(WorkerStep(touch.order, touch.worker, touch.action, touch.node, None, touch.reason))
    return found
