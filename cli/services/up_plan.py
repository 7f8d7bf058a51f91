"""The services of `busbar up` and its state folder: secrets, accounts, a specification per service."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from busbar.bus import acl
from busbar.bus.files import FileLock, write_atomically
from busbar.bus.roles import OWNER

from ..context import DEFAULT_REALM, DEFAULT_ROOT, UP_FILE, Settings, read_up
from ..errors import CliError, ExitCode, usage
from ..settings import SECRETS

ADMIN_USER: Final = "admin"
MANAGER_USER: Final = "manager"
RESERVED: Final = frozenset({ADMIN_USER, MANAGER_USER})
"""User names at the broker that no node may have."""
LOOPBACK: Final = "127.0.0.1"
MQTT_PORT: Final = 1883


@dataclass(frozen=True, slots=True)
class Plan:
    """One `busbar up`. `outside` is the connection to an outside broker; without it one is embedded.

    `heartbeat` is seconds; `port` is what the embedded broker listens on.
    """

    state: Path
    nodes: tuple[str, ...]
    realm: str = DEFAULT_REALM
    root: str = DEFAULT_ROOT
    outside: Settings | None = None
    port: int = MQTT_PORT
    heartbeat: float = 5.0
    stop_workers: bool = False
    runtimes: Path | None = None
    static_roots: tuple[Path, ...] = ()
    log_level: str = "info"

    @property
    def url(self) -> str:
        """The broker's address."""
        outside = self.outside.broker if self.outside else None
        return outside or f"mqtt://{LOOPBACK}:{self.port}"

    def connect(self, user: str) -> Settings:
        """Connection settings of one of our users, whose secret is in a file of its name."""
        tls = {m: getattr(self.outside, m) for m in ("tls_ca", "tls_cert", "tls_key")} if self.outside else {}
        secret = str(self.state / SECRETS / user)
        return Settings(self.url, self.realm, self.root, user, secret, **tls)


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the stack. `stop_s`: seconds between SIGTERM and SIGKILL."""

    name: str
    kind: str
    spec: Mapping[str, Any]
    stop_s: float


def services(plan: Plan) -> list[Service]:
    """The processes, in the order in which they are started (all at once); they stop in reverse. Pure."""
    found = [] if plan.outside else [Service("broker", "broker", _broker(plan), 5.0)]
    found.append(Service("manager", "manager", _manager(plan), 8.0))
    stop_s = 30.0 if plan.stop_workers else 8.0
    return found + [Service(f"agent-{node}", "agent", _agent(plan, node), stop_s) for node in plan.nodes]


def _broker(plan: Plan) -> dict[str, Any]:
    return {
        "accounts": str(plan.state / "broker" / "accounts.json"),
        "port": plan.port,
        "root": plan.root,
        "realm": plan.realm,
        "log_level": plan.log_level,
    }


def _manager(plan: Plan) -> dict[str, Any]:
    return {
        **_common(plan, MANAGER_USER),
        "state": str(plan.state / "manager"),
        "mqtt": "3.1.1" if plan.outside is None else "auto",
        "heartbeat_s": plan.heartbeat,
        "principals": {ADMIN_USER: OWNER},
    }


def _agent(plan: Plan, node: str) -> dict[str, Any]:
    return {
        **_common(plan, node),
        "state": str(plan.state / "agents" / node),
        "node": node,
        "runtimes": str(plan.runtimes) if plan.runtimes else None,
        "static_roots": [str(path) for path in plan.static_roots],
        "stop_workers": plan.stop_workers,
    }


def _common(plan: Plan, user: str) -> dict[str, Any]:
    connect = {name: value for name, value in asdict(plan.connect(user)).items() if value is not None}
    return {"realm": plan.realm, "root": plan.root, "connect": connect, "log_level": plan.log_level}


# --- the folder --------------------------------------------------------------------------------------------


def private_folder(path: Path) -> Path:
    """Create a folder of mode 0700.

    Raises:
        CliError: it can't be made, or belongs to somebody else.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise CliError(f"folder {path}: {error.strerror}") from None
    return path


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state folder, so that no second `busbar up` uses it.

    Raises:
        CliError: one does.
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
    """Make secrets and accounts that are missing, and write the specifications, without secrets."""
    users = {ADMIN_USER: acl.PERSON, MANAGER_USER: acl.MANAGER, **dict.fromkeys(plan.nodes, acl.NODE)}
    for user, kind in users.items():
        secret = ensure_secret(plan.state, user)
        if plan.outside is None:
            ensure_broker_account(plan.state, user, kind, secret)
    private_folder(plan.state / "logs")
    private_folder(plan.state / "services")
    for service in services(plan):
        # Written anew at each start, so not durably.
        write_atomically(spec_path(plan.state, service), json.dumps(service.spec, indent=1), durable=False)


