"""An agent's configuration: from the command line (`AgentConfig`) and from a TOML file.

[agent]
host = "10.0.0.5"                # advertised address of this node's workers; default: loopback
max_workers = 50                 # no worker is started beyond it, whatever the manager assigns
ports = "20000-20999"            # the only ports that workers may be given: one, or a range
interfaces = ["10.0.0.5"]        # the only ones that workers may listen on, besides loopback
static_roots = ["/srv/www"]      # folders that `static` paths may use, besides www in the state folder
stop_workers = false             # stop the workers on a clean exit
log_level = "info"               # instead of --log-level: it can be changed by a reload
[agent.labels]
site = "ship-7"
[runtimes.NAME]                  # see agent.runtimes.config
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from busbar.bus.options import ConnectOptions
from busbar.bus.placement import MAX_LABELS, label_fault
from busbar.bus.system.loopback import loopback
from busbar.bus.system.regular_files import read_given

MAX_BYTES: Final = 1 << 20
"""Bytes of the file."""
_KEYS: Final = (
    "host",
    "interfaces",
    "labels",
    "log_level",
    "max_workers",
    "ports",
    "static_roots",
    "stop_workers",
)
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class ConfigError(ValueError):
    """The agent's configuration is invalid: which key, and why."""


@dataclass(frozen=True)
class AgentConfig:
    """One agent. A value given here overrides the file's `[agent]`; None, empty and False do not. The file's
    `log_level` overrides the one given here.

    `ports` (both ends included) and `interfaces` bound what workers may listen on; None does not.
    `runtimes`: the TOML file. `host`: the advertised address. `stop_workers`: stop them on a clean exit.
    `adopt_store`: accept the next assignment of another store, once. `metrics`: where to serve them.
    """

    state: Path
    node: str
    realm: str
    connect: ConnectOptions
    root: str = "busbar"
    runtimes: Path | None = None
    host: str | None = None
    max_workers: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_workers: bool = False
    static_roots: tuple[Path, ...] = ()
    adopt_store: bool = False
    log_level: str | None = None
    ports: tuple[int, int] | None = None
    interfaces: tuple[str, ...] | None = None
    metrics: tuple[str, int] | None = None


@dataclass(frozen=True)
class AgentFile:
    """The validated TOML file; `runtimes` goes to `agent.runtimes.load_runtimes`."""

    host: str | None = None
    max_workers: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_workers: bool = False
    static_roots: tuple[Path, ...] = ()
    runtimes: Mapping[str, object] = field(default_factory=dict)
    log_level: str | None = None
    ports: tuple[int, int] | None = None
    interfaces: tuple[str, ...] | None = None


def load(path: Path | None) -> AgentFile:
    """Read the file; None gives the defaults.

    Raises:
        ConfigError: it can't be read or is invalid: which key, and why.
    """
    if path is None:
        return AgentFile()
    try:
        data = tomllib.loads(read_given(path, MAX_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        return parse(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(data: Mapping[str, object]) -> AgentFile:
    """Validate a parsed file.

    Raises:
        ConfigError: the first error.
    """
    for name in data:
        if name not in ("agent", "runtimes"):
            raise ConfigError(f"{name}: unknown table (known: agent, runtimes)")
    agent, runtimes = _table(data, "agent"), _table(data, "runtimes")
    for name in agent:
        if name not in _KEYS:
            raise ConfigError(f"agent.{name}: unknown key (known: {', '.join(_KEYS)})")
    return AgentFile(
        host=_host(agent.get("host")),
        max_workers=_count(agent.get("max_workers")),
        labels=_labels(agent.get("labels", {})),
        stop_workers=_flag(agent.get("stop_workers", False)),
        static_roots=_folders(agent.get("static_roots", [])),
        runtimes=runtimes,
        log_level=_log_level(agent.get("log_level")),
        ports=_ports(agent.get("ports")),
        interfaces=_interfaces(agent.get("interfaces")),
    )


def merged(config: AgentConfig, file: AgentFile) -> AgentConfig:
    """The configuration, with the file's values for what it leaves open."""
    return AgentConfig(
        state=config.state,
        node=config.node,
        realm=config.realm,
        connect=config.connect,
        root=config.root,
        runtimes=config.runtimes,
        host=config.host or file.host or loopback(),
        max_workers=config.max_workers if config.max_workers is not None else file.max_workers,
        labels=_labels({**file.labels, **config.labels}),
        stop_workers=config.stop_workers or file.stop_workers,
        static_roots=(*config.static_roots, *file.static_roots),
        adopt_store=config.adopt_store,
        log_level=file.log_level or config.log_level,
        ports=config.ports or file.ports,
        interfaces=config.interfaces if config.interfaces is not None else file.interfaces,
        metrics=config.metrics,
    )


def _table(data: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name}: must be a table")
    return table


def _host(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or any(ord(c) <= 32 or c in "/@?#\x7f" for c in value):
        raise ConfigError("agent.host: must be a host name or an IP address")
    return value


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError("agent.max_workers: must be a whole number, 0 or more")
    return value


def _ports(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError('agent.ports: must be a port, or a range such as "20000-20999"')
    try:
        low, dash, high = str(value).partition("-")
        ports = int(low), int(high if dash else low)
    except ValueError:
        raise ConfigError(f"agent.ports: '{value}' is not a range such as \"20000-20999\"") from None
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise ConfigError(f"agent.ports: '{value}' is not within 1 to 65535 and rising")
    return ports


def _interfaces(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError("agent.interfaces: must be a list of IP addresses")
    found = []
    for each in value:
        try:
            found.append(str(ipaddress.ip_address(each)))
        except ValueError:
            raise ConfigError(f"agent.interfaces: '{each}' is not an IP address") from None
    return tuple(found)


def _log_level(value: object) -> str | None:
    if value is not None and value not in LOG_LEVELS:
        raise ConfigError(f"agent.log_level: must be one of {', '.join(LOG_LEVELS)}")
    return None if value is None else str(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("agent.stop_workers: must be true or false")
    return value


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise ConfigError(f"agent.labels: must be a table of at most {MAX_LABELS} strings")
    for name, text in value.items():
        if not isinstance(text, str):
            raise ConfigError(f"agent.labels.{name}: must be a string")
        if fault := label_fault(name, text):
            raise ConfigError(f"agent.labels.{name}: {fault}")
    return value


def _folders(value: object) -> tuple[Path, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError("agent.static_roots: must be a list of strings")
    folders = tuple(Path(each) for each in value)
    for folder in folders:
        if not folder.is_absolute() or ".." in folder.parts:
            raise ConfigError(f"agent.static_roots: '{folder}' must be an absolute path without '..'")
    return folders
