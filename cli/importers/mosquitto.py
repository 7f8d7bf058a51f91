"""A mosquitto.conf, read as a definition of Busbar. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from busbar.bus.listeners import MAX_LISTENERS

from .definition import Imported, NotImportedError, finish

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
_ACCESS: Final = ("allow_anonymous", "require_certificate")
_NAMES: Final = {("mqtt", False): "mqtt", ("mqtt", True): "mqtts",
                 ("websocket", False): "ws", ("websocket", True): "wss"}  # fmt: skip
_PROTOCOLS: Final = {"websockets": "websocket"}
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
_OF_A_LISTENER: Final = (
    "listener",
    "port",
    "bind_address",
    "protocol",
    "max_connections",
    "mount_point",
    "use_identity_as_username",
    "use_subject_as_username",
    "require_certificate",
    "cafile",
    "capath",
    "certfile",
    "keyfile",
    "tls_version",
    "ciphers",
    "ciphers_tls1.3",
    "crlfile",
    "dhparamfile",
    "tls_keyform",
    "tls_engine",
    "psk_hint",
    "websockets_headers_size",
    "http_dir",
    "socket_domain",
    "bind_interface",
    "max_topic_alias",
)
"""Options that belong to the listener above them in any case (mosquitto.conf(5))."""
_PER_LISTENER: Final = (
    "allow_anonymous",
    "password_file",
    "acl_file",
    "psk_file",
    "allow_zero_length_clientid",
    "auto_id_prefix",
    "plugin",
    "auth_plugin",
)
"""Those that do so with `per_listener_settings true` alone."""
_VERSIONS: Final = {"tlsv1.2": "1.2", "tlsv1.3": "1.3"}
Line = tuple[int, str, str]
"""Number, option and value."""


@dataclass(slots=True)
class _Listener:
    """A listener of the file: `at` is its line, `options` those that hold for it alone."""

    at: str
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def import_mosquitto(text: str) -> Imported:
    """The definition of the listeners in a mosquitto.conf.

    Raises:
        NotImportedError: there is none that lets in the clients that the file lets in, and no others.
    """
    found = Imported("mosquitto", {"type": "mqtt"})
    common, sections, unused = _sections(text)
    for number, name, _ in unused:
        found.leave(_at(number, name), "stands before the listeners, and so holds for none of them")
    whole = _Listener("")
    for number, name, value in common:
        _take(found, number, name, value, whole)
    listeners = []
    for each in sections:
        listener = _Listener(_at(*each[0][:2]))
        for number, name, value in each:
            _take(found, number, name, value, listener)
        _finish(found, listener, listens=True)
        listeners.append(listener)
    if not listeners:  # then it listens on loopback, and lets in everybody
        whole.config.setdefault("port", 1883)
        _finish(found, whole, listens=False)
        found.transport["endpoint"] = {"type": "tcp", **whole.config}
    options = {name: value for name, value in whole.options.items() if name not in _ACCESS}
    if options:
        found.transport["options"] = options
    if listeners:
        _add(found, whole.options, listeners)
    return finish(found)


def _sections(text: str) -> tuple[list[Line], list[list[Line]], list[Line]]:
    """The lines that hold for all listeners, those of each, and those that hold for none.

    A bridge's lines count to the first. `port`, `bind_address` and what belongs to a listener before the
    first one make one more, on port 1883. Without any listener it listens on loopback.
    """
    common: list[Line] = []
    default: list[Line] = []
    listeners: list[list[Line]] = []
    lines = list(_lines(text))
    apart = ("per_listener_settings", "true") in {(name, value) for _, name, value in lines}
    for line in lines:
        if line[1] == "listener":
            listeners.append([line])
        elif line[1] in ("port", "bind_address"):
            default.append(line)
        elif line[1] in _OF_A_LISTENER or (apart and line[1] in _PER_LISTENER):
            (listeners[-1] if listeners else default).append(line)
        else:
            common.append(line)
    if any(name in _OF_A_LISTENER for _, name, _ in default):
        return common, [default, *listeners], []
    return (common, listeners, default) if listeners else ([*common, *default], [], [])


def _lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield number, name, value.strip()


def _at(number: int, name: str) -> str:
    return f"line {number} ({name[:40]})"


def _take(found: Imported, number: int, name: str, value: str, into: _Listener) -> None:
    at = _at(number, name)
    found.places.setdefault(name, at)
    if name in ("listener", "port", "bind_address"):
        port, _, host = value.partition(" ") if name != "bind_address" else ("", "", value)
        if port.isascii() and port.isdigit():
            into.config["port"] = int(port)
        if host.strip():
            into.config["interface"] = host.strip()
    elif name in _FILES:
        into.options[name] = _file(found, value, name)
    elif name in _TLS:
        into.config.setdefault("tls", {})[_TLS[name]] = _file(found, value, name)
    elif name == "tls_version" and value in _VERSIONS:
        into.config.setdefault("tls", {})["min_version"] = _VERSIONS[value]
    elif name in _FLAGS and value in ("true", "false"):
        into.options[name] = value == "true"
    elif name in _NUMBERS and value.isascii() and value.isdigit() and len(value) < 16:
        into.options[name] = int(value)
    elif name == "persistent_client_expiration":
        into.options[name] = value
    elif name == "protocol" and value != "mqtt":
        into.config["type"] = _PROTOCOLS.get(value, value[:40])
    elif name in _OURS:
        found.leave(at, "Busbar sets it itself")
    elif name != "protocol":
        found.leave(at, "not taken over")


def _file(found: Imported, path: str, option: str) -> str:
    return found.need(path.rpartition("/")[2] or option, path[:200], several=True)


def _finish(found: Imported, listener: _Listener, *, listens: bool) -> None:
    config = listener.config
    if listens:
        config.setdefault("port", 1883)
        config.setdefault("interface", "0.0.0.0")
    tls = config.get("tls")
    if tls is not None and "certificate" not in tls:
        del config["tls"]
        found.leave(listener.at or "cafile, keyfile, tls_version", "TLS without a certfile")
    elif tls is not None and listener.options.get("require_certificate"):
        tls["client_certificates"] = "require"
    elif tls is not None and tls.pop("client_ca", None):
        found.leave(listener.at or "cafile", "cafile without require_certificate asks no client for one")
    if not listener.options.get("use_identity_as_username", True):
        del listener.options["use_identity_as_username"]


def _add(found: Imported, common: Mapping[str, Any], listeners: list[_Listener]) -> None:
    """The listeners that let somebody in, in the shape of one endpoint where that says it all."""
    taken: list[_Listener] = []
    for each in listeners:
        why = _why_not(found, each, common)
        if why is None and len(taken) == MAX_LISTENERS:
            why = f"a worker has {MAX_LISTENERS} listeners at most: make another group or cluster for it"
        if why is None:
            taken.append(each)
        else:
            found.leave(each.at, why)
    if not taken:
        told = "; ".join(f"{where}: {why}" for where, why in found.left)
        raise NotImportedError(f"none of its listeners can be taken over: {told}"[:2000])
    if len(taken) == 1 and "type" not in taken[0].config and "anonymous" not in taken[0].config:
        (one,) = taken
        options = {**found.transport.get("options", {}), **_own(one)}
        found.transport |= {"endpoint": {"type": "tcp", **one.config}, "options": options}
        found.sources[id(found.transport["endpoint"])] = one.at
        if not options:
            del found.transport["options"]
        return
    named = found.transport["listeners"] = dict[str, Any]()
    for each in taken:
        config = {**each.config, **({"options": own} if (own := _own(each)) else {})}
        found.sources[id(config)] = each.at
        named[_name(config, named)] = config


def _own(listener: _Listener) -> dict[str, Any]:
    return {name: value for name, value in listener.options.items() if name not in _ACCESS}


def _why_not(found: Imported, listener: _Listener, common: Mapping[str, Any]) -> str | None:
    """Why a listener can't be taken over; else its `anonymous` is set where it has to say so."""
    config, options = listener.config, {**common, **listener.options}
    if config.get("type", "websocket") != "websocket":
        return f"protocol {config['type']} is not taken over"
    if not 1 <= config["port"] <= 65535:
        return "only TCP is taken over"
    certain = config.get("tls", {}).get("client_certificates") == "require"
    named = "password_file" in options or ("use_identity_as_username" in options and certain)
    if not named and not options.get("allow_anonymous"):
        detail = "without allow_anonymous, a password_file or use_identity_as_username nobody could connect"
        return f"{detail}, and the routers would be open"
    if "use_identity_as_username" in options and not certain and "password_file" not in options:
        return "use_identity_as_username without require_certificate names no client"
    if named and options.get("allow_anonymous") and not certain:
        config["anonymous"] = True
    elif "password_file" in options and options.get("allow_anonymous"):
        found.leave(listener.at, "clients with a certificate need a password too: there is a password_file")
    return None


def _name(config: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    name = _NAMES[config.get("type", "mqtt"), "tls" in config]
    if name in taken:
        name = f"{name}-{config['port']}"
    number = 2
    base = name
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
