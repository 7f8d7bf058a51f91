"""Realms with roles, and who may join them: the parts of a transport that only WAMP has. Pure.

The shape is that of Crossbar.io's configuration, without what would run code on a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .decode import convert
from .errors import BusError

_REALM = r"^[A-Za-z0-9][A-Za-z0-9_@.-]{0,254}(?![\s\S])"
RealmName = Annotated[str, Meta(pattern=_REALM, description="a WAMP realm, such as com.example.shop")]
"""Not a realm of Busbar; a runtime may demand more (Crossbar: three characters, a letter first)."""
RoleName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,127}(?![\s\S])")]
Uri = Annotated[str, Meta(pattern=r"^[0-9a-z_]{1,64}(?:\.[0-9a-z_]{1,64}){0,31}(?![\s\S])")]
"""A procedure, such as com.example.authenticate."""
UriPattern = Annotated[str, Meta(pattern=r"^[^\s#]{0,255}(?![\s\S])")]
"""What a permission is for; empty with `match` prefix: everything."""
ANONYMOUS: Final = "anonymous"
"""The role of clients on a path without `auth`."""
TRUSTED: Final = "trusted"
"""Crossbar's own role, which may do everything: no client gets it."""


class Allow(Struct, frozen=True, forbid_unknown_fields=True):
    """What a permission lets clients do."""

    call: bool = False
    register: bool = False
    publish: bool = False
    subscribe: bool = False


class Disclose(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether callees and subscribers are told who called or published."""

    caller: bool = False
    publisher: bool = False


class Permission(Struct, frozen=True, forbid_unknown_fields=True):
    """What a role may do on URIs; without `match`, a `*` at the end makes the URI a prefix."""

    uri: UriPattern
    match: Literal["exact", "prefix", "wildcard"] | UnsetType = UNSET
    allow: Allow | UnsetType = UNSET
    disclose: Disclose | UnsetType = UNSET
    cache: bool | UnsetType = UNSET


class Role(Struct, frozen=True, forbid_unknown_fields=True):
    """A role with fixed permissions, or with a procedure that is asked (`authorizer`)."""

    name: RoleName
    permissions: Annotated[list[Permission], Meta(max_length=256)] | UnsetType = UNSET
    authorizer: Uri | UnsetType = UNSET


class RealmOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a realm as Crossbar has them."""

    uri_check: Literal["strict", "loose"] | UnsetType = UNSET
    event_dispatching_chunk_size: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    enable_meta_api: bool | UnsetType = UNSET
    bridge_meta_api: bool | UnsetType = UNSET


class Realm(Struct, frozen=True, forbid_unknown_fields=True):
    """A realm with its roles. One that is only named has the role `anonymous`, which may do everything."""

    name: RealmName
    roles: Annotated[list[Role], Meta(min_length=1, max_length=64)]
    options: RealmOptions | UnsetType = UNSET


Realms = Mapping[str, frozenset[str]]
"""The roles of each realm by its name."""
DEFAULT_REALMS: Final[Realms] = {"realm1": frozenset({ANONYMOUS})}


def check_realms(given: list[Any] | UnsetType, pointer: str) -> Realms:
    """The realms of a transport with the names of their roles.

    Raises:
        BusError: `invalid_configuration` with the pointer to the invalid member.
    """
    if isinstance(given, UnsetType):
        return DEFAULT_REALMS
    realms: dict[str, frozenset[str]] = {}
    for index, each in enumerate(given):
        at = f"{pointer}/{index}"
        if isinstance(each, str):
            name, roles = convert(each, RealmName, at, "invalid_configuration"), frozenset({ANONYMOUS})
        else:
            realm = convert(each, Realm, at, "invalid_configuration")
            name, roles = realm.name, frozenset(_roles(realm.roles, f"{at}/roles"))
            at += "/name"
        if name in realms:
            raise wrong("duplicate realm name", at)
        realms[name] = roles
    return realms


def _roles(roles: list[Role], pointer: str) -> Iterator[str]:
    known: set[str] = set()
    for index, role in enumerate(roles):
        at = f"{pointer}/{index}"
        if role.name == TRUSTED:
            raise wrong("the role 'trusted' is the router's own", f"{at}/name")
        if role.name in known:
            raise wrong("duplicate role name in this realm", f"{at}/name")
        if role.permissions is not UNSET and role.authorizer is not UNSET:
            raise wrong("a role has permissions or an authorizer, not both", f"{at}/authorizer")
        known.add(role.name)
        yield role.name


def wrong(detail: str, pointer: str) -> BusError:
    """An error in a transport."""
    return BusError("invalid_configuration", detail, [pointer])
