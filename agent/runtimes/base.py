"""The interface of a runtime: renders a worker's definition to a launch spec with its probes. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from busbar.bus.addresses import IPV4, IPV6, netloc
from busbar.bus.decode import digest
from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import Peer
from msgspec import Struct, field

from ..processes.ports import PortRequest
from ..processes.process_limits import ProcessLimits
from ..processes.users import RunAs

Transport = Mapping[str, Any]
"""The contract's shared `transport` (section 7) as decoded JSON."""


class RuntimeConfigError(Exception):
    """This runtime can't run that definition: a JSON pointer into the worker, and the reason."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


class TcpProbe(Struct, frozen=True):
    """The port accepts a connection; with `tls`, a handshake is answered with the router's certificate.

    That handshake is not finished, so no client certificate is needed. `limited` is as in `MqttProbe`.
    """

    tls: bool = False
    limited: bool = False


class HttpProbe(Struct, frozen=True):
    """A GET of `path` is answered with one of `expect` (none given: anything below 500); `tls`: https.

    `at`: host and port to ask in place of the listener's own.
    """

    path: str = "/"
    expect: tuple[int, ...] = ()
    tls: bool = False
    at: tuple[str, int] | None = None


class MqttProbe(Struct, frozen=True):
    """A CONNECT is answered by a CONNACK, even by a refusal; optionally over TLS, or WebSocket on /mqtt.

    `limited`: the router has a limit of connections, beyond which it closes a new one at once. That is an
    answer too: a router that is full is not hung.
    """

    websocket: bool = False
    tls: bool = False
    limited: bool = False


class LogProbe(Struct, frozen=True):
    """The process has logged a text (with `regex`: a line that matches a regular expression)."""

    pattern: str
    regex: bool = False


class AllProbes(Struct, frozen=True):
    """All of these, in this order."""

    probes: tuple[TcpProbe | HttpProbe | MqttProbe | LogProbe, ...]


class Question(Struct, frozen=True):
    """Where a router says something of itself, as JSON of nats-server's monitoring."""

    at: tuple[str, int]
    path: str


Probe = TcpProbe | HttpProbe | MqttProbe | LogProbe | AllProbes

Ports = Mapping[str, int]
"""The chosen port of each listener, in their order; none where a worker listens on none."""


