"""Authorisation and preconditions of an operation, from its row in the contract; only reads the store."""

from __future__ import annotations

from typing import Final

from busbar.bus.contract import Operation
from busbar.bus.errors import BusError
from busbar.bus.messages import Expect, Request
from busbar.bus.params import Params
from busbar.bus.roles import OWNER
from msgspec import UnsetType

from ..store.reads import Queries
from ..store.rows import PrincipalRow

_TARGETS: Final = ("workergroup_oid", "routercluster_oid", "node_oid")
"""Parameters that name the object of a change, the narrowest first."""
_OWNED: Final = {"cluster": ("router cluster", "routercluster_oid"), "node": ("node", "node_oid")}
"""What an owner is asked for: its name for people, and the parameter that names it."""


def need_principal(store: Queries, name: str) -> PrincipalRow:
    """Raises BusError `no_such_principal` when the caller has no role."""
    row = store.principal(name)
    if row is None:
        raise BusError("no_such_principal", f"no principal '{name}'")
    return row


def check_identity(request: Request, principal: PrincipalRow, *, change: bool) -> None:
    """Names can be given again; oids can't. A change in a name that had another holder must say which of them
    asks: the broker may still deliver what the former one left behind, such as a delayed will.

    Raises:
        BusError: `no_such_principal` when the request is another principal's, `not_authorized` when it does
            not say whose it is.
    """
    if isinstance(request.principal, UnsetType):
        if change and principal.reused:
            detail = f"'{principal.name}' had another holder before: a change must name its principal's oid"
            raise BusError("not_authorized", detail, ["/principal"])
    elif request.principal != principal.oid:
        raise BusError("no_such_principal", f"'{principal.name}' is another principal now", ["/principal"])


def check_role(row: Operation, principal: PrincipalRow) -> None:
    """Raises BusError `not_authorized` when the principal's role may not call this operation."""
    if principal.role not in row.roles:
        allowed = " or ".join(sorted(row.roles))
        detail = f"{row.name} needs the role {allowed}; '{principal.name}' is {principal.role}"
        raise BusError("not_authorized", detail)


def check_owner(row: Operation, principal: PrincipalRow, params: Params, store: Queries) -> None:
    """Raises BusError `not_authorized` when the cluster or node to be changed has another owner.

    An object that does not exist passes: the operation reports it.
    """
    if row.owned is None or principal.role == OWNER:
        return
    kind, member = _OWNED[row.owned]
    oid: str = getattr(params, member, "")
    found = store.cluster(oid) if row.owned == "cluster" else store.node(oid)
    if found is not None and found.owner_oid != principal.oid:
        raise BusError("not_authorized", f"{kind} '{found.name}' has another owner", [f"/params/{member}"])


def target(params: Params) -> str | None:
    """The oid of an operation's object; None when it names none."""
    for member in _TARGETS:
        oid: str | None = getattr(params, member, None)
        if oid is not None:
            return oid
    return None


def check_version(expect: Expect | None, params: Params, store: Queries) -> None:
    """Compare the expected version with that of the object: the worker group where one is named, else the
    cluster, else the node.

    Raises:
        BusError: `version_conflict`; or `invalid_argument` when the operation names no versioned object.
    """
    if expect is None:
        return
    present = version(params, store)
    if present is None:
        raise BusError("invalid_argument", "this operation names no versioned object", ["/expect"])
    if present not in (expect.version, -1):
        detail = f"the object is at version {present}, not {expect.version}"
        raise BusError("version_conflict", detail, ["/expect/version"])


def version(params: Params, store: Queries) -> int | None:
    """The present version of the object that `check_version` looks at, None where there is none to look at;
    -1 when the object does not exist (the operation reports it)."""
    queries = (store.group, store.cluster, store.node)
    for member, query in zip(_TARGETS, queries, strict=True):
        oid: str | None = getattr(params, member, None)
        if oid is not None:
            row = query(oid)
            return row.version if row is not None else -1
    return None
