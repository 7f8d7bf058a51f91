"""Whom a router lets in, from its transport and its runtime. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from ..addresses import is_loopback
from ..errors import BusError
from ..listeners import UNIVERSAL, Listener, listeners_of, parts_of, served

AUTHENTICATION: Final[Mapping[str, str | None]] = {
    "amqtt": "password_file",
    "mosquitto": "password_file",
    "nats": "auth_file",
    "crossbar": None,
}
"""The built-in runtimes, each with the option of a transport that makes it authenticate clients (None: its
paths have `auth`). What an operator-defined runtime does is known to its node alone."""
_OPEN, _WRITTEN, _CLOSED = "open", "written out", "closed"
"""Ways into a web transport: without `auth`, with one that names `anonymous`, with credentials alone."""
_OWN_AUTH: Final = ("rawsocket", "mqtt")
"""The listeners of a crossbar that have no paths, and an `auth` of their own."""
_ROUTES: Final = "cluster"
"""The listener of a nats for the other workers of its group: only certificates keep others out."""
_DEFAULT_RUNTIMES: Final = {"web": "crossbar", "mqtt": "amqtt", "websocket": "amqtt", "nats": "nats"}


def authenticates(transport: Mapping[str, Any] | None, runtime: str | None = None) -> bool | None:
    """Whether clients of every listener need a password or a certificate; None where that is not known.

    Without `runtime`: the default one.
    """
    known = [_authenticates(transport, each, runtime) for each in listeners_of(transport).values()]
    return False if False in known else None if None in known else True


def _authenticates(
    transport: Mapping[str, Any] | None, listener: Listener, runtime: str | None
) -> bool | None:
    kind = (transport or {}).get("type")
    known = runtime or _DEFAULT_RUNTIMES.get(str(kind), "amqtt" if kind is None else "")
    if known not in AUTHENTICATION:
        return None
    if _requires_certificate(listener):
        return True
    if known == "crossbar":
        return all(way == _CLOSED for way in _ways_in(transport, listener))
    if listener.config.get("anonymous") is True:
        return False  # what a listener says itself holds for it, whatever the others ask for
    if listener.kind == _ROUTES and not is_loopback(listener.interface):
        return False  # who comes as another worker is asked for no password
    option = AUTHENTICATION[known]
    return bool(option and _option(transport, listener, option))


def _option(transport: Mapping[str, Any] | None, listener: Listener, name: str) -> object:
    """An option as it holds for a listener: its own, else the transport's."""
    for given in (listener.config.get("options"), (transport or {}).get("options")):
        if isinstance(given, Mapping) and name in given:
            return given[name]
    return None


def _requires_certificate(listener: Listener) -> bool:
    """Only a client with a certificate gets as far as the router: runtimes without TLS refuse `tls`."""
    return (listener.tls or {}).get("client_certificates") == "require"


def _has_tls(listener: Listener) -> bool:
    """Else passwords, and all that follows, can be read and changed on the way."""
    return bool(listener.tls)


def _ways_in(transport: Mapping[str, Any] | None, listener: Listener) -> set[str]:
    """How the services of a crossbar's listener let clients in; without one that has clients: open."""
    if listener.kind == UNIVERSAL:
        return set().union(*(_ways_in(transport, each) for each in parts_of(listener)))
    if listener.kind in _OWN_AUTH:
        return {_way_of(listener)}
    return {way for _, way in _ways((transport or {}).get("paths"))} or {_OPEN}


def _way_of(listener: Listener) -> str:
    """That of a listener without paths."""
    return next(way for _, way in _ways({"": {**listener.config, "type": "websocket"}}))


def _all_ways(transport: Mapping[str, Any] | None) -> dict[str, str]:
    """Each path, and each listener without paths, with its way in."""
    found = {f"path '{path}'": way for path, way in _ways((transport or {}).get("paths"))}
    own = _OWN_AUTH if (transport or {}).get("type") == "web" else ("rawsocket",)
    names = {name: each.kind for name, each in listeners_of(transport).items()}
    for each in served(transport):
        if each.kind in own:
            of_several = names[each.name] == UNIVERSAL
            found[f"{f'{each.kind} of ' if of_several else ''}listener '{each.name}'"] = _way_of(each)
    return found


def _ways(paths: Any, below: str = "") -> Iterator[tuple[str, str]]:
    """Each path that has clients, and its way in."""
    for name, service in paths.items() if isinstance(paths, Mapping) else ():
        if not isinstance(service, Mapping):
            continue
        path = f"{below}{name}"
        if service.get("type") == "websocket":
            auth = service.get("auth")
            yield path, _OPEN if not auth else _WRITTEN if "anonymous" in auth else _CLOSED
        elif service.get("type") == "reverseproxy":
            yield path, _OPEN  # nobody is asked who it is
        elif service.get("type") in ("publisher", "caller", "webhook"):
            yield path, _CLOSED if service.get("credentials_file") else _OPEN
        yield from _ways(service.get("paths"), f"{path}/")


def is_written_out(transport: Mapping[str, Any] | None, runtime: str | None = None) -> bool:
    """Whether the definition says itself, of each open listener, that clients need no credentials."""
    found = _exposed(transport, runtime) or list(listeners_of(transport).values())
    return all(_is_written_out(transport, each, runtime) for each in found)


def _is_written_out(transport: Mapping[str, Any] | None, listener: Listener, runtime: str | None) -> bool:
    if listener.anonymous is True:
        return True
    is_web = runtime == "crossbar" or (runtime is None and (transport or {}).get("type") == "web")
    return is_web and _ways_in(transport, listener) <= {_WRITTEN, _CLOSED}


