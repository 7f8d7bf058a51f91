"""Principals: the roles of the broker's users."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.clock import rfc3339
from busbar.bus.errors import BusError, no_such
from busbar.bus.roles import OWNER
from busbar.bus.states import NodeStatus

from ...store import Tx
from ...store.rows import NodeRow, PrincipalRow
from .base import (
    ChangeContext,
    ChangeHandler,
    ReadContext,
    ReadHandler,
    already_exists,
    need_cluster,
    need_node,
)
from .paging import paged

SHOWN: Final = 8
"""Former holders of a name that an error lists."""
_SOURCES: Final = ("from_name", "from_oid", "routercluster_oid", "node_oid")


def result(row: PrincipalRow) -> p.Principal:
    """The contract's principal of a row."""
    return p.Principal(row.oid, row.name, row.role, row.changed)


def list_principals(ctx: ReadContext, params: p.ListPrincipals) -> list[p.Principal]:
    """All principals, sorted by name."""
    return [result(row) for row in ctx.reads.principals()]


def add_principal(ctx: ChangeContext, params: p.AddPrincipal) -> p.Principal:
    new = params.principal
    if ctx.tx.principal(new.name) is not None:
        raise already_exists(f"principal '{new.name}'", "/params/principal/name")
    node = ctx.tx.node_by_name(new.name)
    if node is not None:
        _check_node(ctx, node, params.reuse)
    former = ctx.tx.former_principals("name", new.name)
    if former and not params.reuse:
        removed = rfc3339(former[0][2])
        detail = f"the name '{new.name}' was that of a principal removed at {removed}: 'reuse' gives it again"
        raise BusError("already_exists", detail, ["/params/principal/name"])
    row = PrincipalRow(ctx.new_oid(), new.name, new.role, ctx.tx.now_ns, reused=bool(former or node))
    ctx.tx.insert_principal(row)
    _record_event(ctx.tx, "added", row)
    return result(row)


def _check_node(ctx: ChangeContext, node: NodeRow, reuse: bool) -> None:
    """A node's name is given to a principal once it is unpaired and no worker of it is left."""
    if node.status is not NodeStatus.UNPAIRED or ctx.tx.worker_count(node.oid):
        what = f"a node named '{node.name}' (both are users of the broker)"
        raise already_exists(what, "/params/principal/name")
    if not reuse:
        detail = f"the name '{node.name}' was that of a node, now unpaired: 'reuse' gives it to a principal"
        raise BusError("already_exists", detail, ["/params/principal/name"])


def set_principal_role(ctx: ChangeContext, params: p.SetRole) -> p.Principal:
    row = _need_principal(ctx.tx, params.principal_name)
    if params.role != OWNER:
        _refuse_last_owner(ctx.tx, row)
    ctx.tx.set_role(row.oid, params.role)
    changed = _need_principal(ctx.tx, row.name)
    _record_event(ctx.tx, "changed", changed)
    return result(changed)


def remove_principal(ctx: ChangeContext, params: p.PrincipalByName) -> p.RemovedPrincipal:
    """The embedded broker reads the event and revokes the user's account."""
    row = _need_principal(ctx.tx, params.principal_name)
    _refuse_last_owner(ctx.tx, row)
    ctx.tx.delete_principal(row)
    _record_event(ctx.tx, "removed", row)
    return p.RemovedPrincipal(row.oid, row.name, row.role, row.changed, *_owned(ctx.tx, row.oid))


def transfer_principal(ctx: ChangeContext, params: p.TransferPrincipal) -> p.Transferred:
    """What is handed over keeps running: only the owner changes."""
    tx, new = ctx.tx, _need_principal(ctx.tx, params.principal_name)
    sources = [getattr(params, member) for member in _SOURCES]
    if sum(source is not None for source in sources) != 1:
        detail = f"exactly one of {', '.join(_SOURCES)} says what is handed over"
        raise BusError("invalid_argument", detail, ["/params"])
    if params.routercluster_oid is not None:
        need_cluster(tx, params.routercluster_oid)
        tx.update_cluster(params.routercluster_oid, owner_oid=new.oid)
        clusters, nodes = 1, 0
    elif params.node_oid is not None:
        need_node(tx, params.node_oid)
        tx.update_node(params.node_oid, owner_oid=new.oid)
        clusters, nodes = 0, 1
    else:
        clusters, nodes = tx.transfer(_source(tx, params), new.oid)
    data = {"oid": new.oid, "role": new.role, "clusters": clusters, "nodes": nodes}
    given = {member: source for member, source in zip(_SOURCES, sources, strict=True) if source is not None}
    tx.event("principal", "transferred", cluster=None, name=new.name, data=data | given)
    return p.Transferred(new.oid, new.name, clusters, nodes)


def _owned(tx: Tx, oid: str) -> tuple[int, int]:
    return tx.owned(oid, "clusters"), tx.owned(oid, "nodes")


def _source(tx: Tx, params: p.TransferPrincipal) -> str:
    """The oid of the principal, present or removed, whose clusters and nodes are handed over."""
    if params.from_oid is not None:
        # An owner may also be one that was removed before removals were recorded: then it owns something.
        known = any(row.oid == params.from_oid for row in tx.principals())
        if known or any(_owned(tx, params.from_oid)) or tx.former_principals("oid", params.from_oid):
            return params.from_oid
        raise no_such("principal", params.from_oid, "from_oid")
    name = params.from_name or ""
    row = tx.principal(name)
    if row is not None:
        return row.oid
    former = tx.former_principals("name", name)
    if not former:
        raise BusError("no_such_object", f"no principal was ever named '{name}'", ["/params/from_name"])
    if len(former) > 1:
        oids = ", ".join(oid for oid, _, _ in former[:SHOWN])
        detail = f"'{name}' had several holders ({oids}): name one by 'from_oid'"
        raise BusError("invalid_argument", detail, ["/params/from_name"])
    return former[0][0]


def seed(tx: Tx, wanted: dict[str, str]) -> None:
    """Assign the configured roles to a store without an owner; later changes of roles are kept."""
    if any(row.role == OWNER for row in tx.principals()):
        return
    for name, role in wanted.items():
        row = tx.principal(name)
        if row is None:
            tx.insert_principal(PrincipalRow(tx.context.new_oid(), name, role, tx.now_ns))
        elif row.role != role:
            tx.set_role(row.oid, role)


def _record_event(tx: Tx, verb: str, row: PrincipalRow) -> None:
    data = {"oid": row.oid, "role": row.role}
    tx.event("principal", verb, cluster=None, name=row.name, data=data)


def _need_principal(tx: Tx, name: str) -> PrincipalRow:
    row = tx.principal(name)
    if row is None:
        raise BusError("no_such_object", f"no principal named '{name}'", ["/params/principal_name"])
    return row


def _refuse_last_owner(tx: Tx, row: PrincipalRow) -> None:
    """Raises BusError `not_authorized` for the last owner: only owners can assign roles."""
    owners = [other for other in tx.principals() if other.role == OWNER]
    if owners == [row]:
        raise BusError("not_authorized", f"'{row.name}' is the last owner", ["/params/principal_name"])


READS: Final[dict[str, ReadHandler]] = {"list_principals": paged(list_principals)}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "add_principal": add_principal,
    "set_principal_role": set_principal_role,
    "remove_principal": remove_principal,
    "transfer_principal": transfer_principal,
}
