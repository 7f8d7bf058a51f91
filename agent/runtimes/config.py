"""The `[runtimes]` table of the agent's configuration: every runtime this node has.

[runtimes.amqtt]                      # built in; also secrets_root
user = "router"                       # of any runtime: run its workers as this user (the agent is root)
[runtimes.mosquitto]                  # program, secrets_root
[runtimes.crossbar]                   # program, static_root, secrets_root, proxy_to = ["127.0.0.1:9000"]
[runtimes.nats]                       # program, secrets_root, store_root
[runtimes.echo]                       # any other name is an exec runtime
argv = ["/usr/bin/echod", "--port", "{port}", "--config", "{folder}/echo.conf"]
check = ["/usr/bin/echod", "-t", "{folder}/echo.conf"]  # 0: the program would start with these files
version = ["/usr/bin/echod", "--version"]      # asked once per program file, and reported
transport_schema = "/etc/busbar/echo.json"     # JSON Schema of the transports it accepts
config_file = "echo.conf"
config_template = "bind {host}:{port}"
port = true                           # false: listens on none
own_listener = true                   # false: others hold its port, such as a container's proxy
anonymous = false                     # true: it lets everybody in, which the transport then has to allow
scheme = "tcp"                        # of its address; path is appended
types = ["tcp"]                       # transport types it accepts; none: any
ready = {type = "log", pattern = "listening"}   # or tcp, http (path, expect), mqtt; log: regex = true
live = {type = "tcp"}                 # asked while it runs; none: as ready, unless that is a log line
stop_signal = "SIGTERM"
grace = 5                             # seconds
start_deadline = 30                   # seconds
env = {MODE = "quiet"}
[runtimes.echo.limits]                # of each worker's process; any runtime may have them
nofile = 4096                         # open files
memory = "512M"                       # data of one process; also bytes, K, G
nice = 5
cpus = [0, 1]
"""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, TypeVar

from busbar.bus.decode import convert, parse
from busbar.bus.errors import BusError
from busbar.bus.json_schema import MAX_SCHEMA, mistakes
from busbar.bus.routers.runtimes import BUILT_IN
from busbar.bus.system.regular_files import read_regular
from msgspec import UNSET, Meta, Struct, UnsetType

from ..processes.process_limits import NO_LIMITS, ProcessLimits, as_bytes
from ..processes.run_as import run_as
from ..processes.users import RunAs
from .amqtt import AmqttRuntime
from .base import HttpProbe, LogProbe, MqttProbe, Probe, Runtime, TcpProbe
from .crossbar import CrossbarRuntime
from .exec import FIELDS, PEER_FIELDS, TEMPLATE_FIELDS, ExecRuntime, unknown_fields, unknown_peer_fields
from .mosquitto import MosquittoRuntime
from .nats import NatsRuntime
from .proxying import Targets, targets

CROSSBAR_VARIABLE: Final = "BUSBAR_CROSSBAR"
"""Environment variable naming the crossbar program where the configuration does not."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSAFE_VARIABLES: Final = ("BUSBAR_", "SPT_")
T = TypeVar("T")

Text = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+(?![\s\S])")]
Cpu = Annotated[int, Meta(ge=0, le=4095)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]


class RuntimesError(ValueError):
    """A mistake in the `[runtimes]` table: where (`runtimes.echo.argv`) and what."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where


class LimitsTable(Struct, frozen=True, forbid_unknown_fields=True):
    """`limits` of a runtime: see `ProcessLimits`."""

    nofile: Annotated[int, Meta(ge=16, le=1 << 30)] | None = None
    memory: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | Text | None = None
    nice: Annotated[int, Meta(ge=-20, le=19)] | None = None
    cpus: Annotated[list[Cpu], Meta(min_length=1, max_length=4096)] | None = None


