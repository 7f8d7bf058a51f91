"""Realms with roles, and who may join them: the parts of a transport that only WAMP has. Pure.

The shape is that of Crossbar.io's configuration, without what would run code on a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ..decode import convert
from ..errors import BusError
from ..node_files import PathText, check_reference

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


METHODS: Final = ("ticket", "wampcra", "scram", "cryptosign", "tls")
"""Ways to authenticate whose principals are in a file of the node, or known to a procedure."""
_OTHER_NAMES: Final = {
    "authenticator_realm": "authenticator-realm",
    "authenticator_role": "authenticator-role",
    "default_role": "default-role",
}


class _Dynamic(Struct, frozen=True, forbid_unknown_fields=True, rename=_OTHER_NAMES, kw_only=True):
    """The procedure that is called for each client, and where."""

    authenticator: Uri | UnsetType = UNSET
    authenticator_realm: RealmName | UnsetType = UNSET
    authenticator_role: RoleName | UnsetType = UNSET


class AnonymousAuth(_Dynamic, frozen=True, rename=_OTHER_NAMES):
    """Clients without credentials, who get `role`, or what a procedure says."""

    type: Literal["static", "dynamic"] = "static"
    role: RoleName = ANONYMOUS
    realm: RealmName | UnsetType = UNSET
    authid: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET


class MethodAuth(_Dynamic, frozen=True, rename=_OTHER_NAMES, kw_only=True):
    """`static`: principals in a file below the node's `secrets_root`. `dynamic`: a procedure is called."""

    type: Literal["static", "dynamic"]
    principals_file: PathText | UnsetType = UNSET
    default_role: RoleName | UnsetType = UNSET


class CookieAuth(Struct, frozen=True, forbid_unknown_fields=True):
    """A client that authenticated before comes again with its cookie; the path needs `cookie`."""


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    """Ways to authenticate on a path; a client offers those it knows, and the first of them counts."""

    anonymous: AnonymousAuth | UnsetType = UNSET
    ticket: MethodAuth | UnsetType = UNSET
    wampcra: MethodAuth | UnsetType = UNSET
    scram: MethodAuth | UnsetType = UNSET
    cryptosign: MethodAuth | UnsetType = UNSET
    tls: MethodAuth | UnsetType = UNSET
    cookie: CookieAuth | UnsetType = UNSET


class CookieStore(Struct, frozen=True, forbid_unknown_fields=True):
    """Where cookies are kept; a file is in the worker's own folder, and removed with it."""

    type: Literal["memory", "file"]
    filename: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?![\s\S])")] | UnsetType = UNSET
    purge_on_startup: bool | UnsetType = UNSET


class Cookie(Struct, frozen=True, forbid_unknown_fields=True):
    """Cookies of a WebSocket path, as Crossbar has them; `max_age` in seconds."""

    store: CookieStore
    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{1,63}(?![\s\S])")] | UnsetType = UNSET
    length: Annotated[int, Meta(ge=6, le=64)] | UnsetType = UNSET
    max_age: Annotated[int, Meta(ge=1, le=86400 * 3600)] | UnsetType = UNSET
    secure: bool | UnsetType = UNSET
    http_strict: bool | UnsetType = UNSET
    same_site: Literal["Strict", "Lax", "None"] | UnsetType = UNSET


def check_auth(
    given: Mapping[str, Any] | UnsetType, realms: Realms, pointer: str, *, cookie: bool, client_ca: bool
) -> None:
    """Check the `auth` of a path. `cookie`: it has cookies; `client_ca`: clients have certificates.

    Raises:
        BusError: `invalid_configuration` with the pointer to the invalid member.
    """
    if isinstance(given, UnsetType):
        if not any(ANONYMOUS in roles for roles in realms.values()):
            raise wrong("is needed: no realm has a role 'anonymous' for clients without it", pointer)
        return
    for method in METHODS:
        _check_no_secrets(given.get(method), f"{pointer}/{method}")
    auth = convert(given, Auth, pointer, "invalid_configuration")
    if not given:
        raise wrong("names no way to authenticate", pointer)
    if auth.anonymous is not UNSET:
        _check_anonymous(auth.anonymous, realms, f"{pointer}/anonymous")
    for method in METHODS:
        found = getattr(auth, method)
        if found is not UNSET:
            _check_method(found, realms, f"{pointer}/{method}")
    if auth.tls is not UNSET and not client_ca:
        raise wrong("needs an endpoint whose tls has a client_ca", f"{pointer}/tls")
    if auth.cookie is not UNSET and not cookie:
        raise wrong("needs 'cookie' on this path", f"{pointer}/cookie")


