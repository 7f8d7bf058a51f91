"""Nodes as members of clusters."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError

from ...store import Tx
from ...store.rows import ClusterRow, MemberRow, NodeRow
from . import sizes
from .base import (
    ChangeContext,
    ChangeHandler,
    ReadContext,
    ReadHandler,
    already_exists,
    need_cluster,
    need_member,
    need_node,
)
from .paging import paged


def result(row: MemberRow) -> p.Membership:
    """The contract's membership of a row."""
    return p.Membership(row.cluster_oid, row.node_oid, row.hardlimit, row.softlimit)


def add_routercluster_node(ctx: ChangeContext, params: p.AddNode) -> p.Membership:
    cluster = need_cluster(ctx.tx, params.routercluster_oid)
    node = need_node(ctx.tx, params.node_oid, paired=True)
    config = params.config or p.MembershipConfig()
    if config.hardlimit is not None and config.softlimit is not None and config.softlimit > config.hardlimit:
        detail = f"softlimit {config.softlimit} is above hardlimit {config.hardlimit}"
        raise BusError("invalid_argument", detail, ["/params/config/softlimit"])
    if ctx.tx.member(cluster.oid, node.oid) is not None:
        raise already_exists(f"node '{node.name}' in router cluster '{cluster.name}'", "/params/node_oid")
    row = MemberRow(cluster.oid, node.oid, config.hardlimit, config.softlimit, ctx.tx.now_ns)
    ctx.tx.insert_member(row)
    sizes.check_cluster(ctx.tx, cluster.oid, "/params/node_oid")
    record_event(ctx.tx, "added", cluster, node)
    return result(row)


def remove_routercluster_node(ctx: ChangeContext, params: p.MembershipRef) -> p.Membership:
    row = need_member(ctx.tx, params.routercluster_oid, params.node_oid)
    cluster = need_cluster(ctx.tx, row.cluster_oid)
    ctx.tx.delete_member(row)
    record_event(ctx.tx, "removed", cluster, need_node(ctx.tx, row.node_oid))
    return result(row)


def get_routercluster_node(ctx: ReadContext, params: p.MembershipRef) -> p.Membership:
    return result(need_member(ctx.reads, params.routercluster_oid, params.node_oid))


def list_routercluster_nodes(ctx: ReadContext, params: p.ListMembers) -> list[str]:
    """Names of the member nodes, or their oids, sorted by name."""
    need_cluster(ctx.reads, params.routercluster_oid)
    member_oids = {row.node_oid for row in ctx.reads.members(params.routercluster_oid)}
    return [
        name if params.return_names else oid
        for oid, name, status in ctx.reads.node_keys()
        if oid in member_oids and params.filter_by_status in (None, status)
    ]


def record_event(tx: Tx, verb: str, cluster: ClusterRow, node: NodeRow) -> None:
    """`on_routercluster_node_{verb}`: a node joined or left a cluster."""
    data = {"oid": node.oid, "version": node.version, "cluster_oid": cluster.oid, "cluster": cluster.name}
    tx.event("routercluster_node", verb, cluster=cluster.name, name=node.name, data=data)


READS: Final[dict[str, ReadHandler]] = {
    "get_routercluster_node": get_routercluster_node,
    "list_routercluster_nodes": paged(list_routercluster_nodes),
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "add_routercluster_node": add_routercluster_node,
    "remove_routercluster_node": remove_routercluster_node,
}
