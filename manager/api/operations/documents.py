"""The realm's definitions as one document, from the rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.routers.definitions import (
    ClusterSpec,
    Definitions,
    GroupSpec,
    MemberSpec,
    NodeSpec,
    PrincipalSpec,
    Strategy,
    normal_cluster,
    plain,
)
from busbar.bus.states import STARTED, NodeStatus

from ...store.reads import Queries
from ...store.rows import ClusterRow, GroupRow, PrincipalRow
from .base import ChangeHandler, ReadContext, ReadHandler


def get_definitions(ctx: ReadContext, params: p.GetDefinitions) -> dict[str, Any]:
    """Of the clusters named, with the nodes that they have; without names, of the whole realm."""
    reads = ctx.reads
    with reads.consistent():
        if params.clusters is None:
            return plain(present(reads, reads.clusters(), reads.principals()))
        clusters = [_need_named(reads, name, at) for at, name in enumerate(params.clusters)]
        return plain(present(reads, clusters, None))


def _need_named(store: Queries, name: str, at: int) -> ClusterRow:
    row = store.cluster_by_name(name)
    if row is None:
        raise BusError("no_such_object", f"no router cluster named '{name}'", [f"/params/clusters/{at}"])
    return row


def present(
    store: Queries, clusters: Iterable[ClusterRow], principals: Iterable[PrincipalRow] | None
) -> Definitions:
    """The document of these clusters and principals, and of all nodes; without principals, the clusters'."""
    names = {oid: name for oid, name, status in store.node_keys() if status != NodeStatus.UNPAIRED}
    specs = {row.name: cluster_spec(store, row) for row in clusters}
    roles = {row.name: PrincipalSpec(row.role) for row in principals or ()}  # type: ignore[arg-type]
    members = {name for spec in specs.values() for name in spec.nodes}
    nodes = {row.name: NodeSpec(row.labels) for row in store.nodes() if row.oid in names}
    if principals is None:
        nodes = {name: spec for name, spec in nodes.items() if name in members}
    return Definitions(1, None, specs, nodes, roles)


def cluster_spec(store: Queries, row: ClusterRow) -> ClusterSpec:
    """What a cluster is to be, in its normal form."""
    nodes = {name: MemberSpec(hard, soft) for name, hard, soft in store.member_limits(row.oid)}
    return _spec(row, nodes, {group.name: group_spec(group) for group in store.groups_of(row.oid)})


def empty_cluster_spec(row: ClusterRow) -> ClusterSpec:
    """As `cluster_spec`, of one without members and groups."""
    return _spec(row, {}, {})


def _spec(row: ClusterRow, nodes: dict[str, MemberSpec], groups: dict[str, GroupSpec]) -> ClusterSpec:
    return normal_cluster(
        ClusterSpec(
            running=row.status in STARTED,
            label=row.label,
            description=row.description,
            tags=row.tags,
            transport=row.transport,
            nodes=nodes,
            groups=groups,
        )
    )


def group_spec(row: GroupRow) -> GroupSpec:
    """What a group is to be, with everything written out."""
    return GroupSpec(
        scale=row.scale,
        runtime=row.runtime,
        label=row.label,
        description=row.description,
        tags=row.tags or None,
        lost_after=row.lost_after,
        start_deadline=row.start_deadline,
        mesh=row.mesh,
        stopped=row.stop_ordered or None,
        strategy=Strategy(row.max_unavailable, row.max_surge),
        placement=row.placement,
        transport=row.transport,
    )


READS: Final[dict[str, ReadHandler]] = {"get_definitions": get_definitions}
CHANGES: Final[dict[str, ChangeHandler]] = {}
