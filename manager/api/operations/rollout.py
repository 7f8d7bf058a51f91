"""A new revision of a worker group, whatever asked for it; the monitor replaces the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from busbar.bus import params as p
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.messages import OUTDATED
from busbar.bus.routers.definitions import MAX_SURGE, MAX_UNAVAILABLE
from busbar.bus.routers.router_options import joins_cluster
from busbar.bus.states import ClusterState
from msgspec import UNSET, Struct

from ...store import Tx
from ...store.rows import ClusterRow, GroupRow
from . import sizes
from .base import ChangeContext, need_cluster, need_group

Definition = tuple[str, Mapping[str, Any] | None]
"""What workers run: a runtime, and a transport that is the cluster's where the group has none."""
Limits = p.UpdateGroup | p.RestartGroup | p.UpdateCluster


def given(update: Struct) -> dict[str, Any]:
    """The members of an update that a request has named, by name."""
    fields = update.__struct_fields__
    return {name: value for name in fields if (value := getattr(update, name)) is not UNSET}


def roll_out(
    ctx: ChangeContext,
    row: GroupRow,
    columns: Mapping[str, Any],
    wanted: Definition,
    params: Limits,
    pointer: str,
    *,
    renews: bool = False,
) -> GroupRow:
    """Set a group's columns; where its workers are to run something else, begin a new revision.

    `pointer` is that of the transport in the request. `renews`: workers that their nodes would start
    otherwise now are replaced as well.

    Raises:
        BusError: `invalid_argument`, `invalid_configuration`: the limits, or the size of the definition.
    """
    tx = ctx.tx
    revisions = list(tx.revisions(row.oid))
    transports = {r.revision: r.transport for r in revisions}
    same = {r.revision for r in revisions if (r.runtime, r.transport) == wanted}
    renewed = _outdated_starts(tx, row) if renews else set()
    new = row.revision not in same or bool(renewed)
    columns = {**columns, **rollout_limits(params, row, new)}
    if new and row.status is not ClusterState.STOPPED and row.revision in transports:
        runs = next(r for r in revisions if r.revision == row.revision)
        _check_stores((runs.runtime, runs.transport), wanted, pointer)
    if new:
        columns |= {"revision": row.revision + 1, "held_back": None}
    tx.update_group(row.oid, **columns)
    cluster = need_cluster(tx, row.cluster_oid)
    if new:
        _keep_equal_workers(tx, row, same, renewed)
        transport = wanted[1]
        if transport and len(encode(transport)) > len(encode(transports.get(row.revision))):
            sizes.check_cluster(tx, cluster.oid, pointer, transport)
    now = need_group(tx, row.cluster_oid, row.oid)
    if new:
        more = ("revision", "runtime", "max_unavailable", "max_surge")
        record_event(ctx, "updating", cluster, now, {name: getattr(now, name) for name in more})
    return now


def _check_stores(before: Definition, wanted: Definition, pointer: str) -> None:
    """Raises BusError `invalid_configuration`: what the workers have kept would silently stay behind."""
    if before[0] == wanted[0] == "nats" and joins_cluster(*before) != joins_cluster(*wanted):
        detail = (
            "workers that run alone and members of a cluster (a listener of type 'cluster') can't take over "
            "each other's sessions and retained messages: add another group, or stop this one first, which "
            "gives them up"
        )
        raise BusError("invalid_configuration", detail, [pointer])


def rollout_limits(params: Limits, row: GroupRow, new: bool) -> dict[str, int]:
    """Raises BusError `invalid_argument` when no worker could ever be replaced."""
    before = (MAX_UNAVAILABLE, MAX_SURGE) if new else (row.max_unavailable, row.max_surge)
    unavailable = before[0] if params.max_unavailable is None else params.max_unavailable
    surge = before[1] if params.max_surge is None else params.max_surge
    if unavailable == surge == 0:
        at = "max_unavailable" if params.max_unavailable is not None else "max_surge"
        detail = "max_unavailable and max_surge are both 0: no worker could ever be replaced"
        raise BusError("invalid_argument", detail, [f"/params/{at}"])
    return {"max_unavailable": unavailable, "max_surge": surge}


def _outdated_starts(tx: Tx, row: GroupRow) -> set[str]:
    """The oids of the workers whose nodes say that they would start them otherwise now."""
    return {worker.oid for worker in tx.workers_of(row.oid) if OUTDATED in (worker.reason or "")}


def _keep_equal_workers(tx: Tx, row: GroupRow, same: set[int], renewed: set[str]) -> None:
    """Store the new revision; workers of older revisions with an equal definition keep running, except
    `renewed`."""
    for worker in tx.workers_of(row.oid):
        if worker.revision in same and worker.oid not in renewed:
            tx.update_worker(worker.oid, revision=row.revision + 1)
    tx.add_revision(row.oid)


def record_event(
    ctx: ChangeContext, verb: str, cluster: ClusterRow, row: GroupRow, more: Mapping[str, object]
) -> None:
    data = {"oid": row.oid, "version": row.version, "cluster_oid": cluster.oid, **more}
    ctx.tx.event("workergroup", verb, cluster=cluster.name, name=row.name, data=data)
