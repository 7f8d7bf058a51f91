"""Runtime `nats`: nats-server as a router worker, which makes one router of the workers of its group. Pure
except `unavailable`.

A listener of type `cluster` makes it a member of a cluster. Without one it runs alone: a member serves no
MQTT until a majority is there. Which other members there are is in a file of its own, which nats-server reads
again at SIGHUP.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from busbar.bus.access.nats_text import nats_text
from busbar.bus.addresses import IPV4, IPV6, netloc
from busbar.bus.listeners import listeners_of
from busbar.bus.messages import Peer
from busbar.bus.routers.router_options import (
    NATS_CLIENT,
    NATS_MONITORING,
    NATS_MQTT,
    NATS_SYSTEM,
    NatsOptions,
    nats_options,
    tail,
)
from busbar.bus.system.programs import find_program
from msgspec import UNSET, Struct

from ..processes.ports import DEFAULT_HIGH, DEFAULT_LOW, PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import (
    HttpProbe,
    LaunchSpec,
    ListenerSpec,
    Ports,
    Question,
    RuntimeConfigError,
    Transport,
    WorkerSpec,
    address,
    check_worker,
)
from .programs import why_not_runnable
from .transport import ROOT, TlsFiles, checked_transport, path_below, port_requests, refusals, tls_files

TYPES = ("mqtt", "websocket", "nats")
LISTENERS = ("mqtt", "websocket", "nats", "cluster")
CONFIG = "nats.conf"
ROUTES = "routes.conf"
SYSTEM = "system.conf"
"""Who may enter the system account, by which members of a cluster leave it and are removed: the agent alone,
by a password that is made on this node and stays in the worker's folder."""
SYSTEM_USER: Final = "busbar"
_SYSTEM: Final = f'user: "{SYSTEM_USER}"\npassword: "{{secret}}"\naccount: "$SYS"\n'
RELOADED = ("certificate", "key", "client_ca", "auth_file")
"""What nats-server reads again on SIGHUP: all of a listener's TLS, and what it includes."""
API_TIMEOUT: Final = "2s"
"""After this a request that no leader has heard fails, and its client may ask again. With nats-server's 5 s a
client waits 5.2 s where the next leader is there after 0.2; with 1 s, requests fail on a loaded host."""
ACK_WAIT: Final = "10s"
"""After this, and not with a new connection, a message comes again that is not acknowledged, also where it or
its acknowledgement was lost with the worker that led the subscription. nats-server's 30 s are long for such
a message; after 5 s, what was acknowledged during an election would come again."""
MAX_ACK_PENDING: Final = 256
"""Messages on their way to one subscription: a client that takes up to 39 ms for each gets none twice. With
nats-server's 1024 it may take 10 ms."""
ROUTE_PINGS: Final = {"ping_interval": "3s", "ping_max": 2}
"""A route that answers none of so many is closed, and made anew each second. One that is kept through an
interrupted network for longer waits for TCP, which sends again after up to as long as it was interrupted."""
LAME_DUCK_S: Final = 30
"""Within which it ends the connections of its clients, one after the other; it accepts no less."""
REPORTS: Final = 300
"""Of so many failed attempts to connect to another worker one is logged."""
ROUTE: Final = "nats-route"
MAX_MEMORY: Final = 64 * 2**20
MAX_FILE: Final = 10 * 2**30
"""JetStream's limits; nats-server would take most of the host's memory and disk."""
_SCHEMES: Final = {"mqtt": "mqtt", "websocket": "ws", "nats": "nats", "cluster": ROUTE, "leaf": "nats-leaf"}
_UP: Final = "/healthz?js-server-only=true"
"""It listens. Whether there is a majority says nothing about this worker: to kill it would not help."""
_CURRENT: Final = "/healthz"
"""It also has all messages that it should have, so that the next one may be renewed."""
_ABOVE: Final = "../" * 64
"""nats-server takes what it includes for relative to the file; this is the root folder in any case."""


