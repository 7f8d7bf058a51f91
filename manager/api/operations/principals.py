"""Principals: which of the broker's users may do what."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError
from busbar.bus.roles import OWNER

from ...store import Tx
from ...store.rows import PrincipalRow
from .base import Change, ChangeHandler, ReadHandler, View, exists


def result(row: PrincipalRow) -> p.Principal:
    """A principal as callers see it."""
    return p.Principal(row.oid, row.name, row.role, row.changed)


def list_principals(view: View, params: p.NoParams) -> list[p.Principal]:
    """All of them, by name."""
    return [result(row) for row in view.reads.principals()]


def add_principal(change: Change, params: p.AddPrincipal) -> p.Principal:
    wish = params.principal
    if change.tx.principal(wish.name) is not None:
        raise exists(f"principal '{wish.name}'", "/params/principal/name")
    if change.tx.node_by_name(wish.name) is not None:
        raise exists(f"a node named '{wish.name}' (brokers know both as users)", "/params/principal/name")
    row = PrincipalRow(change.new_oid(), wish.name, wish.role, change.tx.now_ns)
    change.tx.insert_principal(row)
    _tell(change.tx, "added", row)
    return result(row)


def set_principal_role(change: Change, params: p.SetRole) -> p.Principal:
    row = _need(change.tx, params.principal_name)
    if params.role != OWNER:
        _spare_last_owner(change.tx, row)
    change.tx.set_role(row.oid, params.role)
    changed = _need(change.tx, row.name)
    _tell(change.tx, "changed", changed)
    return result(changed)


def remove_principal(change: Change, params: p.PrincipalByName) -> p.Principal:
    """The embedded broker follows the event and takes the user's account away."""
    row = _need(change.tx, params.principal_name)
    _spare_last_owner(change.tx, row)
    change.tx.delete_principal(row.oid)
    _tell(change.tx, "removed", row)
    return result(row)


def seed(tx: Tx, wanted: dict[str, str]) -> None:
    """Give the configured users their roles, in a store without an owner: what was decided since stays."""
    if any(row.role == OWNER for row in tx.principals()):
        return
    for name, role in wanted.items():
        row = tx.principal(name)
        if row is None:
            tx.insert_principal(PrincipalRow(tx.frame.new_oid(), name, role, tx.now_ns))
        elif row.role != role:
            tx.set_role(row.oid, role)


def _tell(tx: Tx, verb: str, row: PrincipalRow) -> None:
    data = {"oid": row.oid, "role": row.role}
    tx.event("principal", verb, cluster=None, kind="principal", name=row.name, data=dict(data))


def _need(tx: Tx, name: str) -> PrincipalRow:
    row = tx.principal(name)
    if row is None:
        raise BusError("no_such_object", f"no principal named '{name}'", ["/params/principal_name"])
    return row


def _spare_last_owner(tx: Tx, row: PrincipalRow) -> None:
    """Without an owner nobody could ever give a role again."""
    owners = [other for other in tx.principals() if other.role == OWNER]
    if owners == [row]:
        raise BusError("not_authorized", f"'{row.name}' is the last owner", ["/params/principal_name"])


READS: Final[dict[str, ReadHandler]] = {"list_principals": list_principals}
CHANGES: Final[dict[str, ChangeHandler]] = {
    "add_principal": add_principal,
    "set_principal_role": set_principal_role,
    "remove_principal": remove_principal,
}