def _exposed(transport: Mapping[str, Any] | None, runtime: str | None) -> list[Listener]:
    """The listeners to which other hosts can connect without credentials, as far as that is known."""
    return [
        each
        for each in listeners_of(transport).values()
        if not is_loopback(each.interface) and _authenticates(transport, each, runtime) is False
    ]


def is_exposed(transport: Mapping[str, Any] | None, runtime: str | None = None) -> bool:
    """Whether other hosts can connect without credentials, as far as that is known."""
    return bool(_exposed(transport, runtime))


def exposed_names(transport: Mapping[str, Any] | None, runtime: str | None = None) -> list[str]:
    """The names of the listeners that are open to other hosts."""
    return [each.name for each in _exposed(transport, runtime)]


def not_written_out(transport: Mapping[str, Any] | None, runtime: str | None = None) -> list[Listener]:
    """The listeners that are open to other hosts, and do not say so."""
    return [each for each in _exposed(transport, runtime) if not _is_written_out(transport, each, runtime)]


def exposed_on(transport: Mapping[str, Any] | None, runtime: str | None = None) -> str:
    """Where they can: `0.0.0.0`, or `0.0.0.0 (listener ws)`; empty where they can't."""
    return ", ".join(map(place, _exposed(transport, runtime)))


def place(listener: Listener) -> str:
    """Where it listens, for people: `0.0.0.0`, or `0.0.0.0 (listener ws)`."""
    return listener.interface + (f" (listener {listener.name})" if listener.is_named else "")


def check_exposure(transport: Mapping[str, Any] | None, pointer: str, runtime: str | None = None) -> None:
    """Refuse what is open to other hosts unless its `anonymous` says so, and an `anonymous` that is untrue.

    Without `runtime` (a cluster, whose groups may have runtimes of their own) `false` is believed.

    Raises:
        BusError: `invalid_configuration`, with the pointer to `anonymous`.
    """
    if (transport or {}).get("anonymous") is True and authenticates(transport, runtime) is True:
        raise _wrong("'anonymous' is true, and clients need credentials", f"{pointer}/anonymous")
    for each in listeners_of(transport).values():
        _check_listener(transport, each, pointer, runtime)


def _check_listener(
    transport: Mapping[str, Any] | None, listener: Listener, pointer: str, runtime: str | None
) -> None:
    own = isinstance(listener.config.get("anonymous"), bool)
    at = f"{pointer}{listener.at}/anonymous" if listener.is_named else f"{pointer}/anonymous"
    known = _authenticates(transport, listener, runtime)
    if own and listener.anonymous is True and known is True:
        raise _wrong("'anonymous' is true, and clients need credentials", at)
    if listener.anonymous is False and known is False and runtime is not None:
        remedy = _remedy(runtime, listener)
        detail = f"'anonymous' is false, and runtime '{runtime}' would let everybody in: {remedy}"
        raise _wrong(detail, at if own else f"{pointer}/anonymous")
    open_to_all = known is False and not is_loopback(listener.interface)
    if listener.anonymous is None and open_to_all and not _is_written_out(transport, listener, runtime):
        more = "" if runtime else ", or false where the groups' runtime authenticates by itself"
        detail = (
            f"routers on {place(listener)} would let everybody in: {_remedy(runtime, listener)}"
            f"set 'anonymous' to true if that is intended{more}"
        )
        raise _wrong(detail, at)


def open_condition(transport: Mapping[str, Any] | None, runtime: str) -> str | None:
    """The condition of a group that is open to other hosts, None where it is not."""
    places = exposed_on(transport, runtime)
    if not places:
        return None
    text = f"{OPEN_ACCESS}: {runtime} on {places} without authentication"
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
    if (dropped := _dropped(before, after)) is not None:
        return dropped
    ways = _all_ways(before)
    for place, way in _all_ways(after).items():
        if way != _CLOSED and ways.get(place) == _CLOSED:
            return f"clients of {place} would no longer need credentials"
    if is_exposed(after, runtime) and not is_exposed(before, was):
        return f"routers on {exposed_on(after, runtime)} would let everybody in"
    return None


def _dropped(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str | None:
    """A check that all listeners had, or one of a name, and that it or another one no longer has."""
    was, now = listeners_of(before), listeners_of(after)
    for check, had, has in (
        ("need a certificate", _requires_certificate, _requires_certificate),
        ("use TLS", _has_tls, _has_tls),
        ("be kept to an ACL", partial(_has_acl, before), partial(_has_acl, after)),
    ):
        if all(map(had, was.values())) and not all(map(has, now.values())):
            return f"clients would no longer {check}"
        for name in was.keys() & now.keys():
            if had(was[name]) and not has(now[name]):
                return f"clients of listener '{name}' would no longer {check}"
    return None


def _has_acl(transport: Mapping[str, Any] | None, listener: Listener) -> bool:
    return bool(_option(transport, listener, "acl_file"))


def _remedy(runtime: str | None, listener: Listener) -> str:
    if listener.kind == _ROUTES:
        return "require certificates (tls, client_certificates), or "
    if runtime == "crossbar":
        return "give each websocket path 'auth', or "
    option = AUTHENTICATION.get(runtime, None) if runtime is not None else "password_file"
    return "" if option is None else f"set options.{option}, or "


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])


AS_DEFINED: Final = ", as defined"
"""How that condition ends where the transport allows it."""
OPEN_ACCESS: Final = "open access"
"""How the condition of an open router begins."""
