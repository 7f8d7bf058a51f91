"""Whom a router lets in, from its transport and its runtime. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .addresses import is_loopback
from .errors import BusError
from .listeners import Listener, listeners_of

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
    if (listener.tls or {}).get("client_certificates") == "require":
        return True  # only a client with a certificate gets as far as the router
    if known == "crossbar":
        return all(way == _CLOSED for way in _ways_in(transport, listener))
    if listener.config.get("anonymous") is True:
        return False  # what a listener says itself holds for it, whatever the others ask for
    option = AUTHENTICATION[known]
    given = [options for options in (listener.config.get("options"), (transport or {}).get("options"))
             if isinstance(options, Mapping) and option in options]  # fmt: skip
    return bool(given and given[0][option])


def _ways_in(transport: Mapping[str, Any] | None, listener: Listener) -> set[str]:
    """How the services of a crossbar's listener let clients in; without one that has clients: open."""
    if listener.kind == "rawsocket":
        return set(_ways({"": {**listener.config, "type": "websocket"}}))
    return set(_ways((transport or {}).get("paths"))) or {_OPEN}


def _ways(paths: Any) -> Iterator[str]:
    for service in paths.values() if isinstance(paths, Mapping) else ():
        if not isinstance(service, Mapping):
            continue
        if service.get("type") == "websocket":
            auth = service.get("auth")
            yield _OPEN if not auth else _WRITTEN if "anonymous" in auth else _CLOSED
        elif service.get("type") in ("publisher", "caller", "webhook"):
            yield _CLOSED if service.get("credentials_file") else _OPEN
        yield from _ways(service.get("paths"))


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


def exposed_on(transport: Mapping[str, Any] | None, runtime: str | None = None) -> str:
    """Where they can: `0.0.0.0`, or `0.0.0.0 (listener ws)`; empty where they can't."""
    return ", ".join(map(_place, _exposed(transport, runtime)))


def _place(listener: Listener) -> str:
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
        detail = f"'anonymous' is false, and runtime '{runtime}' would let everybody in: {_remedy(runtime)}"
        raise _wrong(detail, at if own else f"{pointer}/anonymous")
    open_to_all = known is False and not is_loopback(listener.interface)
    if listener.anonymous is None and open_to_all and not _is_written_out(transport, listener, runtime):
        more = "" if runtime else ", or false where the groups' runtime authenticates by itself"
        detail = (
            f"routers on {_place(listener)} would let everybody in: {_remedy(runtime)}"
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
    """How a change from `before` on runtime `was` to `after` on `runtime` lets in more clients, or None."""
    if authenticates(before, was) is True and authenticates(after, runtime) is False:
        return "clients would no longer need credentials"
    if is_exposed(after, runtime) and not is_exposed(before, was):
        return f"routers on {exposed_on(after, runtime)} would let everybody in"
    return None


def _remedy(runtime: str | None) -> str:
    if runtime == "crossbar":
        return "give each websocket path 'auth', or "
    if runtime is not None and AUTHENTICATION.get(runtime) is None:
        return ""
    return "set options.password_file, or "


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])


AS_DEFINED: Final = ", as defined"
"""How that condition ends where the transport allows it."""
OPEN_ACCESS: Final = "open access"
"""How the condition of an open router begins."""
