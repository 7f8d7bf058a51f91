"""What the built-in runtimes understand of a transport, for the manager that admits it and agents. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import UNSET

from ..errors import BusError, pointer_step
from ..listeners import Listener, listeners_of, port_range
from .router_options import CHECKS

Options = Mapping[str, type]

BUILT_IN: Final = ("amqtt", "crossbar", "mosquitto", "nats")
_BRIDGE: Final[Options] = {"post_body_limit": int, "require_tls": bool, "timestamp_delta_limit": int}
PATH_OPTIONS: Final[Mapping[str, Options]] = {
    "static": {"enable_directory_listing": bool, "cache_timeout": int, "default_file": str},
    "json": {"prettify": bool, "allow_cross_origin": bool, "discourage_caching": bool},
    "websocket": {
        "allowed_origins": list,
        "auto_ping_interval": int,
        "auto_ping_timeout": int,
        "auto_ping_size": int,
        "close_handshake_timeout": int,
        "enable_webstatus": bool,
        "fail_by_drop": bool,
        "max_frame_size": int,
        "max_message_size": int,
        "open_handshake_timeout": int,
        "validate_utf8": bool,
    },
    "publisher": _BRIDGE,
    "caller": _BRIDGE,
    "webhook": {"topic": str, "post_body_limit": int, "success_response": str, "error_response": str},
}
"""Options of crossbar's path services, by type; others have none."""
SHARING: Final = frozenset({"crossbar"})
SPEAK_TLS: Final = frozenset({"crossbar", "mosquitto", "nats"})
"""The built-in runtimes that speak TLS on their endpoint."""
LISTENER_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "amqtt": ("mqtt", "websocket"),
    "crossbar": ("web", "rawsocket", "mqtt", "universal"),
    "mosquitto": ("mqtt", "websocket"),
    "nats": ("mqtt", "websocket", "nats", "cluster"),
}
"""The protocols that the listeners of a built-in runtime may have."""
_WEB: Final = frozenset({"web"})
_MQTT: Final = frozenset({"mqtt", None})
_NATS: Final = frozenset({"mqtt", "websocket", "nats", None})
_SERVED: Final = {"crossbar": _WEB, "amqtt": _MQTT, "mosquitto": _MQTT, "nats": _NATS}
"""Transport types that the built-in runtimes can serve; operator-defined runtimes take any."""


def default_runtime(transport: Mapping[str, Any] | None) -> str:
    """The runtime of a group that names none."""
    kind = str(transport.get("type")) if transport else ""
    return {"web": "crossbar", "nats": "nats"}.get(kind, "amqtt")


def check_served(runtime: str, transport: Mapping[str, Any] | None, at: str, mismatch: str) -> None:
    """Check a checked transport against what this version knows of a runtime.

    `at` points to the transport, `mismatch` to what is at fault when its type is not served.

    Raises:
        BusError: `invalid_configuration`.
    """
    kind = transport["type"] if transport else None
    served = _SERVED.get(runtime)
    if served is not None and kind not in served:
        given = f"a transport of type '{kind}'" if kind else "no transport"
        need = " or ".join(sorted(f"type '{word}'" if word else "none" for word in served))
        detail = f"runtime '{runtime}' can't serve {given}: it needs {need}"
        raise BusError("invalid_configuration", detail, [mismatch])
    check_for_runtime(transport, runtime, at)


def check_for_runtime(transport: Mapping[str, Any] | None, runtime: str, pointer: str) -> None:
    """Check a transport that `check_transport` has accepted against what its runtime understands.

    Raises:
        BusError: `invalid_configuration` with the pointer to the member that no agent would accept.
    """
    if transport is None:
        return
    for each in listeners_of(transport).values():
        _check_socket(each, runtime, f"{pointer}{each.at}")
    if runtime not in BUILT_IN:
        return
    for each in listeners_of(transport).values():
        _check_listener(each, runtime, f"{pointer}{each.at}")
    CHECKS[runtime](transport, pointer)
    if runtime == "crossbar":
        for found in _wrong_paths(transport.get("paths", {}), f"{pointer}/paths"):
            if found is not None:
                raise _wrong(found[1], found[0])


def _check_socket(listener: Listener, runtime: str, pointer: str) -> None:
    config, interface = listener.config, listener.interface
    if interface != "localhost" and not _is_address(interface):
        raise _wrong(f"'{interface}' is not an IP address", f"{pointer}/interface")
    low_high = port_range(config.get("port", UNSET), f"{pointer}/port")
    if config.get("shared") and (low_high is None or low_high[0] != low_high[1]):
        raise _wrong("only a single port can be shared, not a range", f"{pointer}/shared")
    if config.get("shared") and runtime in BUILT_IN and runtime not in SHARING:
        raise _wrong(f"workers of runtime '{runtime}' can't share a port", f"{pointer}/shared")


def _check_listener(listener: Listener, runtime: str, pointer: str) -> None:
    if listener.is_named and listener.kind not in LISTENER_TYPES[runtime]:
        known = " or ".join(LISTENER_TYPES[runtime])
        raise _wrong(f"'{listener.kind}' is not for runtime '{runtime}' ({known})", f"{pointer}/type")
    has_options = runtime == "mosquitto" or (runtime == "crossbar" and listener.kind == "mqtt")
    if "options" in listener.config and not has_options:
        raise _wrong(f"listeners of runtime '{runtime}' have no options of their own", f"{pointer}/options")
    if listener.tls is None:
        return
    if runtime not in SPEAK_TLS:
        raise _wrong(f"workers of runtime '{runtime}' don't speak TLS", f"{pointer}/tls")
    if runtime == "crossbar" and listener.tls.get("client_certificates") == "optional":
        detail = "Crossbar asks all clients for a certificate ('require') or none"
        raise _wrong(detail, f"{pointer}/tls/client_certificates")


def wrong_option(given: Mapping[str, Any], allowed: Options, pointer: str) -> tuple[str, str] | None:
    """The pointer to the first option that is unknown or of another type, and what is wrong with it."""
    for name, value in given.items():
        at = f"{pointer}/{pointer_step(name)}"
        if name not in allowed:
            return at, f"unknown option (known: {', '.join(sorted(allowed)) or 'none'})"
        # A bool is an int in Python, but not in a configuration.
        if not isinstance(value, allowed[name]) or (isinstance(value, bool) and allowed[name] is not bool):
            return at, f"must be of type {allowed[name].__name__}"
    return None


def _wrong_paths(paths: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, str] | None]:
    for name, service in paths.items():
        at = f"{pointer}/{pointer_step(name)}"
        allowed = PATH_OPTIONS.get(service["type"], {})
        yield wrong_option(service.get("options", {}), allowed, f"{at}/options")
        yield from _wrong_paths(service.get("paths", {}), f"{at}/paths")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])
