"""Nodes: made known, looked at, forgotten."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.messages import Command
from busbar.bus.states import NodeStatus, advance

from ...planner.draining import DRAINED
from ...publish.render import node_conditions
from ...store.rows import NodeRow
from . import members
from .base import Change, ChangeHandler, ReadHandler, View, exists, need_cluster, need_node

UNHEARD: Final = "not heard since it was paired"


def result(row: NodeRow, workers: int = 0, heard_ms_ago: int | None = None) -> p.Node:
    """A node as callers see it."""
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
        drained=row.drain_note == DRAINED,
    )


def list_nodes(view: View, params: p.ListNodes) -> list[str]:
    """Names, or oids in the order of the names; unpaired nodes only when filtered for."""
    wanted = params.filter_by_status
    return [
        name if params.return_names else oid
        for oid, name, status in view.reads.node_keys()
        if (status == wanted if wanted else status != NodeStatus.UNPAIRED)
    ]


def get_node(view: View, params: p.NodeRef) -> p.Node:
    return _seen(view, need_node(view.reads, params.node_oid))


def get_node_by_name(view: View, params: p.NodeByName) -> p.Node:
    row = view.reads.node_by_name(params.node_name)
    if row is None:
        raise BusError("no_such_object", f"no node named '{params.node_name}'", ["/params/node_name"])
    return _seen(view, row)


def pair_node(change: Change, params: p.PairNode) -> p.Node:
    tx, wish = change.tx, params.node
    if tx.principal(wish.name) is not None:
        raise exists(f"a principal named '{wish.name}' (brokers know both as users)", "/params/node/name")
    known = tx.node_by_name(wish.name)
    if known is not None and known.status is not NodeStatus.UNPAIRED:
        raise exists(f"node '{wish.name}'", "/params/node/name")
    oid = _revive(change, known, wish) if known else _insert(change, wish)
    tx.bump_assignment(oid)
    tx.send(tx.frame.topics.node(wish.name, "command"), encode(Command(resync=True)))
    row = need_node(tx, oid)
    _tell(change, "paired", row, f"paired by {change.who.authid}")
    return result(row)


def unpair_node(change: Change, params: p.UnpairNode) -> p.Node:
    """The monitor takes its workers elsewhere; its assignment is empty from now on, and is kept.

    The embedded broker follows the event and takes the node's account away, unless it is to be kept.
    """
    tx = change.tx
    node = need_node(tx, params.node_oid, paired=True)
    for member in tx.memberships(node.oid):
        tx.delete_member(member)
        members.tell(tx, "removed", need_cluster(tx, member.cluster_oid), node)
    reason = f"unpaired by {change.who.authid}"
    tx.update_node(
        node.oid,
        status=advance(node.status, NodeStatus.UNPAIRED),
        reason=reason,
        draining=None,
        drain_note=None,
    )
    tx.bump_assignment(node.oid)
    tx.clear_status(None, "node", node.name)
    row = need_node(tx, node.oid)
    _tell(change, "unpaired", row, reason, keep_account=params.keep_account)
    return result(row, tx.worker_count(node.oid))


def drain_node(change: Change, params: p.DrainNode) -> p.Node:
    """The monitor moves its workers; a node that is drained already stays so, with the newer reason."""
    tx = change.tx
    node = need_node(tx, params.node_oid, paired=True)
    why = params.reason or node.draining or f"asked for by {change.who.authid}"
    if why != node.draining:
        tx.update_node(node.oid, draining=why)
    row = need_node(tx, node.oid)
    if node.draining is None:
        _tell(change, "draining", row, why)
    return result(row, tx.worker_count(row.oid))


def undrain_node(change: Change, params: p.NodeRef) -> p.Node:
    """Workers that have left do not come back by themselves: only new ones are placed here again."""
    tx = change.tx
    node = need_node(tx, params.node_oid, paired=True)
    if node.draining is not None:
        tx.update_node(node.oid, draining=None, drain_note=None)
    row = need_node(tx, node.oid)
    if node.draining is not None:
        _tell(change, "undrained", row, f"asked for by {change.who.authid}")
    return result(row, tx.worker_count(row.oid))


def _insert(change: Change, wish: p.NodeDefinition) -> str:
    row = NodeRow(
        oid=change.new_oid(),
        name=wish.name,
        labels=wish.labels,
        status=NodeStatus.OFFLINE,
        reason=UNHEARD,
        boot=None,
        conn=None,
        goodbye=False,
        runtimes=[],
        capacity=None,
        conditions=[],
        assignment_version=0,
        applied_epoch=0,
        applied_version=0,
        changed=change.tx.now_ns,
        version=1,
    )
    change.tx.insert_node(row)
    return row.oid


def _revive(change: Change, known: NodeRow, wish: p.NodeDefinition) -> str:
    """A node that comes back keeps its oid and its assignment's version, which may never go back."""
    change.tx.update_node(
        known.oid,
        labels=wish.labels,
        status=advance(known.status, NodeStatus.OFFLINE),
        reason=UNHEARD,
        boot=None,
        conn=None,
        goodbye=False,
        conditions=[],
    )
    return known.oid


def _seen(view: View, row: NodeRow) -> p.Node:
    heard = view.observed.heard_at(row.oid)
    ago = None if heard is None else max(0, int((view.now - heard) * 1000))
    return result(row, view.reads.worker_count(row.oid), ago)


def _tell(change: Change, verb: str, row: NodeRow, reason: str, **more: object) -> None:
    data = {"oid": row.oid, "version": row.version, "status": row.status, "reason": reason, **more}
    change.tx.event("node", verb, cluster=None, kind="node", name=row.name, data=data)


READS: Final[dict[str, ReadHandler]] = {
    "list_nodes": list_nodes,
    "get_node": get_node,
    "get_node_by_name": get_node_by_name,
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "pair_node": pair_node,
    "drain_node": drain_node,
    "undrain_node": undrain_node,
    "unpair_node": unpair_node,
}
