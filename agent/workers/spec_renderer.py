"""Renders an assigned worker's launch spec: picks runtime and ports, checks the folders of its transport."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from busbar.bus.addresses import is_loopback
from busbar.bus.errors import pointer_step
from busbar.bus.listeners import DEFAULT, listeners_of
from busbar.bus.messages import AssignedWorker, Peer
from msgspec import Struct, field
from msgspec.structs import replace

from ..processes import cgroups
from ..processes.ports import LOOPBACK, PortRequest, choose_ports
from ..processes.sockets import bind_error
from ..runtimes import LaunchSpec, Ports, Runtime, RuntimeConfigError, Transport, WorkerSpec
from ..runtimes.crossbar import CrossbarRuntime
from ..runtimes.exec import ExecRuntime
from ..runtimes.programs import why_not_runnable
from ..state import State


class RefusedError(Exception):
    """This node can't run that worker; the text is the reason."""


class EndpointLimits(Struct, frozen=True):
    """What workers of this node may listen on, whatever is assigned; None is no limit.

    `ports`: both ends included. `interfaces`: besides loopback; 0.0.0.0 and :: include those of their family.
    """

    ports: tuple[int, int] | None = None
    interfaces: tuple[str, ...] | None = None

    def permitted(self, request: PortRequest, *, named: bool) -> PortRequest:
        """What of a request is permitted; one that has `named` no port may use all of `ports`.

        Raises:
            RefusedError: nothing is.
        """
        self.check_interface(request.interface)
        if self.ports is None:
            return request
        low, high = self.ports
        if named:
            low, high = max(low, request.low), min(high, request.high)
        if low > high:
            asked = f"{request.low}-{request.high}" if not request.fixed else str(request.low)
            limit = "{}-{}".format(*self.ports)
            raise RefusedError(f"port {asked} is not permitted: this node's workers use {limit} (ports)")
        return replace(request, low=low, high=high)

    def check_interface(self, interface: str) -> None:
        """Raises `RefusedError` for one that workers may not listen on."""
        wildcard = "::" if ":" in interface else "0.0.0.0"
        if self.interfaces is None or interface in self.interfaces or wildcard in self.interfaces:
            return
        if not is_loopback(interface):
            permitted = ", ".join(("loopback", *self.interfaces))
            raise RefusedError(
                f"interface {interface} is not permitted: this node's workers use {permitted} (interfaces)"
            )