class _Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the table of each runtime may have."""

    user: Text | None = None
    limits: LimitsTable = LimitsTable()


class AmqttTable(_Table, frozen=True, kw_only=True):
    """`[runtimes.amqtt]`"""

    secrets_root: Text | None = None


class MosquittoTable(_Table, frozen=True, kw_only=True):
    """`[runtimes.mosquitto]`"""

    program: Text = "mosquitto"
    secrets_root: Text | None = None


class CrossbarTable(_Table, frozen=True, kw_only=True):
    """`[runtimes.crossbar]`"""

    program: Text | None = None
    static_root: Text | None = None
    secrets_root: Text | None = None
    proxy_to: list[Text] = []


class NatsTable(_Table, frozen=True, kw_only=True):
    """`[runtimes.nats]`; below `store_root` are the workers' messages, in their own folders without it."""

    program: Text = "nats-server"
    secrets_root: Text | None = None
    store_root: Text | None = None


class TcpTable(Struct, frozen=True, forbid_unknown_fields=True, tag="tcp"):
    """`{type = "tcp"}`"""


class MqttTable(Struct, frozen=True, forbid_unknown_fields=True, tag="mqtt"):
    """`{type = "mqtt"}`"""


class HttpTable(Struct, frozen=True, forbid_unknown_fields=True, tag="http"):
    """`{type = "http"}`; `expect`: statuses, none for anything below 500."""

    path: Annotated[str, Meta(pattern=r"^/[!-~]*(?![\s\S])", description="a URL path")] = "/"
    expect: list[Annotated[int, Meta(ge=100, le=599)]] = []


class LogTable(Struct, frozen=True, forbid_unknown_fields=True, tag="log"):
    """`{type = "log"}`"""

    pattern: Text
    regex: bool = False


ProbeTable = TcpTable | MqttTable | HttpTable | LogTable


class ExecTable(_Table, frozen=True, kw_only=True):
    """The table of any other name."""

    argv: Annotated[list[str], Meta(min_length=1)]
    check: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    version: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    transport_schema: Text | None = None
    config_file: Text | None = None
    config_template: str | UnsetType = UNSET
    env: dict[str, Any] = {}
    port: bool = True
    own_listener: bool = True
    anonymous: bool = False
    scheme: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9+.-]{0,31}(?![\s\S])")] = "tcp"
    path: str = ""
    types: list[str] = []
    ready: ProbeTable | None = None
    live: ProbeTable | None = None
    stop_signal: str = "SIGTERM"
    peer_format: Text = "{host}:{port}"
    peer_separator: str = ","
    reload: str | None = None
    grace: Seconds = 5.0
    start_deadline: Seconds = 30.0


def load_runtimes(config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> dict[str, Runtime]:
    """Every runtime of this node by name: the built-in ones always, then the operator's.

    `config` is the `[runtimes]` table. Whether a runtime can run here, `unavailable()` tells.

    Raises:
        RuntimesError: the first mistake found.
    """
    own = {name: table for name, table in config.items() if name not in BUILT_IN}
    runtimes: list[Runtime] = [
        _amqtt(_read(config, "amqtt", AmqttTable)),
        _mosquitto(_read(config, "mosquitto", MosquittoTable)),
        _crossbar(_read(config, "crossbar", CrossbarTable), os.environ if environ is None else environ),
        _nats(_read(config, "nats", NatsTable)),
    ]
    runtimes += [_exec(name, _read(own, name, ExecTable)) for name in own]
    return {runtime.name: runtime for runtime in runtimes}


def _read(config: Mapping[str, Any], name: str, kind: type[T]) -> T:
    if not _NAME.fullmatch(name):
        raise RuntimesError(f"runtimes.{name}", "a runtime's name is made of [a-z0-9][a-z0-9_-]*")
    try:
        return convert(config.get(name, {}), kind)
    except BusError as error:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in error.pointers[0].split("/")[1:]]
        where = ".".join(["runtimes", name, *steps])
        raise RuntimesError(where, error.detail.replace("object", "table")) from None


def _wrong(name: str, key: str, what: str) -> RuntimesError:
    return RuntimesError(f"runtimes.{name}.{key}", what)


def _folder(name: str, key: str, given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given)
    if not path.is_absolute() or ".." in path.parts:
        raise _wrong(name, key, "must be an absolute path without '..'")
    return path


def _user(name: str, given: str | None) -> RunAs | None:
    try:
        return None if given is None else run_as(given)
    except ValueError as error:
        raise _wrong(name, "user", str(error)) from error