def check_cookie(given: Mapping[str, Any], pointer: str) -> None:
    """Check the `cookie` of a path.

    Raises:
        BusError: `invalid_configuration` with the pointer to the invalid member.
    """
    store = convert(given, Cookie, pointer, "invalid_configuration").store
    if (store.type == "file") != (store.filename is not UNSET):
        word = "needs" if store.type == "file" else "has no"
        raise wrong(f"a store of type '{store.type}' {word} 'filename'", f"{pointer}/store/filename")


def check_role(role: str, realm: str | None, realms: Realms, pointer: str) -> None:
    """Refuse a role that the realm does not have (None: that no realm has).

    Raises:
        BusError: `invalid_configuration` with `pointer`.
    """
    if realm is None:
        if not any(role in roles for roles in realms.values()):
            raise wrong(f"no realm has a role '{role}'", pointer)
    elif role not in realms.get(realm, ()):
        raise wrong(f"realm '{realm}' has no role '{role}'", pointer)


def check_realm(realm: str, realms: Realms, pointer: str) -> None:
    """Refuse a realm that the transport does not define.

    Raises:
        BusError: `invalid_configuration` with `pointer`.
    """
    if realm not in realms:
        raise wrong(f"'{realm}' is none of this transport's realms", pointer)


def _check_no_secrets(given: Any, pointer: str) -> None:
    if isinstance(given, Mapping):
        for name in ("principals", "users"):
            if name in given:
                detail = "secrets are not sent over the bus: name a file of the node (principals_file)"
                raise wrong(detail, f"{pointer}/{name}")


def _check_anonymous(auth: AnonymousAuth, realms: Realms, pointer: str) -> None:
    _check_authenticator(auth, realms, pointer)
    if auth.type == "static":
        realm = None if auth.realm is UNSET else auth.realm
        if realm is not None:
            check_realm(realm, realms, f"{pointer}/realm")
        check_role(auth.role, realm, realms, f"{pointer}/role")


def _check_method(auth: MethodAuth, realms: Realms, pointer: str) -> None:
    _check_authenticator(auth, realms, pointer)
    if (auth.type == "static") != (auth.principals_file is not UNSET):
        word = "needs" if auth.type == "static" else "has no"
        raise wrong(f"'{auth.type}' {word} 'principals_file'", f"{pointer}/principals_file")
    if auth.principals_file is not UNSET:
        check_reference(auth.principals_file, f"{pointer}/principals_file")
    if auth.default_role is not UNSET:
        check_role(auth.default_role, None, realms, f"{pointer}/default-role")


def _check_authenticator(auth: AnonymousAuth | MethodAuth, realms: Realms, pointer: str) -> None:
    for member, name in (
        ("authenticator", "authenticator"),
        ("authenticator_realm", "authenticator-realm"),
        ("authenticator_role", "authenticator-role"),
    ):
        if auth.type == "static" and getattr(auth, member) is not UNSET:
            raise wrong(f"'static' has no '{name}'", f"{pointer}/{name}")
    if auth.type == "static":
        return
    if auth.authenticator is UNSET:
        raise wrong("'dynamic' needs 'authenticator'", f"{pointer}/authenticator")
    realm = None if auth.authenticator_realm is UNSET else auth.authenticator_realm
    if realm is not None:
        check_realm(realm, realms, f"{pointer}/authenticator-realm")
    if auth.authenticator_role is not UNSET and auth.authenticator_role != TRUSTED:
        check_role(auth.authenticator_role, realm, realms, f"{pointer}/authenticator-role")
