"""Whom a router lets in, from its transport and its runtime. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .addresses import IPV4, is_loopback
from .errors import BusError

AUTHENTICATION: Final[Mapping[str, str | None]] = {
    "amqtt": "password_file",
    "mosquitto": "password_file",
    "crossbar": None,
}
"""The built-in runtimes, each with the option of a transport that makes it authenticate clients (None: its
paths have `auth`). What an operator-defined runtime does is known to its node alone."""
_OPEN, _WRITTEN, _CLOSED = "open", "written out", "closed"
"""Ways into a web transport: without `auth`, with one that names `anonymous`, with credentials alone."""
_DEFAULT_RUNTIMES: Final = {"web": "crossbar", "mqtt": "amqtt", "websocket": "amqtt"}


def interface_of(transport: Mapping[str, Any] | None) -> str:
    """The address that workers listen on; loopback when none is named."""
    endpoint = (transport or {}).get("endpoint")
    return str((endpoint.get("interface") if isinstance(endpoint, Mapping) else None) or IPV4)


def authenticates(transport: Mapping[str, Any] | None, runtime: str | None = None) -> bool | None:
    """Whether clients need a password or a certificate; None where that is not known.

    Without `runtime`: the default one.
    """
    kind = (transport or {}).get("type")
    known = runtime or _DEFAULT_RUNTIMES.get(str(kind), "amqtt" if kind is None else "")
    if known not in AUTHENTICATION:
        return None
    if _requires_certificates(transport):
        return True
    if known == "crossbar":
        return all(way == _CLOSED for way in _ways_in(transport))
    option = AUTHENTICATION[known]
    return bool(option and _option(transport, option))


def _option(transport: Mapping[str, Any] | None, name: str) -> object:
    options = (transport or {}).get("options")
    return options.get(name) if isinstance(options, Mapping) else None


def _requires_certificates(transport: Mapping[str, Any] | None) -> bool:
    """Only a client with a certificate gets as far as the router: runtimes without TLS refuse `tls`."""
    endpoint = (transport or {}).get("endpoint")
    tls = endpoint.get("tls") if isinstance(endpoint, Mapping) else None
    return isinstance(tls, Mapping) and tls.get("client_certificates") == "require"


def _ways_in(transport: Mapping[str, Any] | None) -> set[str]:
    """How the services on a web transport's paths let clients in; without one that has clients: open."""
    return {way for _, way in _ways((transport or {}).get("paths"))} or {_OPEN}


def _ways(paths: Any, below: str = "") -> Iterator[tuple[str, str]]:
    """Each path that has clients, and its way in."""
    for name, service in paths.items() if isinstance(paths, Mapping) else ():
        if not isinstance(service, Mapping):
            continue
        path = f"{below}{name}"
        if service.get("type") == "websocket":
            auth = service.get("auth")
            yield path, _OPEN if not auth else _WRITTEN if "anonymous" in auth else _CLOSED
        elif service.get("type") in ("publisher", "caller", "webhook"):
            yield path, _CLOSED if service.get("credentials_file") else _OPEN
        yield from _ways(service.get("paths"), f"{path}/")


def is_written_out(transport: Mapping[str, Any] | None, runtime: str | None = None) -> bool:
    """Whether the definition says itself that clients need no credentials."""
    if (transport or {}).get("anonymous") is True:
        return True
    is_web = runtime == "crossbar" or (runtime is None and (transport or {}).get("type") == "web")
    return is_web and _ways_in(transport) <= {_WRITTEN, _CLOSED}


def is_exposed(transport: Mapping[str, Any] | None, runtime: str | None = None) -> bool:
    """Whether other hosts can connect without credentials, as far as that is known."""
    return not is_loopback(interface_of(transport)) and authenticates(transport, runtime) is False


def check_exposure(transport: Mapping[str, Any] | None, pointer: str, runtime: str | None = None) -> None:
    """Refuse what is open to other hosts unless its `anonymous` says so, and an `anonymous` that is untrue.

    Without `runtime` (a cluster, whose groups may have runtimes of their own) `false` is believed.

    Raises:
        BusError: `invalid_configuration`, with the pointer to `anonymous`.
    """
    transport = transport or {}
    written, known = transport.get("anonymous"), authenticates(transport, runtime)
    at = [f"{pointer}/anonymous"]
    if written is True and known is True:
        raise BusError("invalid_configuration", "'anonymous' is true, and clients need credentials", at)
    if written is False and known is False and runtime is not None:
        detail = f"'anonymous' is false, and runtime '{runtime}' would let everybody in: {_remedy(runtime)}"
        raise BusError("invalid_configuration", detail, at)
    if written is None and is_exposed(transport, runtime) and not is_written_out(transport, runtime):
        more = "" if runtime else ", or false where the groups' runtime authenticates by itself"
        detail = (
            f"routers on {interface_of(transport)} would let everybody in: {_remedy(runtime)}"
            f"set 'anonymous' to true if that is intended{more}"
        )
        raise BusError("invalid_configuration", detail, at)


def open_condition(transport: Mapping[str, Any] | None, runtime: str) -> str | None:
    """The condition of a group that is open to other hosts, None where it is not."""
    if not is_exposed(transport, runtime):
        return None
    text = f"{OPEN_ACCESS}: {runtime} on {interface_of(transport)} without authentication"
    return text + AS_DEFINED if is_written_out(transport, runtime) else text


def is_loosened(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    was: str | None,
    runtime: str | None,
) -> str | None:
    """How a change from `before` on runtime `was` to `after` on `runtime` lets in more clients, or lets them
    do more; None where it doesn't."""
    needed = authenticates(after, runtime)
    if authenticates(before, was) is True and needed is not True:
        if needed is None:
            return f"whether runtime '{runtime}' asks clients for credentials is known to its nodes alone"
        return "clients would no longer need credentials"
    if _requires_certificates(before) and not _requires_certificates(after):
        return "clients would no longer need a certificate"
    if _option(before, "acl_file") and not _option(after, "acl_file"):
        return "clients would no longer be kept to an ACL"
    ways = dict(_ways((before or {}).get("paths")))
    for path, way in _ways((after or {}).get("paths")):
        if way != _CLOSED and ways.get(path) == _CLOSED:
            return f"clients of path '{path}' would no longer need credentials"
    if is_exposed(after, runtime) and not is_exposed(before, was):
        return f"routers on {interface_of(after)} would let everybody in"
    return None


def _remedy(runtime: str | None) -> str:
    if runtime == "crossbar":
        return "give each websocket path 'auth', or "
    if runtime is not None and AUTHENTICATION.get(runtime) is None:
        return ""
    return "set options.password_file, or "


AS_DEFINED: Final = ", as defined"
"""How that condition ends where the transport allows it."""
OPEN_ACCESS: Final = "open access"
"""How the condition of an open router begins."""
