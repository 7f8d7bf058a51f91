"""The transport definition of a cluster: its schema and validation. Pure."""

from __future__ import annotations

import string
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from ..decode import convert
from ..errors import BusError, pointer_step
from ..listeners import (
    MAX_LISTENERS,
    UNIVERSAL,
    EndpointConfig,
    Kind,
    Listener,
    Port,
    Serializer,
    check_listeners,
    check_not_universal,
    check_socket,
    listeners_of,
    served,
)
from ..node_files import PathText, check_reference
from .wamp import (
    RealmName,
    Realms,
    RoleName,
    check_auth,
    check_cookie,
    check_realm,
    check_realms,
    check_role,
)

_HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?![\s\S])")]


class PathService(Struct, frozen=True, forbid_unknown_fields=True):
    """One Web service on a path; `check_transport` checks which members its type needs."""

    type: Literal[
        "websocket",
        "static",
        "json",
        "nodeinfo",
        "redirect",
        "path",
        "publisher",
        "caller",
        "webhook",
        "reverseproxy",
    ]
    directory: PathText | UnsetType = UNSET
    value: Any = UNSET
    url: PathText | UnsetType = UNSET
    paths: dict[str, dict[str, Any]] | UnsetType = UNSET
    auth: dict[str, Any] | UnsetType = UNSET
    cookie: dict[str, Any] | UnsetType = UNSET
    serializers: Annotated[list[Serializer], Meta(min_length=1, max_length=5)] | UnsetType = UNSET
    realm: RealmName | UnsetType = UNSET
    role: RoleName | UnsetType = UNSET
    credentials_file: PathText | UnsetType = UNSET
    """Of the HTTP bridge: what requests are signed with, in a file below the node's `secrets_root`."""
    host: _HostName | UnsetType = UNSET
    """Of a reverse proxy: a name or an IPv4 address that the node's operator lists with `port`."""
    port: Port | UnsetType = UNSET
    path: Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~%/-]{0,1023})?(?![\s\S])")] | UnsetType = UNSET
    """What comes before the rest of a request's path; no boundary: that rest may have `..`."""
    forwarded_port: Port | UnsetType = UNSET
    forwarded_proto: Literal["http", "https"] | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET


class Transport(Struct, frozen=True, forbid_unknown_fields=True):
    """What every worker of a cluster (or of one group) listens on."""

    type: Kind
    endpoint: EndpointConfig | UnsetType = UNSET
    listeners: Annotated[dict[str, Any], Meta(min_length=1, max_length=MAX_LISTENERS)] | UnsetType = UNSET
    """Several, by name (`bus.listeners.ListenerConfig`), in place of `endpoint`; the first is the primary."""
    paths: Annotated[dict[str, dict[str, Any]], Meta(max_length=256)] | UnsetType = UNSET
    realms: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    """Names, or objects with roles and permissions (`bus.routers.wamp.Realm`)."""
    options: dict[str, Any] | UnsetType = UNSET
    anonymous: bool | UnsetType = UNSET
    """Whether clients need no credentials: true is needed on an interface other than loopback."""


_PATH_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.~")
_NEEDED: Final = {
    "static": {"directory"},
    "redirect": {"url"},
    "path": {"paths"},
    "json": {"value"},
    "publisher": {"realm", "role"},
    "caller": {"realm", "role"},
    "webhook": {"realm", "role"},
    "reverseproxy": {"host", "port"},
}
_MAY_HAVE: Final = {
    "websocket": {"auth", "cookie", "serializers"},
    "publisher": {"credentials_file"},
    "caller": {"credentials_file"},
    "webhook": {"credentials_file"},
    "reverseproxy": {"path", "forwarded_port", "forwarded_proto"},
}
_RUNS_CODE: Final = frozenset({"wsgi", "cgi", "resource", "guest", "container", "manhole", "function"})
"""Kinds of services and components of Crossbar.io that run code of the definition's choice."""
_BROKEN: Final = {
    "longpoll": "Crossbar.io 26.10 lets no client join by long polling",
    "upload": "Crossbar.io 26.10 has no such service any more",
}
"""Services that its documentation has, and why none is offered."""
_MEMBERS: Final = tuple(name for name in PathService.__struct_fields__ if name not in ("type", "options"))


def check_transport(value: dict[str, Any], pointer: str) -> dict[str, Any]:
    """Check a transport definition and return it in plain form, as given.

    Raises:
        BusError: `invalid_configuration` with the pointer to the invalid member.
    """
    check_not_universal(value.get("type"), f"{pointer}/type")
    transport = convert(value, Transport, pointer, "invalid_configuration")
    if transport.endpoint is not UNSET:
        check_socket(transport.endpoint, f"{pointer}/endpoint")
        if transport.listeners is not UNSET:
            raise _wrong("a transport has 'endpoint' or 'listeners'", f"{pointer}/listeners")
    check_listeners(transport.listeners, f"{pointer}/listeners")
    realms = check_realms(transport.realms, f"{pointer}/realms")
    listeners, parts = listeners_of(to_builtins(value)), served(to_builtins(value))
    web = [each for each in parts if each.kind == "web"]
    if transport.paths is not UNSET:
        if transport.type != "web":
            raise _wrong(f"a transport of type '{transport.type}' has no paths", f"{pointer}/paths")
        if not web:
            raise _wrong("none of the listeners is of type 'web'", f"{pointer}/paths")
        _Paths(realms, _client_ca(web)).check(transport.paths, f"{pointer}/paths")
    if transport.type == "web" and web and not transport.paths:  # the default ones have no `auth`
        check_auth(UNSET, realms, f"{pointer}/paths", cookie=False, client_ca=False)
    if transport.listeners is not UNSET:
        for each in listeners.values():
            _check_universal(each, transport.type, f"{pointer}{each.at}")
        for each in parts:
            _check_own_auth(each, transport.type, realms, f"{pointer}{each.at}")
    plain: dict[str, Any] = to_builtins(value)
    return plain


