"""The services of `busbar up`, and its state folder: secrets, accounts and a spec per service."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from busbar.bus.access import acl
from busbar.bus.addresses import IPV4, is_loopback, netloc
from busbar.bus.roles import OWNER
from busbar.bus.system.files import FileLock, read_private, write_atomically
from busbar.bus.system.log_lines import LogFormat
from busbar.bus.system.loopback import bind_error, can_bind, loopback

from ..context import DEFAULT_REALM, DEFAULT_ROOT, UP_FILE, Settings, read_up
from ..errors import CliError, ExitCode, usage
from ..settings import SECRETS
from .broker_program import not_installed
from .specs import (
    PROGRAMS,
    AgentSpec,
    BrokerProgram,
    BrokerProgramSpec,
    BrokerSpec,
    ConnectSpec,
    ManagerSpec,
    MqttVersion,
    ServiceSpec,
    WebSpec,
)
from .web import WEB_PORT, require

ADMIN_USER: Final = "admin"
MANAGER_USER: Final = "manager"
RESERVED: Final = frozenset({ADMIN_USER, MANAGER_USER})
"""User names that no node may have."""
MQTT_PORT: Final = 1883


@dataclass(frozen=True, slots=True)
class Plan:
    """One `busbar up`. `outside` is the connection to an external broker; without it the broker is our own:
    `program`, or else embedded.

    `heartbeat` is in seconds; `host` and `port` are those of our own broker. `web_port` is the page's; None:
    there is none.
    """

    state: Path
    nodes: tuple[str, ...]
    realm: str = DEFAULT_REALM
    root: str = DEFAULT_ROOT
    outside: Settings | None = None
    program: BrokerProgram | None = None
    host: str = IPV4
    port: int = MQTT_PORT
    heartbeat: float = 5.0
    mqtt: MqttVersion = "auto"
    max_packet: int | None = None
    stop_workers: bool = False
    runtimes: Path | None = None
    static_roots: tuple[Path, ...] = ()
    adopt_realm: bool = False
    web_port: int | None = None
    log_level: str = "info"
    log_format: LogFormat = "plain"
    home_assistant: str | None = None
    metrics: tuple[str, int] | None = None
    """The manager's; the nodes' agents have the next ports, in the nodes' order."""

    @property
    def url(self) -> str:
        """The broker's URL."""
        outside = self.outside.broker if self.outside else None
        return outside or f"mqtt://{netloc(self.host, self.port)}"

    @property
    def web_url(self) -> str | None:
        """Where its page is."""
        return None if self.web_port is None else f"http://{netloc(self.host, self.web_port)}/"

    @property
    def page(self) -> str | None:
        """Where its page is, and who may sign in, for people."""
        if self.web_url is None or self.outside is not None:
            return self.web_url
        return f"{self.web_url} (user {ADMIN_USER}, password in {self.state / SECRETS / ADMIN_USER})"

    @property
    def spoken(self) -> MqttVersion:
        """The MQTT version of the services; the embedded broker and nats-server have 3.1.1 alone."""
        old = self.outside is None and self.program != "mosquitto"
        return "3.1.1" if old and self.mqtt == "auto" else self.mqtt

    @property
    def service_format(self) -> LogFormat:
        """What the services write: priorities are for the journal alone; who writes to it adds them."""
        return "json" if self.log_format == "json" else "plain"

    def connect(self, user: str) -> Settings:
        """How one of our users connects; its secret is in the file of its name."""
        tls = {m: getattr(self.outside, m) for m in ("tls_ca", "tls_cert", "tls_key")} if self.outside else {}
        secret = str(self.state / SECRETS / user)
        return Settings(self.url, self.realm, self.root, user, secret, **tls)


@dataclass(frozen=True, slots=True)
class Service:
    """One child process of `busbar up`. `stop_s`: seconds between SIGTERM and SIGKILL."""

    name: str
    spec: ServiceSpec
    stop_s: float

    @property
    def kind(self) -> str:
        """That of its spec."""
        return self.spec.kind


def services(plan: Plan) -> list[Service]:
    """The services; all are started at once, and stopped agents first, the broker last. Pure."""
    found = [] if plan.outside else [Service("broker", _broker(plan), 8.0 if plan.program else 5.0)]
    found.append(Service("manager", _manager(plan), 8.0))
    if plan.web_port is not None:
        found.append(Service("web", _web(plan, plan.web_port), 5.0))
    stop_s = 45.0 if plan.stop_workers else 8.0  # nats-server takes 35 to let its clients go
    return found + [Service(f"agent-{node}", _agent(plan, node), stop_s) for node in plan.nodes]