def _limits(name: str, given: LimitsTable) -> ProcessLimits:
    if given == LimitsTable():
        return NO_LIMITS
    try:
        memory = as_bytes(given.memory) if isinstance(given.memory, str) else given.memory
    except ValueError as error:
        raise _wrong(name, "limits.memory", str(error)) from None
    if given.nice is not None and given.nice < 0 and os.geteuid() != 0:
        raise _wrong(name, "limits.nice", "below 0 only an agent that runs as root can start them")
    cpus = set(given.cpus or ())
    if cpus and not cpus & os.sched_getaffinity(0):
        raise _wrong(name, "limits.cpus", "this host has none of them")
    return ProcessLimits(given.nofile, memory, given.nice, tuple(sorted(cpus)))


def _amqtt(table: AmqttTable) -> AmqttRuntime:
    return AmqttRuntime(
        _folder("amqtt", "secrets_root", table.secrets_root),
        run_as=_user("amqtt", table.user),
        limits=_limits("amqtt", table.limits),
    )


def _mosquitto(table: MosquittoTable) -> MosquittoRuntime:
    given = _user("mosquitto", table.user)
    # mosquitto gives up root by itself, and could then not write into the worker's folder.
    root = given is None and os.geteuid() == 0
    return MosquittoRuntime(
        table.program,
        _folder("mosquitto", "secrets_root", table.secrets_root),
        pwd.getpwuid(0).pw_name if root else None,
        run_as=given,
        limits=_limits("mosquitto", table.limits),
    )


def _crossbar(table: CrossbarTable, environ: Mapping[str, str]) -> CrossbarRuntime:
    return CrossbarRuntime(
        table.program or environ.get(CROSSBAR_VARIABLE) or "crossbar",
        _folder("crossbar", "static_root", table.static_root),
        run_as=_user("crossbar", table.user),
        limits=_limits("crossbar", table.limits),
        secrets_root=_folder("crossbar", "secrets_root", table.secrets_root),
        proxy_to=_targets(table.proxy_to),
    )


def _targets(given: list[str]) -> Targets:
    try:
        return targets(given)
    except ValueError as error:
        raise _wrong("crossbar", "proxy_to", str(error)) from None


def _nats(table: NatsTable) -> NatsRuntime:
    return NatsRuntime(
        table.program,
        _folder("nats", "secrets_root", table.secrets_root),
        _folder("nats", "store_root", table.store_root),
        run_as=_user("nats", table.user),
        limits=_limits("nats", table.limits),
    )


def _exec(name: str, table: ExecTable) -> ExecRuntime:
    ready = _ready(name, table)
    return ExecRuntime(
        name=name,
        argv=_argv(name, "argv", table.argv),
        check=() if table.check is UNSET else _argv(name, "check", table.check),
        version=() if table.version is UNSET else _plain_argv(name, "version", table.version),
        transport_schema=_schema(name, table.transport_schema),
        ready=ready,
        live=_live(name, table, ready),
        env=_env(name, table.env),
        config_file=_config_file(name, table),
        config_template=table.config_template or "",
        listens=table.port,
        own_listener=table.own_listener,
        anonymous=table.anonymous,
        scheme=table.scheme,
        path=table.path,
        types=tuple(table.types),
        stop_signal=_signal(name, "stop_signal", table.stop_signal),
        peer_format=_peer_format(name, table),
        peer_separator=table.peer_separator,
        reload_signal=None if table.reload is None else _signal(name, "reload", table.reload),
        grace_s=table.grace,
        start_deadline_s=table.start_deadline,
        run_as=_user(name, table.user),
        limits=_limits(name, table.limits),
    )


def _argv(name: str, key: str, argv: list[str]) -> tuple[str, ...]:
    if not argv[0]:
        raise _wrong(name, key, "must be a list of strings, the program first")
    if "{" in argv[0]:
        raise _wrong(name, key, "the program's own name takes no field")
    for piece in argv:
        _check_fields(name, key, piece, FIELDS)
    return tuple(argv)


def _plain_argv(name: str, key: str, argv: list[str]) -> tuple[str, ...]:
    """A command that is run for the runtime, not for a worker: it has no fields."""
    if not argv[0] or any("\0" in piece for piece in argv):
        raise _wrong(name, key, "must be a list of strings, the program first")
    return tuple(argv)