class ListenerSpec(Struct, frozen=True):
    """Where a worker listens: `address` is the URL for clients, `interface` what it binds.

    `shared`: other workers may listen on the same port, so that a probe must find out who answers.
    """

    name: str
    address: str
    interface: str
    port: int
    probe: TcpProbe | HttpProbe | MqttProbe = TcpProbe()
    """Of one that is not the primary: asked when the worker is to be ready, and while it lives."""
    shared: bool = False

    @property
    def probe_host(self) -> str:
        """The address at which the agent itself reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.interface, self.interface)


class WorkerSpec(Struct, frozen=True):
    """A worker as assigned."""

    name: str
    oid: str
    cluster: str
    workergroup: str
    generation: int = 0
    transport: Transport | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()
    """The other workers of its group, where that is meshed."""


class LaunchSpec(Struct, frozen=True):
    """How to start one worker, and how to probe it.

    `files`: relative path to content, written into the worker's folder before the start; `remove`: relative
    paths that an earlier run may have left. `ready` is probed until it succeeds once, `live` from then on
    (None: only the process is watched). One that a signal has stopped counts as hung, whatever is probed.
    Durations in seconds. `address`, `interface`, `port` and `shared` are those of the primary listener, which
    `ready` and `live` ask; `more` are the others.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str]
    ready: Probe
    live: Probe | None
    address: str
    interface: str
    port: int
    stop_signal: int = signal.SIGTERM
    grace_s: float = 5.0
    start_deadline_s: float = 30.0
    remove: tuple[str, ...] = ()
    own_listener: bool = True
    """Whether the worker's own processes listen on the port (not if it starts a container, say)."""

    shared: bool = False
    """Whether other workers may listen on the same port, so that a probe must find out who answers."""

    peer_files: Mapping[str, str] = field(default_factory=dict)
    """Those of `files` that name its peers, as they are with the present ones; in `files` they name none, so
    that a change of peers is no change of the start. When they change they are written, and then the process
    gets `reload_signal`."""

    secrets: Mapping[str, str] = field(default_factory=dict)
    """Files with a random text for `{secret}`, which is made where there is no such file yet. No part of the
    digest, and in no report."""

    listener: str = DEFAULT
    """The name of the primary listener."""

    more: tuple[ListenerSpec, ...] = ()

    run_as: RunAs | None = None
    """The user that the process runs as and that owns its folder; None: the agent's own."""

    check: tuple[str, ...] = ()
    """The router's own checker; empty: there is none. It is run in a scratch folder with `files`, for which
    the spec is rendered once more, so that no path is one of the worker's own. Exit code 0: the router would
    accept them; else its last line becomes the reason."""

    check_refuses_with: int | None = None
    """The exit code of `check` by which it refuses, where another one tells that it could not do its work."""

    checks_starts: bool = True
    """Whether it judges first starts too; not where it takes as long as the start, which then tells."""

    references: Mapping[str, Path] = field(default_factory=dict)
    """Files of this node that the definition names, by the pointer to the member: it must be able to read
    them. No part of the digest, as their names are in `files`."""

    embedded: Mapping[str, Path] = field(default_factory=dict)
    """Files of this node whose contents are in `files`, by the pointer: the agent alone reads them."""

    reload_signal: int | None = None
    """On which the running router reads files again; None: by itself, or at its next start alone."""

    mesh: Question | None = None
    """What tells to which peers it is connected (`/routez`); None: nothing does."""

    traffic: Question | None = None
    """What tells of its clients and their messages (`/varz`); None: nothing does."""

    reloads: tuple[str, ...] = ()
    """The members that name the node's files which it reads again then."""

    memory: int | None = None
    """Bytes that it may use, all its processes together by their cgroup."""

    @property
    def digest(self) -> str:
        """Fingerprint of what the process is started with: arguments, environment, files, user and memory."""
        user = [self.run_as.name] if self.run_as is not None else []
        memory = [self.memory] if self.memory is not None else []
        return digest(list(self.argv), dict(self.env), dict(self.files), *user, *memory)

    @property
    def watched(self) -> Mapping[str, Path]:
        """All files of this node that it depends on, by the pointer to the member."""
        return {**self.embedded, **self.references}

    @property
    def listeners(self) -> tuple[ListenerSpec, ...]:
        """All of them, the primary first; none where it listens on none."""
        if not self.port:
            return ()
        own = ListenerSpec(self.listener, self.address, self.interface, self.port, shared=self.shared)
        return (own, *self.more)

    @property
    def probe_host(self) -> str:
        """The address at which the agent itself reaches the primary."""
        return ListenerSpec(self.listener, "", self.interface, self.port).probe_host

    @property
    def ports(self) -> dict[str, int]:
        """The port of each listener."""
        return {each.name: each.port for each in self.listeners}


class Runtime(Protocol):
    """A kind of program that workers run. All methods but `unavailable` are pure."""

    @property
    def name(self) -> str:
        """Its name in a worker group's `runtime`."""
        ...

    @property
    def run_as(self) -> RunAs | None:
        """The user of its workers; None: the agent's own."""
        ...

    @property
    def limits(self) -> ProcessLimits:
        """Of each of its workers' processes."""
        ...

    def unavailable(self) -> str | None:
        """Why this host can't run it (such as a program that is not installed), or None."""
        ...

    def ports_needed(self, transport: Transport | None) -> dict[str, PortRequest]:
        """The ports that each listener of a worker may use, the primary first; none where it has none.

        Raises:
            RuntimeConfigError: the transport is not for this runtime.
        """
        ...

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        """Render a worker's launch spec. `host` is the advertised address, `ports` the chosen ones.

        Raises:
            RuntimeConfigError: the definition is not for this runtime.
        """
        ...


_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,75}")
_OID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


def check_worker(worker: WorkerSpec) -> None:
    """Refuse names that could act as options, paths or extra lines once rendered.

    Raises:
        RuntimeConfigError: with the member at fault.
    """
    for member in ("name", "cluster", "workergroup"):
        if not _NAME.fullmatch(getattr(worker, member)):
            raise RuntimeConfigError(f"/{member}", "not a name of [a-z0-9][a-z0-9_-]*")
    if not _OID.fullmatch(worker.oid):
        raise RuntimeConfigError("/oid", "not an object id")


def address(scheme: str, interface: str, host: str, port: int, path: str = "") -> str:
    """A worker's URL for clients: with the node's `host` when it listens on all interfaces."""
    reached = host if interface in ("0.0.0.0", "::") else interface
    if interface == "::" and reached == IPV4:
        reached = IPV6
    return f"{scheme}://{netloc(reached, port)}{path}"
