"""Nodes: pair, read, label, drain, unpair."""

from __future__ import annotations

from typing import Final, Literal

from busbar.bus import params as p
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.messages import Command, RuntimeDetail
from busbar.bus.placement import MAX_LABELS
from busbar.bus.states import NodeStatus, advance
from msgspec import convert

from ...planner.draining import DRAINED
from ...publish.render import node_conditions
from ...store.rows import NodeRow
from . import members, sizes
from .base import (
    ChangeContext,
    ChangeHandler,
    ReadContext,
    ReadHandler,
    already_exists,
    need_cluster,
    need_node,
)
from .brief import brief
from .paging import paged

NOT_HEARD: Final = "not heard since it was paired"


def result(row: NodeRow, workers: int = 0, heard_ms_ago: int | None = None) -> p.Node:
    """The contract's node of a row."""
    return p.Node(
        oid=row.oid,
        name=row.name,
        labels=row.labels,
        status=row.status,
        changed=row.changed,
        version=row.version,
        boot=row.boot,
        runtimes=row.runtimes,
        capacity=row.capacity,
        assignment_version=row.assignment_version,
        applied={"epoch": row.applied_epoch, "version": row.applied_version},
        workers=workers,
        conditions=node_conditions(row),
        heard_ms_ago=heard_ms_ago,
        draining=row.draining,
        cordoned=row.cordoned,
        drained=row.drain_note == DRAINED,
        owner_oid=row.owner_oid,
        runtime_details=convert(row.runtime_details, dict[str, RuntimeDetail] | None),
    )


def list_nodes(ctx: ReadContext, params: p.ListNodes) -> list[str]:
    """Names, or oids, sorted by name; unpaired nodes only when filtered for."""
    wanted = params.filter_by_status
    return [
        name if params.return_names else oid
        for oid, name, status in ctx.reads.node_keys()
        if (status == wanted if wanted else status != NodeStatus.UNPAIRED)
    ]


def get_node(ctx: ReadContext, params: p.GetNode) -> p.Node:
    return brief(_with_liveness(ctx, need_node(ctx.reads, params.node_oid)), params.brief)


def get_node_by_name(ctx: ReadContext, params: p.NodeByName) -> p.Node:
    row = ctx.reads.node_by_name(params.node_name)
    if row is None:
        raise BusError("no_such_object", f"no node named '{params.node_name}'", ["/params/node_name"])
    return brief(_with_liveness(ctx, row), params.brief)


def pair_node(ctx: ChangeContext, params: p.PairNode) -> p.Node:
    tx, node = ctx.tx, params.node
    if tx.principal(node.name) is not None:
        what = f"a principal named '{node.name}' (both are users of the broker)"
        raise already_exists(what, "/params/node/name")
    known = tx.node_by_name(node.name)
    if known is not None and known.status is not NodeStatus.UNPAIRED:
        raise already_exists(f"node '{node.name}'", "/params/node/name")
    ctx.check_quota("nodes")
    oid = _pair_again(ctx, known, node) if known else _insert(ctx, node)
    tx.bump_assignment(oid)
    tx.send(tx.context.topics.node(node.name, "command"), encode(Command(resync=True)))
    row = need_node(tx, oid)
    sizes.check_readable(tx, found := result(row), "/params/node")
    _record_event(ctx, "paired", row, f"paired by {ctx.who.authid}")
    return found


def unpair_node(ctx: ChangeContext, params: p.UnpairNode) -> p.Node:
    """The monitor moves its workers; its retained assignment is empty from now on.

    The embedded broker reads the event and revokes the node's account, unless `keep_account` is set.
    """
    tx = ctx.tx
    node = need_node(tx, params.node_oid, paired=True)
    for member in tx.memberships(node.oid):
        tx.delete_member(member)
        members.record_event(tx, "removed", need_cluster(tx, member.cluster_oid), node)
    reason = f"unpaired by {ctx.who.authid}"
    tx.update_node(
        node.oid,
        status=advance(node.status, NodeStatus.UNPAIRED),
        reason=reason,
        draining=None,
        drain_note=None,
        cordoned=None,
    )
    tx.bump_assignment(node.oid)
    tx.clear_status(None, "node", node.name)
    row = need_node(tx, node.oid)
    _record_event(ctx, "unpaired", row, reason, keep_account=params.keep_account)
    return result(row, tx.worker_count(node.oid))


def forget_node(ctx: ChangeContext, params: p.NodeRef) -> p.Node:
    """The embedded broker reads the event and revokes the node's account.

    A node that was heard stays: an agent may still have an assignment, and the next ones must be above it.
    """
    tx = ctx.tx
    node = need_node(tx, params.node_oid)
    if node.was_heard or tx.worker_count(node.oid):
        detail = (
            f"node '{node.name}' was heard: its versions must go on, so it can be unpaired, not forgotten"
        )
        raise BusError("not_stopped", detail, ["/params/node_oid"])
    for member in tx.memberships(node.oid):
        tx.delete_member(member)
        members.record_event(tx, "removed", need_cluster(tx, member.cluster_oid), node)
    tx.delete_node(node)
    _record_event(ctx, "forgotten", node, f"forgotten by {ctx.who.authid}")
    return result(node)