def _broker(plan: Plan) -> BrokerSpec | BrokerProgramSpec:
    if plan.program is not None:
        return BrokerProgramSpec(
            program=plan.program,
            accounts=str(plan.state / "broker" / "accounts.json"),
            secrets=str(plan.state / SECRETS),
            manager=MANAGER_USER,
            host=plan.host,
            port=plan.port,
            root=plan.root,
            realm=plan.realm,
            home_assistant=plan.home_assistant,
            log_level=plan.log_level,
            log_format=plan.service_format,
        )
    return BrokerSpec(
        accounts=str(plan.state / "broker" / "accounts.json"),
        host=plan.host,
        port=plan.port,
        root=plan.root,
        realm=plan.realm,
        home_assistant=plan.home_assistant,
        log_level=plan.log_level,
        log_format=plan.service_format,
    )


def _manager(plan: Plan) -> ManagerSpec:
    return ManagerSpec(
        realm=plan.realm,
        root=plan.root,
        connect=ConnectSpec.of(plan.connect(MANAGER_USER)),
        state=str(plan.state / "manager"),
        mqtt=plan.spoken,
        max_packet=plan.max_packet,
        heartbeat_s=plan.heartbeat,
        principals={ADMIN_USER: OWNER},
        adopt_realm=plan.adopt_realm,
        log_level=plan.log_level,
        log_format=plan.service_format,
        metrics=plan.metrics,
        home_assistant=plan.home_assistant,
    )


def _web(plan: Plan, port: int) -> WebSpec:
    """The page: who opens it is its user."""
    tls_ca = plan.outside.tls_ca if plan.outside else None
    connect = ConnectSpec(broker=plan.url, realm=plan.realm, root=plan.root, tls_ca=tls_ca)
    return WebSpec(
        realm=plan.realm,
        root=plan.root,
        connect=connect,
        host=plan.host,
        port=port,
        log_level=plan.log_level,
        log_format=plan.service_format,
    )


def _agent(plan: Plan, node: str) -> AgentSpec:
    return AgentSpec(
        mqtt=plan.spoken,
        max_packet=plan.max_packet,
        realm=plan.realm,
        root=plan.root,
        connect=ConnectSpec.of(plan.connect(node)),
        state=str(plan.state / "agents" / node),
        node=node,
        runtimes=str(plan.runtimes) if plan.runtimes else None,
        static_roots=[str(path) for path in plan.static_roots],
        stop_workers=plan.stop_workers,
        log_level=plan.log_level,
        log_format=plan.service_format,
        metrics=_after(plan.metrics, 1 + plan.nodes.index(node)),
    )


def _after(address: tuple[str, int] | None, count: int) -> tuple[str, int] | None:
    """So many ports on; any free one where the first is."""
    return address and (address[0], address[1] and address[1] + count)


# --- the state folder --------------------------------------------------------------------------------------


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can access.

    Raises:
        CliError: it can't be created, or belongs to another user.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
        if {path.lstat().st_uid, found.st_uid} != {os.geteuid()}:
            raise CliError(
                f"folder {path} belongs to another user: what is in it may be planted; if it is a service's,"
                " run this as its user (sudo -u USER)"
            )
        if found.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise CliError(f"folder {path}: {error.strerror}") from None
    return path


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the lock of the state folder.

    Raises:
        CliError: another `busbar up` holds it.
    """
    lock = FileLock(private_folder(state) / "up.lock")
    if not lock.take():
        raise CliError(
            f"another 'busbar up' (pid {lock.holder()}) runs on {state}: stop it, or use --state",
            ExitCode.CONFLICT,
            "already_running",
        )
    try:
        lock.write_pid()
        yield
    finally:
        lock.release()


def prepare(plan: Plan) -> None:
    """Create missing secrets and accounts, and write the specs."""
    users = {ADMIN_USER: acl.PERSON, MANAGER_USER: acl.MANAGER, **dict.fromkeys(plan.nodes, acl.NODE)}
    for user, kind in users.items():
        secret = ensure_secret(plan.state, user)
        if plan.outside is None:
            ensure_broker_account(plan.state, user, kind, secret)
    private_folder(plan.state / "logs")
    private_folder(plan.state / "services")
    for service in services(plan):
        text = msgspec.json.format(msgspec.json.encode(service.spec), indent=1)
        # Rewritten at each start, so not durably.
        write_atomically(spec_path(plan.state, service), text.decode(), durable=False)


def ensure_secret(state: Path, user: str) -> str:
    """A user's secret, created at first use in a file of mode 0600.

    Raises:
        CliError: it can't be read or written, or somebody else may have written it.
    """
    from busbar.bus.broker.accounts import new_secret

    path = private_folder(state / SECRETS) / user
    try:
        if (known := read_private(path)) is None:
            write_atomically(path, (known := new_secret()) + "\n")
    except OSError as error:
        raise CliError(f"secret {error.strerror or error}") from None
    return known.strip()


def ensure_broker_account(state: Path, user: str, kind: str, secret: str) -> None:
    """Create an account of the embedded broker; an existing one is kept, which saves hashing."""
    from busbar.bus.broker.accounts import Accounts, ensure_account

    path = private_folder(state / "broker") / "accounts.json"
    try:
        known = Accounts.load(path).table.get(user)
        if known is None or known.kind != kind:
            ensure_account(path, user, kind, secret)
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from None


def spec_path(state: Path, service: Service) -> Path:
    """The file of a service's spec."""
    return state / "services" / f"{service.name}.json"


