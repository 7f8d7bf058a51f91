"""Principals: the roles of the broker's users."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.roles import OWNER

from ...store import Tx
from ...store.rows import PrincipalRow
from .base import ChangeContext, ChangeHandler, ReadContext, ReadHandler, already_exists
from .paging import paged


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
    if ctx.tx.node_by_name(new.name) is not None:
        what = f"a node named '{new.name}' (both are users of the broker)"
        raise already_exists(what, "/params/principal/name")
    row = PrincipalRow(ctx.new_oid(), new.name, new.role, ctx.tx.now_ns)
    ctx.tx.insert_principal(row)
    _record_event(ctx.tx, "added", row)
    return result(row)


def set_principal_role(ctx: ChangeContext, params: p.SetRole) -> p.Principal:
    row = _need_principal(ctx.tx, params.principal_name)
    if params.role != OWNER:
        _refuse_last_owner(ctx.tx, row)
    ctx.tx.set_role(row.oid, params.role)
    changed = _need_principal(ctx.tx, row.name)
    _record_event(ctx.tx, "changed", changed)
    return result(changed)


def remove_principal(ctx: ChangeContext, params: p.PrincipalByName) -> p.Principal:
    """The embedded broker reads the event and revokes the user's account."""
    row = _need_principal(ctx.tx, params.principal_name)
    _refuse_last_owner(ctx.tx, row)
    ctx.tx.delete_principal(row.oid)
    _record_event(ctx.tx, "removed", row)
    return result(row)


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
}