def drain_node(ctx: ChangeContext, params: p.DrainNode) -> p.Node:
    """The monitor moves its workers; a node that is draining already gets the newer reason."""
    node = need_node(ctx.tx, params.node_oid, paired=True)
    return _mark(ctx, node, "draining", "draining", params.reason or node.draining or _requested(ctx))


def undrain_node(ctx: ChangeContext, params: p.NodeRef) -> p.Node:
    """Workers that have moved away stay there: only new ones are placed here again."""
    node = need_node(ctx.tx, params.node_oid, paired=True)
    return _mark(ctx, node, "draining", "undrained", None, drain_note=None)


def cordon_node(ctx: ChangeContext, params: p.CordonNode) -> p.Node:
    """Placing new workers there is refused (`planner.admission`), nothing else; the newer reason counts."""
    node = need_node(ctx.tx, params.node_oid, paired=True)
    return _mark(ctx, node, "cordoned", "cordoned", params.reason or node.cordoned or _requested(ctx))


def uncordon_node(ctx: ChangeContext, params: p.NodeRef) -> p.Node:
    """Pending workers are placed in the next pass; a drain goes on."""
    node = need_node(ctx.tx, params.node_oid, paired=True)
    return _mark(ctx, node, "cordoned", "uncordoned", None)


def label_node(ctx: ChangeContext, params: p.LabelNode) -> p.Node:
    """From now on the labels are the operator's: those that its agent reports no longer count."""
    tx, node = ctx.tx, need_node(ctx.tx, params.node_oid, paired=True)
    before = node.labels or {}
    after = {key: value for key, value in {**before, **params.labels}.items() if value is not None}
    if len(after) > MAX_LABELS:
        detail = f"node '{node.name}' would have {len(after)} labels; at most {MAX_LABELS}"
        raise BusError("invalid_argument", detail, ["/params/labels"])
    if after != node.labels:
        tx.update_node(node.oid, labels=after)
    row = need_node(tx, node.oid)
    sizes.check_readable(tx, found := result(row, tx.worker_count(row.oid)), "/params/labels")
    if after != before:
        changed = {key: after.get(key) for key in params.labels if after.get(key) != before.get(key)}
        told = (f"{key}-" if value is None else f"{key}={value}" for key, value in changed.items())
        _record_event(ctx, "labelled", row, ", ".join(told), labels=changed)
    return found


def _mark(
    ctx: ChangeContext,
    node: NodeRow,
    column: Literal["draining", "cordoned"],
    verb: str,
    reason: str | None,
    **more: None,
) -> p.Node:
    """Note why a node is drained or cordoned, or that it no longer is (None). An event tells when that begins
    or ends, not a newer reason."""
    tx, before = ctx.tx, getattr(node, column)
    if reason != before:
        tx.update_node(node.oid, **{column: reason}, **more)
    row = need_node(tx, node.oid)
    if (reason is None) is not (before is None):
        _record_event(ctx, verb, row, reason or _requested(ctx))
    return result(row, tx.worker_count(row.oid))


def _requested(ctx: ChangeContext) -> str:
    return f"requested by {ctx.who.authid}"


def _insert(ctx: ChangeContext, node: p.NodeDefinition) -> str:
    row = NodeRow(
        oid=ctx.new_oid(),
        name=node.name,
        labels=node.labels,
        status=NodeStatus.OFFLINE,
        reason=NOT_HEARD,
        boot=None,
        conn=None,
        goodbye=False,
        runtimes=[],
        capacity=None,
        conditions=[],
        assignment_version=0,
        applied_epoch=0,
        applied_version=0,
        changed=ctx.tx.now_ns,
        version=1,
        owner_oid=ctx.principal_oid,
    )
    ctx.tx.insert_node(row)
    return row.oid


def _pair_again(ctx: ChangeContext, known: NodeRow, node: p.NodeDefinition) -> str:
    """Keep the oid and the assignment version, which must never decrease."""
    ctx.tx.update_node(
        known.oid,
        labels=node.labels,
        status=advance(known.status, NodeStatus.OFFLINE),
        reason=NOT_HEARD,
        boot=None,
        conn=None,
        goodbye=False,
        conditions=[],
        owner_oid=ctx.principal_oid,
        refuses=None,
        heard=known.was_heard,
    )
    return known.oid


def _with_liveness(ctx: ReadContext, row: NodeRow) -> p.Node:
    heard = ctx.observed.heard_at(row.oid)
    ago = None if heard is None else max(0, int((ctx.now - heard) * 1000))
    return result(row, ctx.reads.worker_count(row.oid), ago)


def _record_event(ctx: ChangeContext, verb: str, row: NodeRow, reason: str, **more: object) -> None:
    data = {"oid": row.oid, "version": row.version, "status": row.status, "reason": reason, **more}
    ctx.tx.event("node", verb, cluster=None, name=row.name, data=data)


READS: Final[dict[str, ReadHandler]] = {
    "list_nodes": paged(list_nodes),
    "get_node": get_node,
    "get_node_by_name": get_node_by_name,
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "pair_node": pair_node,
    "forget_node": forget_node,
    "drain_node": drain_node,
    "undrain_node": undrain_node,
    "cordon_node": cordon_node,
    "uncordon_node": uncordon_node,
    "label_node": label_node,
    "unpair_node": unpair_node,
}