class _Paths(Struct, frozen=True):
    """Checks paths with what the rest of their transport says."""

    realms: Realms
    client_ca: bool

    def check(self, paths: dict[str, dict[str, Any]], pointer: str, depth: int = 0) -> None:
        if depth > 4:
            raise _wrong("paths nested deeper than 4", pointer)
        for name, value in paths.items():
            at = f"{pointer}/{pointer_step(name)}"
            _check_path_name(name, at, depth)
            _check_offered(value.get("type"), f"{at}/type")
            service = convert(value, PathService, at, "invalid_configuration")
            _check_members(service, at)
            if service.paths is not UNSET:
                self.check(service.paths, f"{at}/paths", depth + 1)
            if service.cookie is not UNSET:
                check_cookie(service.cookie, f"{at}/cookie")
            if service.realm is not UNSET and service.role is not UNSET:
                check_realm(service.realm, self.realms, f"{at}/realm")
                check_role(service.role, service.realm, self.realms, f"{at}/role")
            if service.type == "websocket":
                has_cookie = service.cookie is not UNSET
                check_auth(
                    service.auth, self.realms, f"{at}/auth", cookie=has_cookie, client_ca=self.client_ca
                )


def _client_ca(web: list[Listener]) -> bool:
    return any(each.tls is not None and "client_ca" in each.tls for each in web)


def _check_universal(listener: Listener, kind: str, pointer: str) -> None:
    if listener.kind != UNIVERSAL:
        return
    if kind != "web":
        raise _wrong(f"a transport of type '{kind}' has no listener of this type", f"{pointer}/type")
    for member in ("auth", "serializers", "options"):
        if member in listener.config:
            detail = f"of a listener of type '{UNIVERSAL}' it belongs to 'rawsocket', 'mqtt' or a path"
            raise _wrong(detail, f"{pointer}/{member}")


def _check_own_auth(listener: Listener, kind: str, realms: Realms, pointer: str) -> None:
    """Check whom a listener without paths lets in; `kind` is its transport's."""
    may_have: tuple[str, ...] = ("auth", "serializers") if listener.kind == "rawsocket" else ()
    if listener.kind == "mqtt" and kind == "web":
        may_have = ("auth",)
    if may_have:
        tls = listener.tls or {}
        auth = listener.config.get("auth", UNSET)
        check_auth(auth, realms, f"{pointer}/auth", cookie=False, client_ca="client_ca" in tls)
    for member in ("auth", "serializers"):
        if member in listener.config and member not in may_have:
            raise _wrong(f"a listener of type '{listener.kind}' has no '{member}'", f"{pointer}/{member}")


def _check_offered(kind: object, pointer: str) -> None:
    if isinstance(kind, str) and kind in _RUNS_CODE:
        raise _wrong(f"'{kind}' would run code on the node", pointer)
    if isinstance(kind, str) and kind in _BROKEN:
        raise _wrong(_BROKEN[kind], pointer)


def _check_members(service: PathService, pointer: str) -> None:
    needed = _NEEDED.get(service.type, set())
    for member in _MEMBERS:
        given = getattr(service, member) is not UNSET
        if member in needed and not given:
            raise _wrong(f"a path of type '{service.type}' needs '{member}'", f"{pointer}/{member}")
        if given and member not in needed | _MAY_HAVE.get(service.type, set()):
            raise _wrong(f"a path of type '{service.type}' has no '{member}'", f"{pointer}/{member}")
    if service.credentials_file is not UNSET:
        check_reference(service.credentials_file, f"{pointer}/credentials_file")
    if service.type == "webhook" and (service.options is UNSET or "topic" not in service.options):
        raise _wrong(
            "a path of type 'webhook' needs the topic that it publishes to", f"{pointer}/options/topic"
        )
    if service.directory is not UNSET:
        _check_directory(service.directory, f"{pointer}/directory")
    if service.url is not UNSET and not service.url.startswith(("http://", "https://", "/", "ws")):
        raise _wrong("a redirect goes to an http(s) URL or an absolute path", f"{pointer}/url")


def _check_path_name(name: str, pointer: str, depth: int) -> None:
    if name == "/" and depth == 0:
        return
    if not name or len(name) > 128 or not set(name) <= _PATH_CHARACTERS or name in (".", ".."):
        raise _wrong(f"'{name[:40]}' is not one level of a URL path", pointer)


def _check_directory(directory: str, pointer: str) -> None:
    if not directory or "\0" in directory or ".." in directory.split("/"):
        raise _wrong("a directory may not be empty or climb with '..'", pointer)


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])
