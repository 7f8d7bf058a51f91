"""Renders an assigned worker's launch spec: picks runtime and port, checks the folders of its transport."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from busbar.bus.errors import pointer_step
from busbar.bus.messages import AssignedWorker

from ..processes.ports import LOOPBACK, choose_port
from ..processes.sockets import bind_error
from ..runtimes import LaunchSpec, Runtime, RuntimeConfigError, Transport, WorkerSpec
from ..runtimes.crossbar import CrossbarRuntime
from ..runtimes.exec import ExecRuntime
from ..state import State


class RefusedError(Exception):
    """This node can't run that worker; the text is the reason."""


@dataclass(frozen=True, slots=True)
class SpecRenderer:
    """`roots` are the operator's folders that `static` paths may use besides the state folder's `www`."""

    state: State
    runtimes: Mapping[str, Runtime]
    advertised_host: str
    labels: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()
    bind_error: Callable[..., OSError | None] = bind_error
    loopback: str = LOOPBACK
    """Where workers listen whose transport names no interface."""

    def for_start(self, worker: AssignedWorker, taken: Collection[int], prefer: int | None) -> LaunchSpec:
        """Choose a port and render the spec of a new instance; `prefer` is the port of its last one.

        Raises:
            RefusedError, RuntimeConfigError, NoPortError, ValueError: why it can't start here.
        """
        runtime = self._runtime(worker)
        transport = self._transport(worker, runtime)
        request = runtime.port_needed(transport)
        port = 0
        if request is not None:
            interface, shared = request.interface, request.shared

            def error_of(candidate: int) -> OSError | None:
                return self.bind_error(interface, candidate, shared=shared)

            offset = zlib.crc32(worker.oid.encode())
            port = choose_port(request, taken, error_of, offset=offset, prefer=prefer or None)
        return self._render(runtime, worker, transport, port)

    def for_running(self, worker: AssignedWorker, port: int) -> LaunchSpec:
        """The spec of a running instance, with its probes.

        Raises:
            RefusedError, RuntimeConfigError, ValueError: its definition can't be rendered (any longer).
        """
        runtime = self._runtime(worker, check=False)
        return self._render(runtime, worker, self._transport(worker, runtime), port)

    def unavailable(self) -> dict[str, str]:
        """Runtimes that can't run here, with the reason."""
        reasons = {name: runtime.unavailable() for name, runtime in self.runtimes.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def _render(
        self, runtime: Runtime, worker: AssignedWorker, transport: Transport | None, port: int
    ) -> LaunchSpec:
        spec = WorkerSpec(
            worker.worker,
            worker.oid,
            worker.cluster,
            worker.workergroup,
            worker.generation,
            transport,
            self.labels,
        )
        return runtime.render(spec, self.advertised_host, port, self.state.worker_folder(worker.oid))

    def _runtime(self, worker: AssignedWorker, *, check: bool = True) -> Runtime:
        runtime = self.runtimes.get(worker.runtime)
        if runtime is None:
            known = ", ".join(sorted(self.runtimes))
            raise RefusedError(f"this node has no runtime '{worker.runtime}' (it has: {known})")
        reason = runtime.unavailable() if check else None
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
        endpoint = found.get("endpoint", {})
        if not isinstance(endpoint, Mapping) or endpoint.get("interface", "localhost") != "localhost":
            return transport
        return {**found, "endpoint": {**endpoint, "interface": self.loopback}}

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
        """Resolved first: a symbolic link must not lead outside."""
        path = (self.state.www / directory).resolve()
        if not any(path.is_relative_to(root.resolve()) for root in (self.state.www, *self.roots)):
            raise RuntimeConfigError(
                pointer, f"'{directory[:200]}' is neither in the agent's www folder nor in its static_roots"
            )
        if not path.is_dir():
            raise RuntimeConfigError(pointer, f"there is no folder '{directory[:200]}' on this node")
        return path


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
