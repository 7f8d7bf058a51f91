"""A mosquitto.conf, read as a definition of Busbar. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .import_definition import Imported, NotImportedError, finish

_FILES: Final = {"password_file": "password_file", "acl_file": "acl_file"}
_TLS: Final = {"cafile": "client_ca", "certfile": "certificate", "keyfile": "key"}
_NUMBERS: Final = (
    "max_connections",
    "max_inflight_messages",
    "max_queued_messages",
    "max_queued_bytes",
    "max_packet_size",
    "sys_interval",
)
_FLAGS: Final = ("persistence", "use_identity_as_username", "allow_anonymous", "require_certificate")
_OURS: Final = (
    "log_dest",
    "log_type",
    "log_timestamp",
    "log_timestamp_format",
    "connection_messages",
    "pid_file",
    "persistence_location",
    "persistence_file",
    "autosave_interval",
    "autosave_on_changes",
    "user",
    "set_tcp_nodelay",
    "per_listener_settings",
)
_VERSIONS: Final = {"tlsv1.2": "1.2", "tlsv1.3": "1.3"}
Line = tuple[int, str, str]
"""Number, option and value."""


def import_mosquitto(text: str) -> Imported:
    """The definition of the first MQTT listener in a mosquitto.conf.

    Raises:
        NotImportedError: it would let in more clients than the file.
    """
    found = Imported("mosquitto", {"type": "mqtt"})
    common, listeners = _sections(text)
    mine = next((each for each in listeners if not _is_websocket(each)), None)
    for each in listeners:
        if each is not mine:
            for number, name, _ in each:
                found.leave(
                    _at(number, name), "a group has one MQTT listener: make another group or cluster for it"
                )
    given: dict[str, Any] = {}
    endpoint: dict[str, Any] = {"type": "tcp"}
    for number, name, value in [*common, *(mine or [])]:
        _take(found, number, name, value, endpoint, given)
    listens = bool(mine) or "port" in endpoint
    _finish_endpoint(found, endpoint, given, listens)
    options = {n: v for n, v in given.items() if n not in ("allow_anonymous", "require_certificate")}
    if not options.get("use_identity_as_username", True):
        del options["use_identity_as_username"]
    if options:
        found.transport["options"] = options
    named = "password_file" in options or "use_identity_as_username" in options
    if listens and not given.get("allow_anonymous") and not named:
        detail = "without allow_anonymous, a password_file or use_identity_as_username nobody could connect"
        raise NotImportedError(f"{detail}, and the routers would be open")
    if given.get("allow_anonymous") and named:
        found.leave("allow_anonymous", "clients need a password or certificate, since the file names them")
    return finish(found)


def _sections(text: str) -> tuple[list[Line], list[list[Line]]]:
    """The lines before the first listener, and those of each listener."""
    common: list[Line] = []
    listeners: list[list[Line]] = []
    for line in _lines(text):
        if line[1] == "listener":
            listeners.append([])
        (listeners[-1] if listeners and line[1] not in _OURS else common).append(line)
    return common, listeners


def _lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield number, name, value.strip()


def _is_websocket(listener: list[Line]) -> bool:
    return any(name == "protocol" and value != "mqtt" for _, name, value in listener)


def _at(number: int, name: str) -> str:
    return f"line {number} ({name[:40]})"


def _take(
    found: Imported, number: int, name: str, value: str, endpoint: dict[str, Any], given: dict[str, Any]
) -> None:
    at = found.places[name] = _at(number, name)
    if name in ("listener", "port", "bind_address"):
        port, _, host = value.partition(" ") if name != "bind_address" else ("", "", value)
        if port.isascii() and port.isdigit():
            endpoint["port"] = int(port)
        if host.strip():
            endpoint["interface"] = host.strip()
    elif name in _FILES:
        given[name] = found.need(value.rpartition("/")[2] or name, value[:200])
    elif name in _TLS:
        endpoint.setdefault("tls", {})[_TLS[name]] = found.need(value.rpartition("/")[2] or name, value[:200])
    elif name == "tls_version" and value in _VERSIONS:
        endpoint.setdefault("tls", {})["min_version"] = _VERSIONS[value]
    elif name in _FLAGS and value in ("true", "false"):
        given[name] = value == "true"
    elif name in _NUMBERS and value.isascii() and value.isdigit() and len(value) < 16:
        given[name] = int(value)
    elif name == "persistent_client_expiration":
        given[name] = value
    elif name in _OURS:
        found.leave(at, "Busbar sets it itself")
    elif name != "protocol":
        found.leave(at, "not taken over")


def _finish_endpoint(found: Imported, endpoint: dict[str, Any], given: dict[str, Any], listens: bool) -> None:
    endpoint.setdefault("port", 1883)
    if listens:
        endpoint.setdefault("interface", "0.0.0.0")
    tls = endpoint.get("tls")
    if tls is not None and "certificate" not in tls:
        del endpoint["tls"]
        found.leave("cafile, keyfile, tls_version", "TLS without a certfile")
    elif tls is not None and given.get("require_certificate"):
        tls["client_certificates"] = "require"
    elif tls is not None and tls.pop("client_ca", None):
        found.leave("cafile", "without require_certificate clients are asked for none")
    found.transport["endpoint"] = endpoint