class NatsRuntime(Struct, frozen=True):
    """`store_root`: where messages outlive their worker's assignment; None: in each worker's own folder."""

    program: str = "nats-server"
    secrets_root: Path | None = None
    store_root: Path | None = None
    name: str = "nats"
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return why_not_runnable(self.program, sys.executable)

    def ports_needed(self, transport: Transport | None) -> dict[str, PortRequest]:
        """See `Runtime`. Those that its transport names, and those that it has besides."""
        plain = checked_transport(transport, TYPES)
        requests = port_requests(plain, LISTENERS, may_share=False, tls=True)
        kinds = {each.kind for each in listeners_of(plain).values()}
        loopback = IPV6 if ":" in next(iter(requests.values())).interface else IPV4
        own = PortRequest(DEFAULT_LOW, DEFAULT_HIGH, interface=loopback)
        if "nats" not in kinds:
            requests[NATS_CLIENT] = own
        # Without a listener of its own nats-server serves no MQTT over WebSocket either.
        if "websocket" in kinds and "mqtt" not in kinds:
            requests[NATS_MQTT] = own
        requests[NATS_MONITORING] = own
        if "cluster" in kinds:
            requests[NATS_SYSTEM] = own
        return requests

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        with refusals():
            options = nats_options(plain, ROOT)
        auth = self._auth(options)
        bound = self._bound(plain, ports, host)
        kinds = {each.kind: each for each in bound.values()}
        cluster = kinds.get("cluster")
        monitoring = (kinds["http"].interface, kinds["http"].port)
        up = HttpProbe(_UP, (200,), at=monitoring)
        known = cluster is not None and any(map(route_of, worker.peers))
        first, *more = (each.spec(up) for each in bound.values())
        program = find_program(self.program, sys.executable) or self.program
        config = Config(worker, options, kinds, self._store(worker, folder, cluster is not None), auth)
        return LaunchSpec(
            argv=(program, "-c", str(folder / CONFIG)),
            env={},
            files={CONFIG: config.text(), **config.routes()},
            peer_files=config.routes(worker.peers),
            secrets={SYSTEM: _SYSTEM} if cluster is not None else {},
            reload_signal=signal.SIGHUP,
            reloads=RELOADED,
            mesh=Question(monitoring, "/routez") if cluster is not None else None,
            traffic=Question(monitoring, "/varz"),
            ready=HttpProbe(_CURRENT, (200,), at=monitoring) if known else up,
            live=up,
            address=first.address,
            run_as=self.run_as,
            interface=first.interface,
            port=first.port,
            listener=first.name,
            more=tuple(more),
            # Alone it would take its clients' last messages without an acknowledgement.
            stop_signal=signal.SIGUSR2 if cluster else signal.SIGTERM,
            grace_s=LAME_DUCK_S + 5.0 if cluster else 10.0,
            start_deadline_s=60.0,
            check=(program, "-t", "-c", str(folder / CONFIG)),
            check_refuses_with=1,
            references=_references(bound, auth),
        )

    def _bound(self, plain: Transport, ports: Ports, host: str) -> dict[str, Bound]:
        """All listeners by name: those of the transport in their order, then those that it has besides."""
        given = listeners_of(plain)
        own = {NATS_CLIENT: "nats", NATS_MQTT: "mqtt", NATS_MONITORING: "http", NATS_SYSTEM: "leaf"}
        bound = {}
        for name, request in self.ports_needed(plain).items():
            listener = given.get(name)
            tls = tls_files(listener, self.secrets_root) if listener else None
            kind = listener.kind if listener else own[name]
            bound[name] = Bound(name, kind, request.interface, ports[name], host, tls)
        return bound

    def _auth(self, options: NatsOptions) -> Path | None:
        if options.auth_file is UNSET or not options.auth_file:
            return None
        return path_below(self.secrets_root, options.auth_file, f"{ROOT}/options/auth_file", "secrets_root")

    def _store(self, worker: WorkerSpec, folder: Path, clustered: bool) -> Path:
        """Where its messages are. Those of one that ran alone are deleted by a cluster that it joins."""
        root = folder if self.store_root is None else self.store_root / worker.cluster / worker.name
        # A member is known to the others by its name, also after its end.
        return root / (f"cluster-{tail(worker.oid)}" if clustered else "alone")


class Bound(Struct, frozen=True):
    """A listener with its port."""

    name: str
    kind: str
    interface: str
    port: int
    host: str
    tls: TlsFiles | None

    @property
    def listen(self) -> str:
        """As nats-server's configuration has it."""
        return netloc(self.interface, self.port)

    @property
    def url(self) -> str:
        """As others reach it."""
        scheme = _SCHEMES.get(self.kind, self.kind)
        if self.tls is not None:
            scheme = {"mqtt": "mqtts", "ws": "wss", "nats": "tls"}.get(scheme, scheme)
        # Elsewhere it speaks the protocol of NATS over WebSocket.
        path = "/mqtt" if self.kind == "websocket" else ""
        return address(scheme, self.interface, self.host, self.port, path)

    @property
    def advertised(self) -> str:
        """Host and port by which others reach it."""
        return self.url.partition("://")[2].partition("/")[0]

    def spec(self, up: HttpProbe) -> ListenerSpec:
        """For the agent, which asks `up`: that a client breaks off is an error in nats-server's log."""
        return ListenerSpec(self.name, self.url, self.interface, self.port, up)


def server_name(worker: WorkerSpec) -> str:
    """A member's name in its cluster. One that has left can't come back within minutes, so that the next
    worker of that name is another member."""
    return f"{worker.name}.{tail(worker.oid)}"


def route_of(peer: Peer) -> str | None:
    """Where the other worker expects routes; None while that is not known."""
    found = (url for url in peer.listeners.values() if url.startswith(f"{ROUTE}://"))
    return next(found, None)


def routes(own: str, peers: tuple[Peer, ...], members: int) -> list[str]:
    """The routes of a worker, its own address included: without any, nats-server does not start.

    A cluster that is new takes their number for that of its members, a majority of which elects its first
    leader. So those that are not known yet count too, by addresses where nobody listens.
    """
    known = sorted(url for url in map(route_of, peers) if url is not None)
    missing = max(0, members - 1 - len(known))
    return [own, *known, *(f"{ROUTE}://{IPV4}:{port}" for port in range(1, missing + 1))]


