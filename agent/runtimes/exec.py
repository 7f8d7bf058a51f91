"""Operator-defined runtimes: any program, defined in the agent's configuration. Pure except `unavailable`.

No text from the bus becomes a program, an option or a variable's name: templates come from the node's
configuration, have a fixed set of fields, and are filled in without a shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from busbar.bus.addresses import is_loopback
from busbar.bus.endpoint_url import endpoint_url
from busbar.bus.json_schema import UndecidedError, violation
from busbar.bus.listeners import LISTENER_NAME, listeners_of, primary
from busbar.bus.messages import Peer
from busbar.bus.system.programs import find_program
from msgspec import Struct, field

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import (
    LaunchSpec,
    ListenerSpec,
    Ports,
    Probe,
    RuntimeConfigError,
    Transport,
    WorkerSpec,
    address,
    check_worker,
)
from .programs import why_not_runnable
from .transport import ROOT, checked_transport, port_requests, probe_of

FIELDS: Final = ("port", "host", "folder", "worker", "cluster", "workergroup", "oid")
"""Fields of argv, env and the configuration template; `{host}` is the interface to bind."""
PEERS: Final = "peers"
TEMPLATE_FIELDS: Final = (*FIELDS, "transport", PEERS)
"""The configuration template may also use the transport, as one line of JSON, and the peers."""
PEER_FIELDS: Final = ("worker", "node", "host", "port", "url")
"""Fields of `peer_format`; `{host}`, `{port}` and `{url}` are the primary listener's."""
OF_LISTENER: Final = ("port", "host")
"""Those that `{port.NAME}` and `{host.NAME}` have of one of several listeners; `{port}` is the primary's."""
_WORD: Final = r"([A-Za-z_]+|(?:port|host|url)\.[A-Za-z0-9_.-]*)"
_FIELD: Final = re.compile(r"\{\{" + _WORD + r"\}\}|\{" + _WORD + r"\}")


_UNBUFFERED: Final = {"PYTHONUNBUFFERED": "1"}
"""A Python program's output goes into its log line by line; other programs are not affected."""


