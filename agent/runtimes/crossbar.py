"""Runtime `crossbar`: a standalone Crossbar.io node with one router worker and a Web transport.

Pure except `unavailable` and `read`. The configuration format is that of Crossbar.io 26.10 (version 2).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from busbar.bus.errors import pointer_step
from busbar.bus.listeners import UNIVERSAL, Listener, listeners_of, parts_of, served
from busbar.bus.routers.router_options import crossbar_options, realm_of_mqtt
from busbar.bus.routers.runtimes import PATH_OPTIONS
from busbar.bus.routers.wamp import Realms
from busbar.bus.system.programs import find_program
from msgspec import Struct

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import (
    AllProbes,
    HttpProbe,
    LaunchSpec,
    ListenerSpec,
    LogProbe,
    MqttProbe,
    Ports,
    RuntimeConfigError,
    TcpProbe,
    Transport,
    WorkerSpec,
    address,
    check_worker,
)
from .crossbar_tls import tls_of
from .principals import credentials_in, read_secrets
from .programs import why_not_runnable
from .proxying import Targets, check_target
from .transport import (
    ROOT,
    TlsFiles,
    check_options,
    checked_transport,
    path_below,
    port_requests,
    probe_of,
    refusals,
    tls_files,
)
from .wamp import Rendered, Secrets, auth_of, realms_of, roles_by_realm

TYPES = ("web",)
LISTENERS = ("web", "rawsocket", "mqtt", "universal")
FOLDER = ".crossbar"
HOME = "web"
"""Folder within the worker's own, served at `/` unless the transport defines `/`."""
_PATH: Final = re.compile(r"[a-z0-9A-Z_-]{1,128}")
_LEAVES: Final = ("json", "nodeinfo", "redirect", "websocket", "publisher", "caller", "webhook")
"""Services that answer every path below their own: on `/` they hide the others."""
_PROXY: Final = ("host", "port", "path", "forwarded_port", "forwarded_proto")


class CrossbarRuntime(Struct, frozen=True):
    """`static_root`: the operator's folder for static paths; `secrets_root`: that of principals and keys;
    `proxy_to`: the servers that a path may forward to."""

    program: str = "crossbar"
    static_root: Path | None = None
    name: str = "crossbar"
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS
    secrets_root: Path | None = None
    proxy_to: Targets = frozenset()
    read: Callable[[Path], bytes] = read_secrets

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return why_not_runnable(self.program, beside=sys.executable)

    def ports_needed(self, transport: Transport | None) -> dict[str, PortRequest]:
        """See `Runtime`."""
        plain = checked_transport(transport, TYPES)
        return port_requests(plain, LISTENERS, may_share=True, tls=True, options=True)

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        requests = port_requests(plain, LISTENERS, may_share=True, tls=True, options=True)
        with refusals():
            crossbar_options(plain, ROOT)
            joined = {
                each.name: realm_of_mqtt(plain, each, ROOT) for each in served(plain) if each.kind == "mqtt"
            }
        secrets = Secrets(self.secrets_root, self.read)
        services = _Services(self.static_root, secrets, roles_by_realm(plain), self.proxy_to, joined)
        paths = services.paths(plain.get("paths") or _DEFAULT_PATHS, folder)
        listeners = [
            services.listener(each, requests[name], ports[name], paths, host)
            for name, each in listeners_of(plain).items()
        ]
        config = _node(worker, realms_of(plain), _numbered([each.transport for each in listeners]))
        program = find_program(self.program, beside=sys.executable) or self.program
        cbdir = ("--cbdir", str(folder / FOLDER))
        first, *more = (each.spec for each in listeners)
        return LaunchSpec(
            argv=(program, "start", *cbdir, "--color", "false", "--loglevel", "warn" if joined else "info"),
            env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            files={
                f"{FOLDER}/config.json": json.dumps(config, indent=1),
                f"{HOME}/index.html": _page(worker),
                **{name: content for each in listeners for name, content in each.files.items()},
            },
            # On a shared port another worker may answer the request, so its own log is checked too. Not with
            # MQTT: at level info Crossbar logs each CONNECT with its password.
            ready=first.probe if joined else AllProbes((LogProbe("NODE_BOOT_COMPLETE"), first.probe)),
            live=first.probe,
            address=first.address,
            run_as=self.run_as,
            interface=first.interface,
            port=first.port,
            shared=first.shared,
            listener=first.name,
            more=tuple(more),
            grace_s=8.0,
            # A start takes 6 to 8 s, much longer if several start on one core.
            start_deadline_s=60.0,
            # A killed node leaves its pid file; if that pid is in use again, it would not start.
            remove=(f"{FOLDER}/node.pid",),
            references={at: path for each in listeners for at, path in each.references.items()},
            embedded=secrets.used,
            check=(program, "check", *cbdir),
            checks_starts=False,
        )


class _Listener(Struct, frozen=True):
    """A rendered transport of Crossbar, the files that it names, and how the agent sees it."""

    transport: Rendered
    files: Mapping[str, str]
    references: Mapping[str, Path]
    spec: ListenerSpec