def up_state(plan: Plan, pids: Mapping[str, int]) -> dict[str, object]:
    """The content of up.json: what the command line needs to connect, and the pids. Pure."""
    mine = plan.connect(ADMIN_USER)
    tls = {m: value for m in ("tls_ca", "tls_cert", "tls_key") if (value := getattr(mine, m))}
    return {
        "broker": plan.url,
        "embedded": plan.outside is None and plan.program is None,
        "program": plan.program,
        "host": None if plan.outside else plan.host,
        "port": None if plan.outside else plan.port,
        "realm": plan.realm,
        "root": plan.root,
        "username": ADMIN_USER,
        "password_file": mine.password_file,
        **tls,
        "page": plan.web_url,
        "web_port": plan.web_port,
        "nodes": list(plan.nodes),
        "heartbeat": plan.heartbeat,
        "pids": dict(pids),
    }


def write_up(plan: Plan, pids: Mapping[str, int]) -> None:
    """Write up.json."""
    text = json.dumps(up_state(plan, pids), indent=1) + "\n"
    write_atomically(plan.state / UP_FILE, text, durable=False)


# --- defaults ----------------------------------------------------------------------------------------------


def choose_nodes(agents: int | None, named: Sequence[str], last_up: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes' names: as given, else as last time, else one. Pure.

    Raises:
        CliError: both options are given, or a name is malformed or repeated.
    """
    from busbar.bus.topics import is_name

    if agents is not None and named:
        raise usage("use --agents or --node, not both")
    last = [str(name) for name in last_up.get("nodes", [])] if agents is None else []
    nodes = tuple(named) or tuple(last) or tuple(f"n{i}" for i in range(1, (agents or 1) + 1))
    for name in nodes:
        if not is_name(name) or name in RESERVED:
            raise usage(f"node name '{name}': use [a-z0-9][a-z0-9_-]{{0,63}}, and neither admin nor manager")
    if len(set(nodes)) != len(nodes):
        raise usage("duplicate node name")
    return nodes


def choose_program(given: str | None, last_up: Mapping[str, Any], outside: bool) -> BrokerProgram | None:
    """The broker's program: as given, else the last one; None for the embedded broker, or one outside.

    Raises:
        CliError: one is given together with an outside broker, or it is not installed.
    """
    if outside:
        if given is not None:
            raise usage("use --broker-program or --broker, not both")
        return None
    wanted = given or last_up.get("program")
    for program in PROGRAMS:
        if program == wanted:
            if missing := not_installed(program):
                raise CliError(missing, ExitCode.FAILED, "not_installed")
            return program
    return None


def choose_host(given: str | None, last_up: Mapping[str, Any]) -> str:
    """The embedded broker's address: as given, else the last one, else this host's loopback address.

    Raises:
        CliError: it is not a loopback address of this host.
    """
    last = last_up.get("host")
    host = given or (last if isinstance(last, str) and can_bind(last) else loopback())
    host = loopback() if host == "localhost" else host
    if not is_loopback(host):
        raise usage(
            f"--host {host}: the broker of 'busbar up' listens on loopback only, such as 127.0.0.1 or ::1"
        )
    if not can_bind(host):
        raise CliError(f"--host {host}: this host has no such address")
    return host


def choose_port(host: str, given: int | None, last_up: Mapping[str, Any]) -> int:
    """The embedded broker's port: as given, else the first free one of the last, 1883 and any.

    Raises:
        CliError: the given one is taken, or may not be bound.
    """
    if given:
        error = bind_error(host, given)
        if error is not None and error.errno != errno.EADDRINUSE:
            raise CliError(
                f"can't listen on port {given} of {host}: {error.strerror}; see --port and --broker"
            )
        if error is not None:
            raise CliError(
                f"port {given} of {host} is taken: choose another with --port, or use --broker",
                ExitCode.CONFLICT,
                "port_taken",
            )
        return given
    last = last_up.get("port")
    preferred = [last, MQTT_PORT] if given is None else [last]
    return next(
        (port for port in preferred if isinstance(port, int) and can_bind(host, port)), None
    ) or _any_port(host)


def choose_web_port(host: str, last_up: Mapping[str, Any]) -> int:
    """The page's port: the first free one of the last, 8780 and any.

    Raises:
        CliError: the extra that it needs is not installed.
    """
    require()
    known = (last_up.get("web_port"), WEB_PORT)
    return next((p for p in known if isinstance(p, int) and can_bind(host, p)), None) or _any_port(host)


def _any_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def read_last_up(state: Path) -> dict[str, Any]:
    """What the last `busbar up` of this folder has written to up.json."""
    return read_up(state)
