"""The `[runtimes]` table of the agent's configuration: every runtime this node has.

[runtimes.amqtt]                      # built in; also secrets_root
user = "router"                       # of any runtime: run its workers as this user (the agent is root)
[runtimes.mosquitto]                  # program, secrets_root
[runtimes.crossbar]                   # program, static_root, secrets_root
[runtimes.echo]                       # any other name is an exec runtime
argv = ["/usr/bin/echod", "--port", "{port}", "--config", "{folder}/echo.conf"]
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
"""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ..processes.run_as import run_as
from ..processes.users import RunAs
from .amqtt import AmqttRuntime
from .base import HttpProbe, LogProbe, MqttProbe, Probe, Runtime, TcpProbe
from .crossbar import CrossbarRuntime
from .exec import FIELDS, TEMPLATE_FIELDS, ExecRuntime, unknown_fields
from .mosquitto import MosquittoRuntime

CROSSBAR_VARIABLE: Final = "BUSBAR_CROSSBAR"
"""Environment variable naming the crossbar program where the configuration does not."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SECONDS: Final = 3600.0
_UNSAFE_VARIABLES: Final = ("BUSBAR_", "SPT_")


class RuntimesError(ValueError):
    """A mistake in the `[runtimes]` table: where (`runtimes.echo.argv`) and what."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where


