"""Whether the nodes can run a definition: a runtime with a transport. Asked before any worker is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from busbar.bus.errors import BusError
from busbar.bus.routers.exposure import check_exposure
from busbar.bus.routers.runtimes import check_for_runtime, check_served
from busbar.bus.states import NodeStatus

from ...planner.acceptance import NAMED, NodeRefusal, Voter, refused_by_all
from ...planner.admission import unoffered
from ...store import Tx

Transport = Mapping[str, Any] | None
_HEARD: Final = frozenset({NodeStatus.ONLINE, NodeStatus.LATE})


class Pointers(NamedTuple):
    """Where a request names the parts of a definition; `mismatch`: what to blame when they don't fit."""

    transport: str
    runtime: str
    mismatch: str


def check_definition(tx: Tx, cluster_oid: str, runtime: str, transport: Transport, at: Pointers) -> None:
    """Check a checked transport against what the nodes offer, and against what those of the cluster accept.

    Raises:
        BusError: `invalid_configuration`: no node would run it, or it would let everybody in unasked.
    """
    offered = {
        name for node in tx.nodes() if node.status is not NodeStatus.UNPAIRED for name in node.runtimes
    }
    why = unoffered(runtime, offered)
    if why is not None:
        raise BusError("invalid_configuration", why, [at.runtime])
    check_for_runtime(transport, "", at.transport)
    try:
        check_served(runtime, transport, at.transport, at.mismatch)
        refused = None
    except BusError as error:
        refused = error
    voters = _voters(tx, cluster_oid, runtime)
    refusals = refused_by_all(voters, transport, refused is None)
    if refusals is not None:
        raise refused or _no_node(refusals, at)
    check_exposure(transport, at.transport, runtime)


def _voters(tx: Tx, cluster_oid: str, runtime: str) -> list[Voter]:
    """The cluster's nodes. One that is silent, or does not offer the runtime, can't tell: it may be another
    version when it is back."""
    bodies = tx.schema_bodies(cluster_oid, runtime)
    found = []
    for row in tx.member_schemas(cluster_oid, runtime):
        tells = row.status in _HEARD and runtime in row.runtimes
        found.append(Voter(row.node, bodies.get(row.digest or "") if tells else None))
    return found


def _no_node(refusals: list[NodeRefusal], at: Pointers) -> BusError:
    detail = f"no node of the cluster accepts it: {'; '.join(each.text for each in refusals[:NAMED])}"
    pointers = dict.fromkeys(f"{at.transport}{each.pointer}" for each in refusals)
    return BusError("invalid_configuration", detail[:2000], list(pointers)[:NAMED])