def _schema(name: str, given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    path = _folder(name, "transport_schema", given)
    assert path is not None
    try:
        content = read_regular(path, MAX_SCHEMA)
        found = parse(content, MAX_SCHEMA)
    except OSError as error:
        raise _wrong(name, "transport_schema", f"can't read {path}: {error.strerror or error}") from None
    except BusError as error:
        raise _wrong(name, "transport_schema", f"{path}: {error.detail}") from None
    for mistake in mistakes(found):
        raise _wrong(name, "transport_schema", f"{path}: {mistake}")
    return found


def _check_fields(name: str, key: str, template: str, known: tuple[str, ...]) -> None:
    if "\0" in template:
        raise _wrong(name, key, "has a NUL character")
    for field in unknown_fields(template, known):
        raise _wrong(
            name, key, f"unknown field {{{field}}} (known: {', '.join(known)}; {{{{{field}}}}} for the text)"
        )


def _config_file(name: str, table: ExecTable) -> str | None:
    file = table.config_file
    if file is None:
        if table.config_template is not UNSET:
            raise _wrong(name, "config_template", "needs a config_file to be written to")
        return None
    if file.startswith("/") or ".." in PurePosixPath(file).parts or PurePosixPath(file).parts == ():
        raise _wrong(name, "config_file", "must be a relative path inside the worker's folder")
    _check_fields(name, "config_template", table.config_template or "", TEMPLATE_FIELDS)
    return file


def _env(name: str, env: Mapping[str, Any]) -> dict[str, str]:
    for variable, value in env.items():
        at = f"env.{variable}"
        if not _VARIABLE.fullmatch(variable) or variable.startswith(_UNSAFE_VARIABLES):
            raise _wrong(name, at, "not a name for a variable (letters, digits, '_'; not BUSBAR_ or SPT_)")
        if not isinstance(value, str):
            raise _wrong(name, at, "must be a string")
        _check_fields(name, at, value, FIELDS)
    return dict(env)


def _signal(name: str, key: str, given: str) -> int:
    if given not in signal.Signals.__members__ or not given.startswith("SIG"):
        raise _wrong(name, key, f"'{given}' is not a signal's name, such as SIGTERM")
    if key == "reload" and given in ("SIGKILL", "SIGSTOP"):
        raise _wrong(name, key, f"{given} can't be handled: it would end or stop the worker")
    return int(signal.Signals[given])


def _peer_format(name: str, table: ExecTable) -> str:
    if "\0" in table.peer_format + table.peer_separator:
        raise _wrong(name, "peer_format", "has a NUL character")
    for field in unknown_peer_fields(table.peer_format):
        known = f"{', '.join(PEER_FIELDS)}, and host, port and url of a listener as {{host.NAME}}"
        raise _wrong(name, "peer_format", f"unknown field {{{field}}} (known: {known})")
    return table.peer_format


def _ready(name: str, table: ExecTable) -> Probe:
    if table.ready is not None:
        return _probe(name, "ready", table.ready, table.port)
    if table.port:
        return TcpProbe()
    raise _wrong(name, "ready", 'is needed where port is false: {type = "log", pattern = …}')


def _live(name: str, table: ExecTable, ready: Probe) -> Probe | None:
    # A log line once written says nothing about now.
    if isinstance(table.live, LogTable):
        raise _wrong(name, "live", "a log line once written says nothing about now: tcp, http or mqtt")
    if table.live is not None:
        return _probe(name, "live", table.live, table.port)
    return None if isinstance(ready, LogProbe) else ready


def _probe(name: str, key: str, table: ProbeTable, listens: bool) -> Probe:
    if not listens and not isinstance(table, LogTable):
        raise _wrong(name, f"{key}.type", "needs a port, and port is false")
    match table:
        case TcpTable():
            return TcpProbe()
        case MqttTable():
            return MqttProbe()
        case HttpTable():
            return HttpProbe(table.path, tuple(table.expect))
        case LogTable():
            return _log(name, key, table)


def _log(name: str, key: str, table: LogTable) -> LogProbe:
    try:
        re.compile(table.pattern if table.regex else "")
    except re.error as error:
        raise _wrong(name, f"{key}.pattern", f"not a regular expression: {error}") from error
    return LogProbe(table.pattern, table.regex)
