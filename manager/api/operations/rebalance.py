"""Workers moved so that clusters are in balance: what would move, and the order to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from busbar.bus import params as p
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError, no_such
from busbar.bus.placement import unmet
from busbar.bus.plans import (
    MoveOrder,
    OrderedMove,
    Rebalanced,
    RebalancePlan,
    Refused,
    Relocation,
    WorkerStep,
)
from busbar.bus.routers.definitions import step
from busbar.bus.states import ASSIGNED

from ...planner import balance, moving
from ...planner.liveness import Fleet, judge_nodes
from ...planner.model import ClusterView, GroupView, Snapshot
from ...slices import Slices
from ...store import Tx
from ...store.reads import Queries
from ...store.rows import WorkerRow
from .. import authorize
from .base import (
    ChangeContext,
    ChangeHandler,
    PlanHandler,
    ReadContext,
    ReadHandler,
    need_cluster,
    need_group,
    need_node,
)
from .declared import check_fence, version_at

_Where = tuple[ClusterView, GroupView]
MISPLACED: Final = 100
"""Of them, those that a plan names."""
_RIGHT: Final = OPERATIONS["update_routercluster_workergroup"]
"""Who may update a group may have its workers moved."""


def plan_rebalance(ctx: ReadContext, params: p.PlanRebalance) -> Slices[RebalancePlan]:
    """Carries it out on a copy of the state, and then lets the monitor's own passes run on that."""
    _check_scope(ctx, params)
    snapshot = ctx.snapshot()
    refused = _refused(ctx, snapshot, params)
    names = {each.pointer for each in refused}

    def wanted(cluster: ClusterView, group: GroupView) -> bool:
        return _asked(params, cluster, group) and step("/clusters", cluster.name) not in names

    fleet = judge_nodes(snapshot, ctx.now)[0]
    where = {g.oid: (c, g) for c in snapshot.clusters.values() for g in c.groups}

    def attempt(tx: Tx) -> Slices[tuple[balance.Moves, bool]]:
        found = yield from balance.moves(snapshot, ctx.now, wanted)
        for order, move in enumerate(found.moves, start=tx.last_move() + 1):
            tx.update_worker(move.worker.oid, move=MoveOrder(move.target, order, move.reason))
        return found, bool(found.moves)

    def concluded(
        found: balance.Moves, steps: list[WorkerStep], complete: bool, before: Queries
    ) -> RebalancePlan:
        done = {each.worker: each for each in steps if each.action == "move"}
        moves = [(where[move.worker.group_oid], move) for move in found.moves]
        pointers = [each for of, move in moves for each in _pointers(fleet, of, move)]
        moved = {move.worker.oid for move in found.moves}
        return RebalancePlan(
            moves=[_relocation(fleet, of, move, done) for of, move in moves],
            under_way=[f"{c.name}/{w.name}" for c, g in where.values() if _asked(params, c, g)
                       for w in g.workers if w.move is not None],
            refused=refused,
            fence={pointer: version_at(before, pointer) for pointer in dict.fromkeys(pointers)},
            hold=fleet.hold,
            complete=found.complete,
            misplaced=_misplaced(snapshot, wanted, moved)[:MISPLACED],
        )  # fmt: skip

    assert ctx.rehearse is not None
    return ctx.rehearse(attempt, concluded)


def _misplaced(snapshot: Snapshot, wanted: balance.Wanted, moved: Collection[str]) -> list[str]:
    """The workers that should move and don't: no other node has the labels and room."""
    found = []
    for cluster in sorted(snapshot.clusters.values(), key=lambda cluster: cluster.name):
        for group in (group for group in cluster.groups if wanted(cluster, group)):
            for worker in group.workers:
                node = snapshot.nodes.get(worker.node_oid or "")
                stays = worker.state in ASSIGNED and worker.move is None and worker.oid not in moved
                if stays and node is not None and (lacks := unmet(group.placement, node.labels)):
                    found.append(f"{cluster.name}/{worker.name} stays on {node.name}, which {lacks}")
    return found


def _check_scope(ctx: ReadContext, params: p.PlanRebalance) -> None:
    if params.routercluster_oid is None:
        if params.workergroup_oid is not None:
            detail = "a worker group's cluster is missing"
            raise BusError("invalid_argument", detail, ["/params/routercluster_oid"])
    elif params.workergroup_oid is None:
        need_cluster(ctx.reads, params.routercluster_oid)
    else:
        need_group(ctx.reads, params.routercluster_oid, params.workergroup_oid)