class Config(Struct, frozen=True):
    """A worker's configuration. `bound`: its listeners by kind."""

    worker: WorkerSpec
    options: NatsOptions
    bound: Mapping[str, Bound]
    store: Path
    auth: Path | None

    def text(self) -> str:
        """All that a running one can't get otherwise."""
        return "\n".join([*self._lines(), ""])

    def routes(self, peers: tuple[Peer, ...] = ()) -> dict[str, str]:
        """The file that names the other members; none where it runs alone."""
        cluster = self.bound.get("cluster")
        if cluster is None:
            return {}
        return {ROUTES: _entry("routes", routes(cluster.url, peers, self.options.members)) + "\n"}

    def _lines(self) -> Iterator[str]:
        client, options = self.bound["nats"], self.options
        yield _entry("server_name", server_name(self.worker) if "cluster" in self.bound else self.worker.name)
        yield _entry("listen", client.listen)
        yield _entry("client_advertise", client.advertised)
        yield _entry("http", self.bound["http"].listen)
        if client.tls is not None:
            yield _entry("tls", _tls(client.tls))
        for name in ("max_connections", "max_payload"):
            if (value := getattr(options, name)) is not UNSET:
                yield _entry(name, value)
        yield _entry("jetstream", self._jetstream())
        yield from self._clients()
        if "cluster" in self.bound:
            yield from self._cluster(self.bound["cluster"])
        if self.auth is not None:
            yield f"include {_json(_ABOVE + str(self.auth).lstrip('/'))}"

    def _jetstream(self) -> dict[str, Any]:
        limit = {"max_mem": self.options.max_memory, "max_file": self.options.max_file}
        default = {"max_mem": MAX_MEMORY, "max_file": MAX_FILE}
        given = {name: default[name] if value is UNSET else value for name, value in limit.items()}
        return {"store_dir": str(self.store), **given}

    def _clients(self) -> Iterator[str]:
        mqtt, websocket = self.bound.get("mqtt"), self.bound.get("websocket")
        if websocket is not None:
            tls = {"no_tls": True} if websocket.tls is None else {"tls": _tls(websocket.tls)}
            yield _entry("websocket", {"listen": websocket.listen, "advertise": websocket.advertised, **tls})
        if mqtt is None:
            return
        given: dict[str, Any] = {"js_api_timeout": API_TIMEOUT, "listen": mqtt.listen, "ack_wait": ACK_WAIT}
        if mqtt.tls is not None:
            given["tls"] = _tls(mqtt.tls)
        pending = self.options.max_ack_pending
        given["max_ack_pending"] = MAX_ACK_PENDING if pending is UNSET else pending
        if "cluster" in self.bound:
            given["stream_replicas"] = self.options.replicas
        yield _entry("mqtt", given)

    def _cluster(self, cluster: Bound) -> Iterator[str]:
        given: dict[str, Any] = {
            "name": f"{self.worker.cluster}-{self.worker.workergroup}",
            "listen": cluster.listen,
            "advertise": cluster.advertised,
            **ROUTE_PINGS,
        }
        if cluster.tls is not None:
            given["tls"] = _tls(cluster.tls)
        yield _entry("cluster", given, include=ROUTES)
        leaf = {"listen": self.bound["leaf"].listen, "no_advertise": True}
        yield f"leafnodes: {_json(leaf)[:-1]}, authorization: {{ include {_json(SYSTEM)} }} }}"
        # It tries each second; a worker that is away would fill the logs of the others.
        yield _entry("connect_error_reports", REPORTS)
        yield _entry("reconnect_error_reports", REPORTS)
        yield _entry("lame_duck_duration", f"{LAME_DUCK_S}s")
        # None would be 10 s, in which its MQTT clients get no answer.
        yield _entry("lame_duck_grace_period", "100ms")


def _tls(tls: TlsFiles) -> dict[str, Any]:
    given: dict[str, Any] = {
        "cert_file": str(tls.certificate),
        "key_file": str(tls.key),
        "min_version": tls.min_version,
        "timeout": 5,
    }
    if tls.client_ca is not None:
        given |= {"ca_file": str(tls.client_ca), "verify": True}
    return given


def _entry(name: str, value: Any, include: str | None = None) -> str:
    """A line of nats-server's configuration, which takes JSON but for its escapes of characters."""
    if include is None:
        return f"{name}: {_json(value)}"
    return f"{name}: {_json(value)[:-1]}, include {_json(include)} }}"


def _json(value: Any) -> str:
    try:
        return nats_text(value)
    except ValueError:
        raise RuntimeConfigError(
            ROOT, "the path of one of its files or folders has a control character"
        ) from None


def _references(bound: Mapping[str, Bound], auth: Path | None) -> dict[str, Path]:
    found = {at: path for each in bound.values() if each.tls for at, path in each.tls.references.items()}
    return found | ({f"{ROOT}/options/auth_file": auth} if auth else {})