def ensure_secret(state: Path, user: str) -> str:
    """A user's secret: made at first use, in a file of mode 0600."""
    from busbar.bus.broker.accounts import new_secret

    path = private_folder(state / SECRETS) / user
    if not path.exists():
        write_atomically(path, new_secret() + "\n")
    return path.read_text(encoding="utf-8").strip()


def ensure_broker_account(state: Path, user: str, kind: str, secret: str) -> None:
    """Create an account of the embedded broker; an existing one is kept, which saves a slow hash."""
    from busbar.bus.broker.accounts import Accounts, ensure_account

    path = private_folder(state / "broker") / "accounts.json"
    try:
        known = Accounts.load(path).table.get(user)
        if known is None or known.kind != kind:
            ensure_account(path, user, kind, secret)
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from None


def spec_path(state: Path, service: Service) -> Path:
    """Where a service finds its specification."""
    return state / "services" / f"{service.name}.json"


def describe(plan: Plan, pids: Mapping[str, int]) -> dict[str, Any]:
    """The content of up.json: what the command line needs to connect, and the running processes. Pure."""
    mine = plan.connect(ADMIN_USER)
    tls = {m: value for m in ("tls_ca", "tls_cert", "tls_key") if (value := getattr(mine, m))}
    return {
        "broker": plan.url,
        "embedded": plan.outside is None,
        "port": None if plan.outside else plan.port,
        "realm": plan.realm,
        "root": plan.root,
        "username": ADMIN_USER,
        "password_file": mine.password_file,
        **tls,
        "nodes": list(plan.nodes),
        "heartbeat": plan.heartbeat,
        "pids": dict(pids),
    }


def write_up(plan: Plan, pids: Mapping[str, int]) -> None:
    """Write up.json."""
    text = json.dumps(describe(plan, pids), indent=1) + "\n"
    write_atomically(plan.state / UP_FILE, text, durable=False)


# --- choices -----------------------------------------------------------------------------------------------


def choose_nodes(agents: int | None, named: Sequence[str], before: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes' names: as asked for, else as last time, else one. Pure.

    Raises:
        CliError: both ways at once, a malformed name, or one twice.
    """
    from busbar.bus.topics import is_name

    if agents is not None and named:
        raise usage("say --agents or --node, not both")
    last = [str(name) for name in before.get("nodes", [])] if agents is None else []
    nodes = tuple(named) or tuple(last) or tuple(f"n{i}" for i in range(1, (agents or 1) + 1))
    for name in nodes:
        if not is_name(name) or name in RESERVED:
            raise usage(f"node name '{name}': use [a-z0-9][a-z0-9_-]{{0,63}}, and neither admin nor manager")
    if len(set(nodes)) != len(nodes):
        raise usage("a node's name stands twice")
    return nodes


def choose_port(wanted: int | None, before: Mapping[str, Any]) -> int:
    """The embedded broker's port: as asked for; else the last one, 1883, or any, whichever is free.

    Raises:
        CliError: the one asked for is taken.
    """
    if wanted:
        if not _is_free(wanted):
            raise CliError(
                f"port {wanted} of {LOOPBACK} is taken: choose another with --port, or use --broker",
                ExitCode.CONFLICT,
                "port_taken",
            )
        return wanted
    last = before.get("port")
    likely = [last, MQTT_PORT] if wanted is None else [last]
    return next((port for port in likely if isinstance(port, int) and _is_free(port)), None) or _any_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def last_time(state: Path) -> dict[str, Any]:
    """What the last `busbar up` of this folder wrote down."""
    return read_up(state)
