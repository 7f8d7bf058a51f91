"""Nodes as members of clusters."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError

from ...store import Tx
from ...store.rows import ClusterRow, MemberRow, NodeRow
from .base import Change, ChangeHandler, ReadHandler, View, exists, need_cluster, need_member, need_node


def result(row: MemberRow) -> p.Membership:
    """A membership as callers see it."""
    return p.Membership(row.cluster_oid, row.node_oid, row.hardlimit, row.softlimit)


def add_routercluster_node(change: Change, params: p.AddNode) -> p.Membership:
    cluster = need_cluster(change.tx, params.routercluster_oid)
    node = need_node(change.tx, params.node_oid, paired=True)
    config = params.config or p.MembershipConfig()
    if config.hardlimit is not None and config.softlimit is not None and config.softlimit > config.hardlimit:
        detail = f"softlimit {config.softlimit} is above hardlimit {config.hardlimit}"
        raise BusError("invalid_argument", detail, ["/params/config/softlimit"])
    if change.tx.member(cluster.oid, node.oid) is not None:
        raise exists(f"node '{node.name}' in router cluster '{cluster.name}'", "/params/node_oid")
    row = MemberRow(cluster.oid, node.oid, config.hardlimit, config.softlimit, change.tx.now_ns)
    change.tx.insert_member(row)
    tell(change.tx, "added", cluster, node)
    return result(row)


def remove_routercluster_node(change: Change, params: p.MembershipRef) -> p.Membership:
    row = need_member(change.tx, params.routercluster_oid, params.node_oid)
    cluster = need_cluster(change.tx, row.cluster_oid)
    change.tx.delete_member(row)
    tell(change.tx, "removed", cluster, need_node(change.tx, row.node_oid))
    return result(row)


def get_routercluster_node(view: View, params: p.MembershipRef) -> p.Membership:
    return result(need_member(view.reads, params.routercluster_oid, params.node_oid))


def list_routercluster_nodes(view: View, params: p.ListMembers) -> list[str]:
    """Names of the member nodes, or their oids in the order of the names."""
    need_cluster(view.reads, params.routercluster_oid)
    member_oids = {row.node_oid for row in view.reads.members(params.routercluster_oid)}
    return [
        name if params.return_names else oid
        for oid, name, status in view.reads.node_keys()
        if oid in member_oids and params.filter_by_status in (None, status)
    ]


def tell(tx: Tx, verb: str, cluster: ClusterRow, node: NodeRow) -> None:
    """The event of a node that joined or left a cluster."""
    data = {"oid": node.oid, "version": node.version, "cluster_oid": cluster.oid, "cluster": cluster.name}
    tx.event("routercluster_node", verb, cluster=cluster.name, kind="node", name=node.name, data=dict(data))


READS: Final[dict[str, ReadHandler]] = {
    "get_routercluster_node": get_routercluster_node,
    "list_routercluster_nodes": list_routercluster_nodes,
}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "add_routercluster_node": add_routercluster_node,
    "remove_routercluster_node": remove_routercluster_node,
}
