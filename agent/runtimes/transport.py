"""Reads the shared `transport` for a runtime: checks its type, gives the ports of its listeners. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from busbar.bus.errors import BusError
from busbar.bus.listeners import TLS_FILES, Listener, listeners_of, port_range
from busbar.bus.routers.runtimes import wrong_option
from busbar.bus.routers.transport import check_transport
from msgspec import Struct

from ..processes.ports import DEFAULT_HIGH, DEFAULT_LOW, LOOPBACK, PortRequest
from .base import HttpProbe, MqttProbe, RuntimeConfigError, TcpProbe, Transport

ROOT = "/transport"


def checked_transport(transport: Transport | None, types: tuple[str, ...]) -> Transport:
    """The checked transport; a missing one defaults to the first of `types`.

    Raises:
        RuntimeConfigError: it is malformed, or its type is not in `types` (empty: any).
    """
    if transport is None:
        return {"type": types[0] if types else "tcp"}
    with refusals():
        plain = check_transport(dict(transport), ROOT)
    if types and plain["type"] not in types:
        raise RuntimeConfigError(
            f"{ROOT}/type", f"'{plain['type']}' is not for this runtime ({' or '.join(types)})"
        )
    return plain


@contextmanager
def refusals() -> Iterator[None]:
    """What the shared checks refuse in the block, as `RuntimeConfigError`."""
    try:
        yield
    except BusError as error:
        raise RuntimeConfigError(error.pointers[0] if error.pointers else ROOT, error.detail) from error


class TlsFiles(Struct, frozen=True):
    """TLS of a listener with this node's files; `references` has them by the pointer that names each."""

    certificate: Path
    key: Path
    chain: Path | None
    client_ca: Path | None
    client_certificates: str
    min_version: str
    references: Mapping[str, Path]
    at: str
    """The pointer to it."""


def tls_files(listener: Listener, secrets_root: Path | None) -> TlsFiles | None:
    """The `tls` of a checked listener; None without it. Whether the files exist is not looked at.

    Raises:
        RuntimeConfigError: with the pointer to a member that names no file below `secrets_root`.
    """
    tls = listener.tls
    if tls is None:
        return None
    pointer = f"{ROOT}{listener.at}/tls"
    found = {
        name: path_below(secrets_root, tls[name], f"{pointer}/{name}", "secrets_root")
        for name in TLS_FILES
        if name in tls
    }
    return TlsFiles(
        found["certificate"],
        found["key"],
        found.get("chain"),
        found.get("client_ca"),
        tls.get("client_certificates", "none"),
        tls.get("min_version", "1.2"),
        {f"{pointer}/{name}": path for name, path in found.items()},
        pointer,
    )


def port_requests(
    plain: Transport, kinds: tuple[str, ...], *, may_share: bool, tls: bool = False, options: bool = False
) -> dict[str, PortRequest]:
    """The ports that the listeners of a checked transport request.

    `kinds` are the protocols that they may have (none: any), `tls` whether the runtime can speak it,
    `options` whether it knows any of one listener.

    Raises:
        RuntimeConfigError: with the pointer to the member at fault.
    """
    found = {}
    for name, each in listeners_of(plain).items():
        if each.is_named and kinds and each.kind not in kinds:
            detail = f"'{each.kind}' is not for this runtime ({' or '.join(kinds)})"
            raise RuntimeConfigError(f"{ROOT}{each.at}/type", detail)
        if "options" in each.config and not options:
            detail = "listeners of this runtime have no options of their own"
            raise RuntimeConfigError(f"{ROOT}{each.at}/options", detail)
        found[name] = _port_request(each, may_share=may_share, tls=tls)
    return found


def _port_request(listener: Listener, *, may_share: bool, tls: bool) -> PortRequest:
    endpoint, pointer = listener.config, f"{ROOT}{listener.at}"
    try:
        ports = port_range(endpoint["port"], f"{pointer}/port") if "port" in endpoint else None
    except BusError as error:
        raise RuntimeConfigError(f"{pointer}/port", error.detail) from error
    if "tls" in endpoint and not tls:
        # Without this its clients would be served in the clear.
        raise RuntimeConfigError(f"{pointer}/tls", "workers of this runtime don't speak TLS")
    low, high = ports or (DEFAULT_LOW, DEFAULT_HIGH)
    shared = bool(endpoint.get("shared", False))
    if shared and not may_share:
        raise RuntimeConfigError(f"{pointer}/shared", "workers of this runtime can't share a port")
    if shared and low != high:
        raise RuntimeConfigError(f"{pointer}/shared", "only a single port can be shared, not a range")
    return PortRequest(
        low, high, shared, _interface(endpoint.get("interface", LOOPBACK), f"{pointer}/interface")
    )


def probe_of(
    listener: Listener, *, limited: bool = False, path: str = "/"
) -> TcpProbe | HttpProbe | MqttProbe:
    """What asks a listener by its protocol. One who has no certificate sees only the start of a handshake."""
    tls = listener.tls is not None
    if (listener.tls or {}).get("client_certificates") == "require":
        return TcpProbe(tls=True, limited=limited)
    if listener.kind == "web":
        return HttpProbe(path, tls=tls)
    if listener.kind in ("mqtt", "websocket"):
        return MqttProbe(listener.kind == "websocket", tls=tls, limited=limited)
    return TcpProbe(tls=tls, limited=limited)


def check_options(given: Transport, allowed: Mapping[str, type], pointer: str) -> Transport:
    """Options at `pointer`: only allowed ones, of the right type.

    Raises:
        RuntimeConfigError: with the pointer to the option at fault.
    """
    wrong = wrong_option(given, allowed, pointer)
    if wrong is not None:
        raise RuntimeConfigError(*wrong)
    return dict(given)


def path_below(root: Path | None, reference: str, pointer: str, setting: str) -> Path:
    """The file or folder that a transport refers to, always below a folder that the operator configured.

    Raises:
        RuntimeConfigError: it is elsewhere, has `..`, or no such folder is configured.
    """
    if root is None:
        raise RuntimeConfigError(pointer, f"this node's configuration names no '{setting}' to take it from")
    if not reference or any(ord(char) < 32 or char == "\x7f" for char in reference):
        raise RuntimeConfigError(pointer, "empty, or with control characters")
    path = root / reference  # an absolute reference replaces the root, and must lie below it too
    if ".." in path.parts or not path.is_relative_to(root):
        raise RuntimeConfigError(pointer, f"not below this node's '{setting}'")
    return path


def _interface(interface: str, pointer: str) -> str:
    if interface == "localhost":
        return LOOPBACK
    try:
        return str(ipaddress.ip_address(interface))
    except ValueError:
        raise RuntimeConfigError(pointer, f"'{interface}' is not an IP address") from None
