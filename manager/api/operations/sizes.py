"""Admission by size: no change is accepted that would make an assignment, or the reply that shows an object,
larger than the broker takes.

Called by the operations that add something, after they have written it (their transaction is rolled back).
What takes away is never refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from busbar.bus.decode import encode
from busbar.bus.errors import BusError

from ...planner.peers import MAX_MESH
from ...planner.sizes import PEER, SMALL, definitions_limit, fullest, workers_limit
from ...store import Tx
from ...store.rows import GroupRow

REPLY: Final = 768
"""Topic, packet header, and the members of a reply besides its result, with the longest names."""


def check_readable(tx: Tx, found: object, pointer: str) -> None:
    """Raises BusError `payload_too_large`: no reply could show this object."""
    size, limit = len(encode(found)), tx.context.max_packet() - REPLY
    if size > limit:
        detail = f"the object would have {size} bytes; the broker's packet limit leaves {limit}"
        raise BusError("payload_too_large", detail, [pointer])


def check_definition(tx: Tx, transport: Mapping[str, Any] | None, pointer: str) -> None:
    """Raises BusError `invalid_configuration`: no assignment could hold this definition."""
    size = len(encode(transport)) if transport else 0
    limit = definitions_limit(tx.context.max_packet())
    if size > limit:
        raise _refused(f"the definition has {size} bytes; the broker's packet limit leaves {limit}", pointer)


def check_cluster(tx: Tx, cluster_oid: str, pointer: str, transport: Mapping[str, Any] | None = None) -> None:
    """The definitions on the fullest node of a cluster, with those of other clusters that run there.

    `transport` is the one that was added; without it, a started or enlarged cluster's own count.

    Raises:
        BusError: `invalid_configuration`: they are above the limit.
    """
    if transport is not None and len(encode(transport)) <= SMALL:
        return  # counted with its workers
    _check_fullest(tx, cluster_oid, pointer)


def check_scale(tx: Tx, cluster_oid: str, pointer: str) -> None:
    """Raises BusError `invalid_configuration`: too many workers for its nodes, even spread evenly."""
    members = len(tx.members(cluster_oid))
    per_node = fullest(tx.cluster_scale(cluster_oid)[1], members)
    limit = workers_limit(tx.context.max_packet())
    if per_node > limit:
        detail = f"{per_node} workers on the fullest of {members} nodes"
        raise _refused(f"{detail}; the broker's packet limit leaves {limit} for each", pointer)


def check_mesh(tx: Tx, group: GroupRow, pointer: str) -> None:
    """Raises BusError `invalid_configuration`: a meshed group of too many workers."""
    if not group.mesh:
        return
    if group.scale > MAX_MESH:
        detail = f"a meshed group of {group.scale} workers, each connected to every other; at most {MAX_MESH}"
        raise _refused(detail, pointer)
    _check_fullest(tx, group.cluster_oid, pointer)


def _check_fullest(tx: Tx, cluster_oid: str, pointer: str) -> None:
    node, size = tx.fullest_node(cluster_oid, SMALL, PEER)
    limit = definitions_limit(tx.context.max_packet())
    if size > limit:
        detail = f"definitions and peers on node '{node}' would have {size} bytes in one assignment"
        raise _refused(f"{detail}; the broker's packet limit leaves {limit}", pointer)


def _refused(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])
