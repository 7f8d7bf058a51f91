"""What clusters were to be, revision by revision, and the way back."""

from __future__ import annotations

from typing import Final

import msgspec
from busbar.bus import params as p
from busbar.bus.clock import rfc3339
from busbar.bus.decode import MAX_PAYLOAD
from busbar.bus.errors import BusError
from busbar.bus.plans import Applied, Plan, member_changes
from busbar.bus.routers.definitions import ClusterSpec, Definitions
from msgspec.structs import replace

from ...slices import Slices
from ...store import Tx
from ...store.reads import Queries
from ...store.rows import ClusterRevisionRow, PrincipalRow
from .base import ChangeContext, ChangeHandler, PlanHandler, ReadContext, ReadHandler, need_cluster
from .carrier import Carrier, Wish
from .declared import applied, planned
from .documents import cluster_spec, empty_cluster_spec

KEPT: Final = 20
"""Revisions of a cluster that are kept."""
ORDERS: Final = ("start_", "stop_", "restart_")
"""Operations that begin so change no definition."""
NAMED: Final = 8
"""Changed members that one entry names."""
_decode = msgspec.json.Decoder(ClusterSpec).decode


def note_revisions(tx: Tx, principal: PrincipalRow, op: str, request_id: str) -> None:
    """Store a revision of each cluster whose definition this request has changed."""
    if op.startswith(ORDERS):
        return
    for oid in sorted(tx.changes.clusters):
        if bare := tx.changes.bare.get(oid):  # it has neither members nor groups nor revisions to be read
            spec, last = empty_cluster_spec(bare), None
        elif row := tx.cluster(oid):
            spec, last = cluster_spec(tx, row), next(iter(tx.cluster_revisions(oid, None, 1)), None)
        else:
            continue
        definition = msgspec.json.encode(_lasting(spec)).decode()
        if len(definition) > MAX_PAYLOAD or (last is not None and last.definition == definition):
            continue
        revision = last.revision + 1 if last else 1
        made = (tx.now_ns, principal.name, principal.oid, op, request_id or None)
        tx.add_cluster_revision(ClusterRevisionRow(oid, revision, *made, definition), KEPT)


def _lasting(spec: ClusterSpec) -> ClusterSpec:
    """The definition without what was ordered: whether it runs."""
    groups = {name: replace(group, stopped=None) for name, group in spec.groups.items()}
    return replace(spec, running=None, groups=groups)


def _entry(row: ClusterRevisionRow, before: ClusterRevisionRow | None) -> p.Revision:
    old = msgspec.json.decode(before.definition) if before else {}
    changed = [each.pointer for each in member_changes(old, msgspec.json.decode(row.definition))]
    return p.Revision(
        revision=row.revision,
        time=rfc3339(row.time),
        caller=row.caller,
        operation=row.op,
        request_id=row.request_id,
        changed=changed[:NAMED] if before or row.revision == 1 else [],
    )


def list_routercluster_revisions(ctx: ReadContext, params: p.ListRevisions) -> list[p.Revision]:
    """The last first; each names the members that it has changed."""
    need_cluster(ctx.reads, params.routercluster_oid)
    rows = ctx.reads.cluster_revisions(params.routercluster_oid, params.after, params.limit + 1)
    befores = [*rows[1:], None]
    return [_entry(row, before) for row, before in zip(rows, befores, strict=True)][: params.limit]


def get_routercluster_revision(ctx: ReadContext, params: p.RevisionRef) -> p.RevisionDetail:
    need_cluster(ctx.reads, params.routercluster_oid)
    row = ctx.reads.cluster_revision(params.routercluster_oid, params.revision)
    if row is None:
        raise _unknown(params.revision)
    return p.RevisionDetail(
        revision=row.revision,
        time=rfc3339(row.time),
        caller=row.caller,
        operation=row.op,
        request_id=row.request_id,
        definition=msgspec.json.decode(row.definition),
    )


def plan_routercluster_rollback(ctx: ReadContext, params: p.RevisionRef) -> Slices[Plan]:
    return planned(ctx, _as_it_was(ctx.reads, params), "")


def rollback_routercluster(ctx: ChangeContext, params: p.RevisionRef) -> Applied:
    """Whether it runs stays as it is; groups and members that have come since go."""
    wish, caller = _as_it_was(ctx.tx, params), ctx.tx.principal(ctx.who.authid)
    assert caller is not None
    carrier = Carrier(ctx, caller, wish, "")
    try:
        carrier.carry_out()
    except BusError as error:
        where = "".join(error.pointers[:1])
        raise BusError(error.code, f"{where}: {error.detail}", ["/params/revision"]) from None
    return applied(carrier)


def _as_it_was(store: Queries, params: p.RevisionRef) -> Wish:
    cluster = need_cluster(store, params.routercluster_oid)
    row = store.cluster_revision(cluster.oid, params.revision)
    if row is None:
        raise _unknown(params.revision)
    return Wish(Definitions(1, clusters={cluster.name: _decode(row.definition)}), exact=True)


def _unknown(revision: int) -> BusError:
    detail = f"there is no revision {revision} (any more); the last {KEPT} are kept"
    return BusError("no_such_object", detail, ["/params/revision"])


READS: Final[dict[str, ReadHandler]] = {
    "list_routercluster_revisions": list_routercluster_revisions,
    "get_routercluster_revision": get_routercluster_revision,
}
PLANS: Final[dict[str, PlanHandler]] = {"plan_routercluster_rollback": plan_routercluster_rollback}
CHANGES: Final[dict[str, ChangeHandler]] = {"rollback_routercluster": rollback_routercluster}