def _asked(params: p.PlanRebalance, cluster: ClusterView, group: GroupView) -> bool:
    if params.routercluster_oid not in (None, cluster.oid):
        return False
    return params.workergroup_oid in (None, group.oid)


def _refused(ctx: ReadContext, snapshot: Snapshot, params: p.PlanRebalance) -> list[Refused]:
    """The clusters that the caller may not change."""
    assert ctx.asker is not None
    found = []
    for cluster in sorted(snapshot.clusters.values(), key=lambda cluster: cluster.name):
        if params.routercluster_oid not in (None, cluster.oid):
            continue
        try:
            authorize.check_owner(_RIGHT, ctx.asker.principal, p.ClusterRef(cluster.oid), ctx.reads)
        except BusError as error:
            found.append(Refused(step("/clusters", cluster.name), error.code, error.detail))
    return found


def _relocation(fleet: Fleet, where: _Where, move: balance.Move, steps: dict[str, WorkerStep]) -> Relocation:
    cluster, group = where
    name, target = f"{cluster.name}/{move.worker.name}", fleet.name(move.target)
    done = steps.get(name)
    order = done.order if done is not None and done.node == target else None
    reachable = [w for w in group.workers if w.state in ASSIGNED]
    waits = None if order else moving.blocker(group, reachable, move.worker) or "others have to move first"
    return Relocation(
        worker=name,
        worker_oid=move.worker.oid,
        before=fleet.name(move.source),
        node=target,
        node_oid=move.target,
        reason=move.reason,
        order=order,
        waits=waits,
    )


def _pointers(fleet: Fleet, where: _Where, move: balance.Move) -> Iterator[str]:
    """What a move depends on: the group, the nodes, and whether they belong together."""
    cluster, group = where
    yield step("/clusters", cluster.name)
    yield step("/clusters", cluster.name, "groups", group.name)
    for oid in (move.source, move.target):
        yield step("/clusters", cluster.name, "nodes", fleet.name(oid))
        yield step("/nodes", fleet.name(oid))


def apply_rebalance(ctx: ChangeContext, params: p.ApplyRebalance) -> Rebalanced:
    """Only notes where the workers are to be: the monitor moves them, and gives up what has no room then."""
    tx, caller = ctx.tx, ctx.tx.principal(ctx.who.authid)
    assert caller is not None
    check_fence(tx, params.fence)
    ordered, first = [], tx.last_move() + 1
    for order, (worker_oid, node_oid) in enumerate(params.moves.items(), start=first):
        at = f"moves/{worker_oid}"
        row, node = tx.worker(worker_oid), need_node(tx, node_oid, paired=True, member=at)
        if row is None:
            raise no_such("worker", worker_oid, at)
        authorize.check_owner(_RIGHT, caller, p.ClusterRef(row.cluster_oid), tx)
        source = _need_planned(ctx, row, node.name, params.fence)
        reason = f"rebalance ordered by {ctx.who.authid}"
        tx.update_worker(row.oid, move=MoveOrder(node.oid, order, reason))
        name = f"{need_cluster(tx, row.cluster_oid).name}/{row.name}"
        ordered.append(OrderedMove(name, row.oid, source, node.name, row.version + 1))
    return Rebalanced(ordered)


def _need_planned(ctx: ChangeContext, row: WorkerRow, target: str, fence: dict[str, int]) -> str | None:
    """The name of the worker's node.

    Raises:
        BusError: `version_conflict` where the plan was not of this worker as it is.
    """
    tx = ctx.tx
    cluster, group = need_cluster(tx, row.cluster_oid), tx.group(row.group_oid)
    node = tx.node(row.node_oid or "")
    at = step("/clusters", cluster.name)
    needed = [f"/nodes/{target}", *([f"/nodes/{node.name}"] if node else [])]
    needed += [step(at, "groups", group.name)] if group else []
    missing = next((pointer for pointer in needed if pointer not in fence), None)
    if missing is not None:
        raise BusError("version_conflict", f"{missing} was not planned", ["/params/fence"])
    if row.state not in ASSIGNED or row.move is not None or row.node_oid is None:
        detail = f"worker '{row.name}' is not where it was: plan again"
        raise BusError("version_conflict", detail, ["/params/moves"])
    return node.name if node else None


READS: Final[dict[str, ReadHandler]] = {}
PLANS: Final[dict[str, PlanHandler]] = {"plan_rebalance": plan_rebalance}
CHANGES: Final[dict[str, ChangeHandler]] = {"apply_rebalance": apply_rebalance}