def load_runtimes(config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> dict[str, Runtime]:
    """Every runtime of this node by name: the built-in ones always, then the operator's.

    `config` is the `[runtimes]` table. Whether a runtime can run here, `unavailable()` tells.

    Raises:
        RuntimesError: the first mistake found.
    """
    tables = {name: _Table(table, f"runtimes.{name}") for name, table in config.items()}
    built_in = {
        name: tables.pop(name, _Table({}, f"runtimes.{name}")) for name in ("amqtt", "mosquitto", "crossbar")
    }
    runtimes: list[Runtime] = [
        _amqtt(built_in["amqtt"]),
        _mosquitto(built_in["mosquitto"]),
        _crossbar(built_in["crossbar"], os.environ if environ is None else environ),
    ]
    runtimes += [_exec(name, table) for name, table in tables.items()]
    return {runtime.name: runtime for runtime in runtimes}


class _Table:
    """A TOML table that is read member by member, and then must be empty."""

    def __init__(self, table: Any, where: str) -> None:
        self.where = where
        if not isinstance(table, Mapping):
            raise RuntimesError(where, "must be a table")
        self._left = dict(table)

    def wrong(self, key: str, what: str) -> RuntimesError:
        return RuntimesError(f"{self.where}.{key}", what)

    def has(self, key: str) -> bool:
        return key in self._left

    def text(self, key: str, default: str | None = None) -> str:
        value = self._left.pop(key, default)
        if not isinstance(value, str) or "\0" in value or (not value and default != ""):
            raise self.wrong(key, "must be a non-empty string" if value != default else "is needed")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._left.pop(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def seconds(self, key: str, default: float) -> float:
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_SECONDS:
            raise self.wrong(key, f"must be a number of seconds above 0 and up to {_MAX_SECONDS:.0f}")
        return float(value)

    def items(self, key: str, kind: type) -> list[Any]:
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self.wrong(key, f"must be a list of {'strings' if kind is str else 'numbers'}")
        return value

    def table(self, key: str) -> _Table:
        return _Table(self._left.pop(key, {}), f"{self.where}.{key}")

    def rest(self) -> dict[str, Any]:
        left, self._left = self._left, {}
        return left

    def folder(self, key: str) -> Path | None:
        if not self.has(key):
            return None
        path = Path(self.text(key))
        if not path.is_absolute() or ".." in path.parts:
            raise self.wrong(key, "must be an absolute path without '..'")
        return path

    def user(self) -> RunAs | None:
        if not self.has("user"):
            return None
        name = self.text("user")
        try:
            return run_as(name)
        except ValueError as error:
            raise self.wrong("user", str(error)) from error

    def end(self) -> None:
        for key in self._left:
            raise self.wrong(key, "unknown key")


def _amqtt(table: _Table) -> AmqttRuntime:
    secrets, user = table.folder("secrets_root"), table.user()
    table.end()
    return AmqttRuntime(secrets, run_as=user)


def _mosquitto(table: _Table) -> MosquittoRuntime:
    program, secrets = table.text("program", "mosquitto"), table.folder("secrets_root")
    given = table.user()
    table.end()
    if given is not None:
        return MosquittoRuntime(program, secrets, run_as=given)
    # mosquitto gives up root by itself, and could then not write into the worker's folder.
    user = pwd.getpwuid(0).pw_name if os.geteuid() == 0 else None
    return MosquittoRuntime(program, secrets, user)


def _crossbar(table: _Table, environ: Mapping[str, str]) -> CrossbarRuntime:
    program = table.text("program", environ.get(CROSSBAR_VARIABLE) or "crossbar")
    static_root, secrets, user = table.folder("static_root"), table.folder("secrets_root"), table.user()
    table.end()
    return CrossbarRuntime(program, static_root, run_as=user, secrets_root=secrets)


def _exec(name: str, table: _Table) -> ExecRuntime:
    if not _NAME.fullmatch(name):
        raise RuntimesError(table.where, "a runtime's name is made of [a-z0-9][a-z0-9_-]*")
    argv = _argv(table)
    listens = table.flag("port", True)
    ready = _probe(table.table("ready"), listens) if table.has("ready") else _default_ready(table, listens)
    live = _live(table, ready, listens)
    config_file, template = _config(table)
    runtime = ExecRuntime(
        name=name,
        argv=argv,
        ready=ready,
        live=live,
        env=_env(table.table("env")),
        config_file=config_file,
        config_template=template,
        listens=listens,
        own_listener=table.flag("own_listener", True),
        anonymous=table.flag("anonymous", False),
        scheme=_scheme(table),
        path=table.text("path", ""),
        types=tuple(table.items("types", str)),
        stop_signal=_signal(table),
        grace_s=table.seconds("grace", 5.0),
        start_deadline_s=table.seconds("start_deadline", 30.0),
        run_as=table.user(),
    )
    table.end()
    return runtime


def _argv(table: _Table) -> tuple[str, ...]:
    argv = table.items("argv", str)
    if not argv or not argv[0]:
        raise table.wrong("argv", "must be a list of strings, the program first")
    if "{" in argv[0]:
        raise table.wrong("argv", "the program's own name takes no field")
    for piece in argv:
        _check_fields(table, "argv", piece, FIELDS)
    return tuple(argv)


def _check_fields(table: _Table, key: str, template: str, known: tuple[str, ...]) -> None:
    if "\0" in template:
        raise table.wrong(key, "has a NUL character")
    for name in unknown_fields(template, known):
        raise table.wrong(
            key, f"unknown field {{{name}}} (known: {', '.join(known)}; {{{{{name}}}}} for the text)"
        )


def _config(table: _Table) -> tuple[str | None, str]:
    if not table.has("config_file"):
        return None, ""
    file, template = table.text("config_file"), table.text("config_template", "")
    if file.startswith("/") or ".." in PurePosixPath(file).parts or PurePosixPath(file).parts == ():
        raise table.wrong("config_file", "must be a relative path inside the worker's folder")
    _check_fields(table, "config_template", template, TEMPLATE_FIELDS)
    return file, template


def _env(table: _Table) -> dict[str, str]:
    env = table.rest()
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name) or name.startswith(_UNSAFE_VARIABLES):
            raise table.wrong(name, "not a name for a variable (letters, digits, '_'; not BUSBAR_ or SPT_)")
        if not isinstance(value, str):
            raise table.wrong(name, "must be a string")
        _check_fields(table, name, value, FIELDS)
    return env


def _scheme(table: _Table) -> str:
    scheme = table.text("scheme", "tcp")
    if not _SCHEME.fullmatch(scheme):
        raise table.wrong("scheme", "not a URL scheme")
    return scheme


def _signal(table: _Table) -> int:
    name = table.text("stop_signal", "SIGTERM")
    if name not in signal.Signals.__members__ or not name.startswith("SIG"):
        raise table.wrong("stop_signal", f"'{name}' is not a signal's name, such as SIGTERM")
    return int(signal.Signals[name])


def _default_ready(table: _Table, listens: bool) -> Probe:
    if listens:
        return TcpProbe()
    raise table.wrong("ready", 'is needed where port is false: {type = "log", pattern = …}')


def _live(table: _Table, ready: Probe, listens: bool) -> Probe | None:
    if table.has("live"):
        probe = _probe(table.table("live"), listens)
        if isinstance(probe, LogProbe):
            raise table.wrong("live", "a log line once written says nothing about now: tcp, http or mqtt")
        return probe
    # A log line once written says nothing about now.
    return None if isinstance(ready, LogProbe) else ready


def _probe(table: _Table, listens: bool) -> Probe:
    kind = table.text("type")
    if kind not in ("tcp", "http", "mqtt", "log"):
        raise table.wrong("type", f"'{kind}' is none of tcp, http, mqtt, log")
    if kind != "log" and not listens:
        raise table.wrong("type", f"'{kind}' needs a port, and port is false")
    probe = _PROBES[kind](table)
    table.end()
    return probe


def _http(table: _Table) -> HttpProbe:
    path, expect = table.text("path", "/"), table.items("expect", int)
    if not path.startswith("/") or any(ord(char) <= 32 or ord(char) >= 127 for char in path):
        raise table.wrong("path", "must be a URL path, such as /healthz")
    return HttpProbe(path, tuple(expect))


def _log(table: _Table) -> LogProbe:
    pattern, regex = table.text("pattern"), table.flag("regex", False)
    try:
        re.compile(pattern if regex else "")
    except re.error as error:
        raise table.wrong("pattern", f"not a regular expression: {error}") from error
    return LogProbe(pattern, regex)


_PROBES: Final[Mapping[str, Callable[[_Table], Probe]]] = {
    "tcp": lambda _: TcpProbe(),
    "http": _http,
    "mqtt": lambda _: MqttProbe(),
    "log": _log,
}
