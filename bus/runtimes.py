"""What the built-in runtimes understand of a transport, for the manager that admits it and agents. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import UNSET

from .errors import BusError, pointer_step
from .router_options import CHECKS
from .transport import port_range

Options = Mapping[str, type]

BUILT_IN: Final = ("amqtt", "crossbar", "mosquitto")
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
SPEAK_TLS: Final = frozenset({"crossbar", "mosquitto"})
"""The built-in runtimes that speak TLS on their endpoint."""


def check_for_runtime(transport: Mapping[str, Any] | None, runtime: str, pointer: str) -> None:
    """Check a transport that `check_transport` has accepted against what its runtime understands.

    Raises:
        BusError: `invalid_configuration` with the pointer to the member that no agent would accept.
    """
    if transport is None:
        return
    endpoint = transport.get("endpoint", {})
    interface = endpoint.get("interface", "localhost")
    if interface != "localhost" and not _is_address(interface):
        raise _wrong(f"'{interface}' is not an IP address", f"{pointer}/endpoint/interface")
    low_high = port_range(endpoint.get("port", UNSET), f"{pointer}/endpoint/port")
    if endpoint.get("shared") and (low_high is None or low_high[0] != low_high[1]):
        raise _wrong("only a single port can be shared, not a range", f"{pointer}/endpoint/shared")
    if runtime not in BUILT_IN:
        return
    if endpoint.get("shared") and runtime not in SHARING:
        raise _wrong(f"workers of runtime '{runtime}' can't share a port", f"{pointer}/endpoint/shared")
    if "tls" in endpoint and runtime not in SPEAK_TLS:
        raise _wrong(f"workers of runtime '{runtime}' don't speak TLS", f"{pointer}/endpoint/tls")
    CHECKS[runtime](transport, pointer)
    if runtime == "crossbar":
        _check_crossbar(transport, endpoint, pointer)


def _check_crossbar(transport: Mapping[str, Any], endpoint: Mapping[str, Any], pointer: str) -> None:
    if endpoint.get("tls", {}).get("client_certificates") == "optional":
        detail = "Crossbar asks all clients for a certificate ('require') or none"
        raise _wrong(detail, f"{pointer}/endpoint/tls/client_certificates")
    for found in _wrong_paths(transport.get("paths", {}), f"{pointer}/paths"):
        if found is not None:
            raise _wrong(found[1], found[0])


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