class ExecRuntime(Struct, frozen=True):
    """One `[runtimes.NAME]` of the agent's configuration; see `agent.runtimes.config` for the keys."""

    name: str
    argv: tuple[str, ...]
    ready: Probe
    live: Probe | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    config_file: str | None = None
    config_template: str = ""
    listens: bool = True
    own_listener: bool = True
    anonymous: bool = False
    """Whether it lets everybody in: on other interfaces than loopback the transport has to say so."""
    scheme: str = "tcp"
    path: str = ""
    types: tuple[str, ...] = ()
    stop_signal: int = 15
    grace_s: float = 5.0
    start_deadline_s: float = 30.0
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS
    check: tuple[str, ...] = ()
    """Its checker, with the fields of `argv`; none: it has none."""
    peer_format: str = "{host}:{port}"
    peer_separator: str = ","
    reload_signal: int | None = None
    """What has it read its configuration again when its peers have changed."""
    version: tuple[str, ...] = ()
    """What prints its version; none: it is not known."""
    transport_schema: Mapping[str, Any] | None = None
    """The JSON Schema of the transports that it accepts; None: of any that the contract has."""

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return why_not_runnable(self.argv[0])

    def ports_needed(self, transport: Transport | None) -> dict[str, PortRequest]:
        """See `Runtime`."""
        plain = self._checked(transport)
        return self._requests(plain) if self.listens else {}

    def _checked(self, transport: Transport | None) -> Transport:
        plain = checked_transport(transport, self.types)
        try:
            found = violation(plain, self.transport_schema or {}, trusted=True) if transport else None
        except UndecidedError as error:
            detail = f"this node's transport_schema can't be followed: {error}"
            raise RuntimeConfigError(ROOT, detail) from error
        if found is not None:
            raise RuntimeConfigError(f"{ROOT}{found.pointer}", found.detail)
        return plain

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = self._checked(worker.transport)
        requests = self._requests(plain)
        if self.anonymous:
            self._check_anonymous(plain, requests)
        self._check_names(list(requests))
        first, *more = self._listeners(plain, requests, host, ports)
        values = {
            "port": str(first.port),
            "host": first.interface,
            "folder": str(folder),
            "worker": worker.name,
            "cluster": worker.cluster,
            "workergroup": worker.workergroup,
            "oid": worker.oid,
        }
        for each in (first, *more):
            values |= {f"port.{each.name}": str(each.port), f"host.{each.name}": each.interface}
        # ASCII JSON is one line, whatever text the transport has.
        template_values = {**values, "transport": json.dumps(plain, sort_keys=True)}
        alone = {**template_values, PEERS: ""}
        files = {self.config_file: fill(self.config_template, alone)} if self.config_file else {}
        told = {**template_values, PEERS: self._peers(worker.peers)}
        program = find_program(self.argv[0]) or self.argv[0]
        return LaunchSpec(
            argv=(program, *(fill(piece, values) for piece in self.argv[1:])),
            env=_UNBUFFERED | {name: fill(value, values) for name, value in self.env.items()},
            files=files,
            peer_files={name: fill(self.config_template, told) for name in files if self.names_peers},
            reload_signal=self.reload_signal,
            ready=self.ready,
            live=self.live,
            address=first.address,
            run_as=self.run_as,
            interface=first.interface,
            port=first.port,
            shared=first.shared,
            listener=first.name,
            more=tuple(more),
            stop_signal=self.stop_signal,
            grace_s=self.grace_s,
            start_deadline_s=self.start_deadline_s,
            own_listener=self.own_listener,
            check=tuple(fill(piece, values) for piece in self.check),
        )

    @property
    def names_peers(self) -> bool:
        """Whether its configuration has a place for the peers."""
        return any(found[2] == PEERS for found in _FIELD.finditer(self.config_template))

    def _peers(self, peers: tuple[Peer, ...]) -> str:
        """Those that have the listeners which `peer_format` names."""
        needed = {found[2] for found in _FIELD.finditer(self.peer_format) if found[2]}
        known = (values for values in map(_of_peer, peers) if needed <= values.keys())
        return self.peer_separator.join(fill(self.peer_format, values) for values in known)

    def _requests(self, plain: Transport) -> dict[str, PortRequest]:
        return port_requests(plain, self.types, may_share=True, tls=True, options=True)

    def _check_anonymous(self, plain: Transport, requests: Mapping[str, PortRequest]) -> None:
        for name, each in listeners_of(plain).items():
            interface = requests[name].interface
            if not is_loopback(interface) and each.anonymous is not True:
                pointer = f"{ROOT}{each.at}/anonymous" if each.is_named else f"{ROOT}/anonymous"
                detail = f"'{self.name}' on {interface} would let everybody in: set it to true if that is"
                raise RuntimeConfigError(pointer, f"{detail} intended")

    def _check_names(self, listeners: list[str]) -> None:
        """Refuse a field of a listener that is not there, and a listener that nothing would open.

        The first one is `{port}`.
        """
        templates = (*self.argv, *self.check, *self.env.values(), self.config_template)
        used = {name for template in templates for name in listeners_in(template)}
        for name in sorted(used - set(listeners)):
            detail = f"runtime '{self.name}' needs a listener of that name"
            raise RuntimeConfigError(f"{ROOT}/listeners/{name}", detail)
        for name in listeners[1:]:
            if name not in used:
                detail = f"runtime '{self.name}' has no {{port.{name}}}: it would not listen there"
                raise RuntimeConfigError(f"{ROOT}/listeners/{name}", detail)

    def _listeners(
        self, plain: Transport, requests: Mapping[str, PortRequest], host: str, ports: Ports
    ) -> list[ListenerSpec]:
        found, first = [], primary(plain)
        for name, each in listeners_of(plain).items():
            request, port = requests[name], ports.get(name, 0)
            scheme, path = self.scheme, self.path
            if each.kind != first.kind and each.kind in _SCHEMES:
                scheme, path = _SCHEMES[each.kind] + ("s" if each.tls is not None else ""), ""
            url = address(scheme, request.interface, host, port, path) if self.listens else ""
            shared = request.shared and self.listens
            found.append(ListenerSpec(name, url, request.interface, port, probe_of(each), shared))
        return found


_SCHEMES: Final[Mapping[str, str]] = {"mqtt": "mqtt", "websocket": "ws", "web": "http"}
"""Of listeners with another protocol than the primary one's."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{field}` once (braces in values stay); `{{word}}` yields the text `{word}`."""
    return _FIELD.sub(lambda found: f"{{{found[1]}}}" if found[1] else values[found[2]], template)


def unknown_fields(template: str, known: tuple[str, ...]) -> list[str]:
    """Fields of a template that are not in `known`, nor of a listener."""
    found = (each[2] for each in _FIELD.finditer(template) if each[2])
    return [field for field in found if field not in known and _listener_of(field) is None]


def _of_peer(peer: Peer) -> dict[str, str]:
    """The fields of a peer: those of its listeners with plain URLs, the first one's also without a name."""
    urls = {name: url for name, text in peer.listeners.items() if (url := endpoint_url(text)) is not None}
    values = {"worker": peer.worker, "node": peer.node}
    first = [("", url) for url in urls.values()][:1]
    for suffix, url in (*first, *((f".{name}", url) for name, url in urls.items())):
        host = f"[{url.host}]" if ":" in url.host else url.host
        values |= {f"host{suffix}": host, f"port{suffix}": str(url.port)}
        values[f"url{suffix}"] = f"{url.scheme}://{url.netloc}{url.path}"
    return values


def unknown_peer_fields(template: str) -> list[str]:
    """Fields of a `peer_format` that no peer has."""
    found = (each[2] for each in _FIELD.finditer(template) if each[2])
    return [field for field in found if field.partition(".")[0] not in PEER_FIELDS]


def listeners_in(template: str) -> list[str]:
    """The listeners that fields of a template name."""
    found = (_listener_of(each[2]) for each in _FIELD.finditer(template) if each[2])
    return [name for name in found if name is not None]


def _listener_of(field: str) -> str | None:
    of, _, name = field.partition(".")
    return name if of in OF_LISTENER and re.fullmatch(LISTENER_NAME, name) else None
