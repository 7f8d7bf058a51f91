"""The transport definition of a cluster: its schema and validation. Pure."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from .decode import convert
from .errors import BusError, pointer_step
from .node_files import PathText, check_reference
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

Port = Annotated[int, Meta(ge=1, le=65535)]


class TlsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """TLS on a listening endpoint: PEM files below the node's `secrets_root`, named and never contained.

    `chain` holds intermediate certificates, `client_ca` the authorities of client certificates.
    """

    certificate: PathText
    key: PathText
    chain: PathText | UnsetType = UNSET
    client_ca: PathText | UnsetType = UNSET
    client_certificates: Literal["none", "optional", "require"] = "none"
    min_version: Literal["1.2", "1.3"] = "1.2"


TLS_FILES: Final = ("certificate", "key", "chain", "client_ca")
"""The members of `TlsConfig` that name a file."""


class EndpointConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A listening endpoint. `port` is one port, `[low, high]`, or `"low-high"`; none: any free port."""

    type: Literal["tcp"] = "tcp"
    port: Port | Annotated[list[Port], Meta(min_length=2, max_length=2)] | PathText | UnsetType = UNSET
    interface: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.:_-]{1,255}(?![\s\S])")] | UnsetType = UNSET
    shared: bool = False
    backlog: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    tls: TlsConfig | UnsetType = UNSET


_HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?![\s\S])")]
Serializer = Literal["json", "msgpack", "cbor", "ubjson", "flatbuffers"]


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

    type: Literal["web", "mqtt", "websocket", "rawsocket", "tcp"]
    endpoint: EndpointConfig | UnsetType = UNSET
    paths: Annotated[dict[str, dict[str, Any]], Meta(max_length=256)] | UnsetType = UNSET
    realms: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    """Names, or objects with roles and permissions (`bus.wamp.Realm`)."""
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
    transport = convert(value, Transport, pointer, "invalid_configuration")
    if transport.endpoint is not UNSET:
        port_range(transport.endpoint.port, f"{pointer}/endpoint/port")
        if transport.endpoint.tls is not UNSET:
            _check_tls(transport.endpoint.tls, f"{pointer}/endpoint/tls")
    realms = check_realms(transport.realms, f"{pointer}/realms")
    if transport.paths is not UNSET:
        if transport.type != "web":
            raise _wrong(f"a transport of type '{transport.type}' has no paths", f"{pointer}/paths")
        _Paths(realms, _client_ca(transport)).check(transport.paths, f"{pointer}/paths")
    if transport.type == "web" and not transport.paths:  # the default ones have no `auth`
        check_auth(UNSET, realms, f"{pointer}/paths", cookie=False, client_ca=False)
    plain: dict[str, Any] = to_builtins(value)
    return plain


def port_range(port: int | list[int] | str | UnsetType, pointer: str = "") -> tuple[int, int] | None:
    """Parse a port or port range as (lowest, highest), inclusive; None for any free port.

    Raises:
        BusError: `invalid_configuration` for what is neither a port nor a range of ports.
    """
    if port is UNSET or isinstance(port, UnsetType):
        return None
    if isinstance(port, int):
        return port, port
    parts = port.split("-") if isinstance(port, str) else port
    try:
        low, high = (int(part) for part in parts)
    except ValueError:
        raise _wrong(f"'{port}' is not a port range such as '8080-8090'", pointer) from None
    if not 1 <= low <= high <= 65535:
        raise _wrong(f"port range {low}-{high} is not within 1 to 65535 and rising", pointer)
    return low, high


def _check_tls(tls: TlsConfig, pointer: str) -> None:
    for member in TLS_FILES:
        reference = getattr(tls, member)
        if reference is not UNSET:
            check_reference(reference, f"{pointer}/{member}")
    asked = tls.client_certificates
    if asked != "none" and tls.client_ca is UNSET:
        raise _wrong(f"client_certificates '{asked}' needs the CA that signs them", f"{pointer}/client_ca")
    if asked == "none" and tls.client_ca is not UNSET:
        raise _wrong(
            "'client_ca' is given, and no certificates are asked for", f"{pointer}/client_certificates"
        )


@dataclass(frozen=True, slots=True)
class _Paths:
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


def _client_ca(transport: Transport) -> bool:
    if transport.endpoint is UNSET or transport.endpoint.tls is UNSET:
        return False
    return transport.endpoint.tls.client_ca is not UNSET


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