class _Services(Struct, frozen=True):
    """Renders services and listeners with what the node and the rest of the transport have."""

    static_root: Path | None
    secrets: Secrets
    realms: Realms
    proxy_to: Targets
    joined: Mapping[str, str]
    """The realm that clients of each MQTT listener join."""

    def paths(self, given: Transport, folder: Path) -> dict[str, Rendered]:
        """The paths of a transport, with a page on `/` where none is defined."""
        paths = self._services(given, f"{ROOT}/paths")
        if "/" not in paths:
            home = _served(folder / HOME, f"{ROOT}/paths", " (of the default '/')")
            paths["/"] = {"type": "static", "directory": home}
        root = paths["/"]
        if root["type"] in _LEAVES and len(paths) > 1:
            detail = f"a path of type '{root['type']}' on '/' would answer for all the others"
            raise RuntimeConfigError(f"{ROOT}/paths/~1", detail)
        return paths

    def listener(
        self,
        listener: Listener,
        request: PortRequest,
        port: int,
        paths: Mapping[str, Rendered],
        host: str,
    ) -> _Listener:
        """A transport of the router: its kind is the listener's."""
        tls, files = tls_files(listener, self.secrets.root), dict[str, str]()
        endpoint = _endpoint(listener, request, port)
        if tls is not None:
            below = f"tls/{listener.name}" if listener.is_named else "tls"
            endpoint["tls"], files = tls_of(tls, self.secrets, FOLDER, below)
        parts = {each.kind: each for each in parts_of(listener)}
        transport: Rendered = {"type": listener.kind, "endpoint": endpoint}
        if listener.kind == UNIVERSAL:
            transport |= {kind: self._part(each, paths) for kind, each in parts.items()}
        else:
            transport |= self._part(listener, paths)
        probe, url = _seen(parts, paths, request.interface, host, port, tls)
        spec = ListenerSpec(listener.name, url, request.interface, port, probe, request.shared)
        return _Listener(transport, files, tls.references if tls else {}, spec)

    def _part(self, listener: Listener, paths: Mapping[str, Rendered]) -> Rendered:
        """What is served there in one protocol."""
        if listener.kind == "web":
            return {"paths": paths}
        if listener.kind == "rawsocket":
            more = {name: listener.config[name] for name in ("serializers",) if name in listener.config}
            return {**self._auth(listener), **more}
        mapping = _mapped(listener.config.get("options", {}).get("payload_mapping", _ANY_BYTES))
        options = {"realm": self.joined[listener.name], "payload_mapping": mapping}
        return {"options": options | self._auth(listener)}

    def _auth(self, listener: Listener) -> Rendered:
        """Whom a listener lets in by its own `auth`, as that member."""
        if "auth" not in listener.config:
            return {}
        at = f"{ROOT}{listener.at}/auth"
        return {"auth": auth_of(listener.config["auth"], self.realms, self.secrets, at)}

    def _services(self, given: Transport, pointer: str) -> dict[str, Rendered]:
        services = {}
        for name, service in given.items():
            at = f"{pointer}/{pointer_step(name)}"
            if name != "/" and not _PATH.fullmatch(name):
                raise RuntimeConfigError(at, "a path is one level of letters, digits, '_' and '-'")
            services[name] = self._service(service, at)
        return services

    def _service(self, service: Transport, at: str) -> Rendered:
        """Copies only what is known to be harmless; `check_transport` has checked that it is there."""
        kind = service["type"]
        rendered: Rendered = {"type": kind}
        if "options" in service:
            rendered["options"] = _service_options(kind, service["options"], f"{at}/options")
        match kind:
            case "static":
                directory = path_below(
                    self.static_root, service["directory"], f"{at}/directory", "static_root"
                )
                rendered["directory"] = _served(directory, f"{at}/directory")
            case "json":
                rendered["value"] = service["value"]
            case "redirect":
                rendered["url"] = _url(service["url"], f"{at}/url")
            case "path":
                rendered["paths"] = self._services(service["paths"], f"{at}/paths")
            case "websocket":
                rendered |= {name: service[name] for name in ("cookie", "serializers") if name in service}
                if "auth" in service:
                    rendered["auth"] = auth_of(service["auth"], self.realms, self.secrets, f"{at}/auth")
            case "publisher" | "caller" | "webhook":
                rendered |= {"realm": service["realm"], "role": service["role"]}
                if "credentials_file" in service:
                    pointer = f"{at}/credentials_file"
                    content = self.secrets.content(service["credentials_file"], pointer)
                    known = credentials_in(content, kind, pointer)
                    rendered["options"] = {**service.get("options", {}), **known}
            case "reverseproxy":
                check_target(service["host"], service["port"], self.proxy_to, at)
                rendered |= {name: service[name] for name in _PROXY if name in service}
            case "nodeinfo":
                pass
            case _:
                raise RuntimeConfigError(f"{at}/type", f"paths of type '{kind}' are not rendered")
        return rendered