class SpecRenderer(Struct, frozen=True):
    """`roots` are the operator's folders that `static` paths may use besides the state folder's `www`."""

    state: State
    runtimes: Mapping[str, Runtime]
    advertised_host: str
    labels: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()
    bind_error: Callable[..., OSError | None] = bind_error
    loopback: str = LOOPBACK
    """Where workers listen whose transport names no interface."""
    limits: EndpointLimits = EndpointLimits()
    limits_memory: Callable[[], bool] = cgroups.limits_memory
    """Whether cgroups limit the memory of workers."""

    def for_start(
        self,
        worker: AssignedWorker,
        taken: Collection[int],
        prefer: Ports,
        peers: tuple[Peer, ...] = (),
    ) -> LaunchSpec:
        """Choose the ports and render the spec of a new instance; `prefer` are those of its last one.

        Raises:
            RefusedError, RuntimeConfigError, NoPortError, ValueError: why it can't start here.
        """
        runtime = self._runtime(worker)
        transport = self._transport(worker, runtime)
        requests = self._permitted(runtime.ports_needed(transport), transport)
        offset = zlib.crc32(worker.oid.encode())
        known = _known_ports(prefer, requests)
        ports = choose_ports(requests, taken, self._bind_error, offset=offset, prefer=known)
        spec = self._render(runtime, worker, transport, ports, peers=peers)
        self.limits.check_interface(spec.interface)
        return spec

    def _permitted(
        self, requests: Mapping[str, PortRequest], transport: Transport | None
    ) -> dict[str, PortRequest]:
        listeners, permitted = listeners_of(transport), dict[str, PortRequest]()
        for name, request in requests.items():
            try:
                # A runtime may have listeners of its own.
                named = name in listeners and "port" in listeners[name].config
                permitted[name] = self.limits.permitted(request, named=named)
            except RefusedError as error:
                if name in listeners and not listeners[name].is_named:
                    raise
                raise RefusedError(f"listener '{name}': {error}") from None
        return permitted

    def _bind_error(self, request: PortRequest, port: int) -> OSError | None:
        return self.bind_error(request.interface, port, shared=request.shared)

    def for_running(self, worker: AssignedWorker, ports: Ports, peers: tuple[Peer, ...] = ()) -> LaunchSpec:
        """The spec of a running instance, with its probes; `ports` are those that it was started with.

        Raises:
            RefusedError, RuntimeConfigError, ValueError: its definition can't be rendered (any longer).
        """
        runtime = self._runtime(worker, check=False)
        transport = self._transport(worker, runtime)
        unknown = [name for name in runtime.ports_needed(transport) if name not in ports]
        if unknown:
            raise RefusedError(f"the port of its listener '{unknown[0]}' is not known")
        return self._render(runtime, worker, transport, ports, peers=peers)

    def for_check(self, worker: AssignedWorker, ports: Ports, folder: Path | None = None) -> LaunchSpec:
        """The spec that a checker is to judge; a listener that is not in `ports` gets one that it permits.

        `folder` stands for the worker's own.

        Raises:
            RefusedError, RuntimeConfigError, ValueError: its definition can't be rendered here.
        """
        runtime = self._runtime(worker)
        transport = self._transport(worker, runtime)
        requests = self._permitted(runtime.ports_needed(transport), transport)
        chosen = {name: port for name, port in _known_ports(ports, requests).items() if name in requests}
        for name, request in requests.items():
            free = (port for port in range(request.low, request.high + 1) if port not in chosen.values())
            chosen.setdefault(name, next(free, request.low))
        spec = self._render(runtime, worker, transport, chosen, folder)
        self.limits.check_interface(spec.interface)
        return spec

    def unavailable(self) -> dict[str, str]:
        """Runtimes that can't run here, with the reason."""
        reasons = {name: _unavailable(runtime) for name, runtime in self.runtimes.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def _render(
        self,
        runtime: Runtime,
        worker: AssignedWorker,
        transport: Transport | None,
        ports: Ports,
        folder: Path | None = None,
        peers: tuple[Peer, ...] = (),
    ) -> LaunchSpec:
        spec = WorkerSpec(
            worker.worker,
            worker.oid,
            worker.cluster,
            worker.workergroup,
            worker.generation,
            transport,
            self.labels,
            peers,
        )
        own = folder or self.state.worker_folder(worker.oid)
        rendered = runtime.render(spec, self.advertised_host, ports, own)
        limits, cgroup = runtime.limits, self.limits_memory()
        memory = limits.memory if cgroup else None
        return replace(rendered, argv=limits.wrapped(rendered.argv, cgroup=cgroup), memory=memory)

    def _runtime(self, worker: AssignedWorker, *, check: bool = True) -> Runtime:
        runtime = self.runtimes.get(worker.runtime)
        if runtime is None:
            known = ", ".join(sorted(self.runtimes))
            raise RefusedError(f"this node has no runtime '{worker.runtime}' (it has: {known})")
        reason = _unavailable(runtime) if check else None
        if reason:
            raise RefusedError(f"runtime '{worker.runtime}' can't run on this node: {reason}")
        return runtime

    def _transport(self, worker: AssignedWorker, runtime: Runtime) -> Transport | None:
        transport = self._on_loopback(worker.transport, runtime)
        if transport is None or not isinstance(transport.get("paths"), dict):
            return transport
        paths = self._paths(transport["paths"], "/transport/paths")
        return {**transport, "paths": paths}

    def _on_loopback(self, transport: Transport | None, runtime: Runtime) -> Transport | None:
        """The transport with this host's loopback address where that is not the default one."""
        if self.loopback == LOOPBACK:
            return transport
        found = transport or {"type": default_type(runtime)}
        here = {
            name: {**each.config, "interface": self.loopback}
            for name, each in listeners_of(found).items()
            if each.interface == "localhost"
        }
        if "listeners" in found:
            listeners = found["listeners"]
            return {**found, "listeners": {**listeners, **here}} if isinstance(listeners, Mapping) else found
        endpoint = found.get("endpoint", {})
        return {**found, "endpoint": here[DEFAULT]} if here and isinstance(endpoint, Mapping) else transport

    def _paths(self, paths: Mapping[str, object], pointer: str) -> dict[str, object]:
        return {
            name: self._path(service, f"{pointer}/{pointer_step(name)}") for name, service in paths.items()
        }

    def _path(self, service: object, pointer: str) -> object:
        if not isinstance(service, dict):
            return service
        if service.get("type") == "static" and isinstance(service.get("directory"), str):
            return {**service, "directory": str(self._static(service["directory"], f"{pointer}/directory"))}
        if service.get("type") == "path" and isinstance(service.get("paths"), dict):
            return {**service, "paths": self._paths(service["paths"], f"{pointer}/paths")}
        return service

    def _static(self, directory: str, pointer: str) -> Path:
        """A relative one is the first that exists below `www` or a root.

        Resolved before it is checked: a symbolic link must not lead outside.
        """
        allowed = [root.resolve() for root in (self.state.www, *self.roots)]
        found = dict.fromkeys((root / directory).resolve() for root in allowed)
        inside = [path for path in found if any(path.is_relative_to(root) for root in allowed)]
        if not inside:
            raise RuntimeConfigError(
                pointer, f"'{directory[:200]}' is neither in the agent's www folder nor in its static_roots"
            )
        there = next((path for path in inside if path.is_dir()), None)
        if there is None:
            looked = ", ".join(map(str, inside))[:1000]
            raise RuntimeConfigError(
                pointer, f"there is no folder '{directory[:200]}' on this node: {looked}"
            )
        return there


def _known_ports(ports: Ports, requests: Mapping[str, PortRequest]) -> Ports:
    """The ports of the last instance. The primary listener keeps its own when it gets a name, or loses it."""
    if not ports or not requests or (DEFAULT in ports) == (DEFAULT in requests):
        return ports
    return {next(iter(requests)): next(iter(ports.values()))}


def _unavailable(runtime: Runtime) -> str | None:
    """Why workers of a runtime can't run here, the programs that set their limits included; or None."""
    missing = (why_not_runnable(program) for program in runtime.limits.programs)
    return runtime.unavailable() or next((reason for reason in missing if reason), None)


def default_type(runtime: Runtime) -> str:
    """The type of a worker without a transport."""
    if isinstance(runtime, ExecRuntime):
        return runtime.types[0] if runtime.types else "tcp"
    return "web" if isinstance(runtime, CrossbarRuntime) else "mqtt"


def with_roots(
    runtimes: Mapping[str, Runtime], roots: tuple[Path, ...]
) -> tuple[dict[str, Runtime], tuple[Path, ...]]:
    """Have `SpecRenderer` alone check static folders: the crossbar runtime's own root joins the others."""
    out, allowed = dict(runtimes), list(roots)
    for name, runtime in runtimes.items():
        if isinstance(runtime, CrossbarRuntime):
            if runtime.static_root is not None:
                allowed.append(runtime.static_root)
            out[name] = replace(runtime, static_root=Path("/"))
    return out, tuple(allowed)