_ANY_BYTES: Final = {"": {"type": "passthrough"}}
"""What MQTT payloads are unless the listener says more: without any mapping Crossbar drops all."""
_DEFAULT_PATHS: Final[Transport] = {"ws": {"type": "websocket"}, "info": {"type": "nodeinfo"}}


def _service_options(kind: str, given: Transport, pointer: str) -> Transport:
    known = check_options(given, PATH_OPTIONS.get(kind, {}), pointer)
    if "/" in known.get("default_file", ""):
        raise RuntimeConfigError(f"{pointer}/default_file", "a file name, not a path")
    if not all(isinstance(origin, str) for origin in known.get("allowed_origins", [])):
        raise RuntimeConfigError(f"{pointer}/allowed_origins", "must be a list of strings")
    return known


def _mapped(given: Transport) -> Rendered:
    """The payloads by topic prefix, also as MQTT writes it: for an event of an exact subscription Crossbar
    looks up the subscription's topic, which is MQTT's."""
    return {**{prefix.replace(".", "/"): each for prefix, each in given.items()}, **given}


def _served(directory: Path, pointer: str, what: str = "") -> str:
    """Crossbar would silently serve another folder, the path without those letters: 404 for everything."""
    if not str(directory).isascii():
        detail = (
            f"Crossbar drops non-ASCII letters of a static folder's path: it can't serve {directory}{what}"
        )
        raise RuntimeConfigError(pointer, detail)
    return str(directory)


def _url(url: str, pointer: str) -> str:
    if any(ord(char) <= 32 or ord(char) >= 127 for char in url):
        raise RuntimeConfigError(pointer, "a URL has no spaces, control or non-ASCII characters")
    return url


def _endpoint(listener: Listener, request: PortRequest, port: int) -> Rendered:
    endpoint: Rendered = {"type": "tcp", "port": port, "interface": request.interface}
    endpoint["backlog"] = listener.config.get("backlog", 1024)
    if ":" in request.interface:
        endpoint["version"] = 6
    if request.shared:
        endpoint["shared"] = True
    return endpoint


def _numbered(transports: list[Rendered]) -> list[Rendered]:
    """Each with an id: web1, rawsocket2."""
    return [
        {"type": each["type"], "id": f"{each['type']}{number}", **each}
        for number, each in enumerate(transports, 1)
    ]


def _node(worker: WorkerSpec, realms: list[Rendered], transports: list[Rendered]) -> Rendered:
    return {
        "version": 2,
        "controller": {"id": _node_id(worker.name)},
        "workers": [
            {
                "type": "router",
                "id": "router1",
                "realms": realms,
                "transports": transports,
            }
        ],
    }


def _node_id(worker: str) -> str:
    """Crossbar.io's ids match `^[a-z][a-z0-9_]{2,63}$`."""
    return f"w_{worker.replace('-', '_')}"[:64]


def _seen(
    parts: Mapping[str, Listener],
    paths: Mapping[str, Rendered],
    interface: str,
    host: str,
    port: int,
    tls: TlsFiles | None,
) -> tuple[HttpProbe | TcpProbe | MqttProbe, str]:
    """The probe of a listener, and its URL: those of the paths where it serves them."""
    if "web" in parts:
        return _probe(paths, tls), _address(interface, host, port, paths, tls)
    if "rawsocket" in parts:
        return TcpProbe(tls=tls is not None), address("rss" if tls else "rs", interface, host, port)
    return probe_of(parts["mqtt"]), address("mqtts" if tls else "mqtt", interface, host, port)


def _address(
    interface: str, host: str, port: int, paths: Mapping[str, Rendered], tls: TlsFiles | None
) -> str:
    """The URL of the first WebSocket path; without one, of the pages."""
    websocket = next((name for name, service in paths.items() if service["type"] == "websocket"), None)
    scheme, path = ("http", "/") if websocket is None else ("ws", "/" + websocket.strip("/"))
    return address(f"{scheme}s" if tls else scheme, interface, host, port, path)


def _probe(paths: Mapping[str, Rendered], tls: TlsFiles | None) -> HttpProbe | TcpProbe:
    """Probe a path, not the port: the port opens up to 60 ms before its paths, with 404 until then.

    The agent has no client certificate: where one is required, only the port's TLS is probed.
    """
    if tls is not None and tls.client_ca is not None:
        return TcpProbe(tls=True)
    for kind in ("nodeinfo", "json", "redirect", "websocket"):
        for name, service in paths.items():
            if service["type"] == kind:
                path = "/" + name.strip("/")
                return HttpProbe(path, (200, 302, 400, 403, 405, 426), tls=tls is not None)
    if paths["/"]["type"] == "reverseproxy":  # it would answer for the server behind it
        return TcpProbe(tls=tls is not None)
    return HttpProbe("/", tls=tls is not None)


def _page(worker: WorkerSpec) -> str:
    # Names have only letters, digits, '-' and '_' (check_worker): nothing to escape.
    title = f"{worker.cluster}/{worker.name}"
    return f"<!doctype html><title>{title}</title><p>Router worker {title}, run by Busbar.</p>\n"
