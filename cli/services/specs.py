"""What a service is started with. `busbar up` writes it to a file: it holds no secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from busbar.bus.system.log_lines import LogFormat
from msgspec import Struct, field

from ..context import MEMBERS, Settings

MqttVersion = Literal["auto", "5", "3.1.1"]
BrokerProgram = Literal["nats", "mosquitto"]
PROGRAMS: Final[Mapping[BrokerProgram, str]] = {"nats": "nats-server", "mosquitto": "mosquitto"}
"""What is run in place of the embedded broker."""
REFUSED: Final = 4
"""Exit code of a service that refuses to run, such as for a locked folder, a corrupt database or a newer
manager. A restart does not help."""


class ConnectSpec(Struct, frozen=True, omit_defaults=True):
    """How a service connects; the members are those of `Settings`, without the password."""

    broker: str | None = None
    realm: str | None = None
    root: str | None = None
    username: str | None = None
    password_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> ConnectSpec:
        """From settings. A password from the environment is left there."""
        return cls(**{name: getattr(settings, name) for name in MEMBERS})

    def settings(self, password: str | None) -> Settings:
        """The settings, with a password from the environment."""
        return Settings(**{name: getattr(self, name) for name in MEMBERS}, password=password)


class BrokerSpec(Struct, frozen=True, kw_only=True):
    """The embedded broker."""

    kind: ClassVar[str] = "broker"
    accounts: str
    port: int
    root: str
    realm: str | None = None
    host: str = "127.0.0.1"
    ws_port: int | None = None
    ws_origins: list[str] = field(default_factory=list)
    home_assistant: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "plain"


class BrokerProgramSpec(Struct, frozen=True, kw_only=True):
    """Another broker in place of the embedded one, with the same accounts. `secrets`: a folder."""

    kind: ClassVar[str] = "broker-program"
    program: BrokerProgram
    accounts: str
    secrets: str
    manager: str
    port: int
    root: str
    realm: str
    host: str = "127.0.0.1"
    home_assistant: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "plain"


class ManagerSpec(Struct, frozen=True, kw_only=True):
    """The manager. `principals`: role by user name, for a new database. `home_assistant` is `USER[@PREFIX]`,
    here and in the brokers' specs."""

    kind: ClassVar[str] = "manager"
    realm: str
    root: str
    connect: ConnectSpec
    state: str
    heartbeat_s: float
    principals: dict[str, str]
    manager_id: str = "m1"
    offline_after_s: float = 86_400.0
    mqtt: MqttVersion = "auto"
    adopt_realm: bool = False
    max_packet: int | None = None
    quotas: dict[str, int] = field(default_factory=dict)
    metrics: tuple[str, int] | None = None
    home_assistant: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "plain"


class AgentSpec(Struct, frozen=True, kw_only=True):
    """The agent of one node."""

    kind: ClassVar[str] = "agent"
    realm: str
    root: str
    connect: ConnectSpec
    state: str
    node: str
    stop_workers: bool
    runtimes: str | None = None
    host: str | None = None
    max_workers: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    static_roots: list[str] = field(default_factory=list)
    adopt_store: bool = False
    mqtt: MqttVersion = "auto"
    max_packet: int | None = None
    metrics: tuple[str, int] | None = None
    log_level: str = "info"
    log_format: LogFormat = "plain"


class WebSpec(Struct, frozen=True, kw_only=True):
    """The page of a realm. `connect` has no user; `cert` and `key` are files of the page's own."""

    kind: ClassVar[str] = "web"
    realm: str
    root: str
    connect: ConnectSpec
    host: str
    port: int
    origins: list[str] = field(default_factory=list)
    cert: str | None = None
    key: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "plain"


ServiceSpec = BrokerSpec | BrokerProgramSpec | ManagerSpec | AgentSpec | WebSpec
SPEC_TYPES: Final[dict[str, type[ServiceSpec]]] = {
    each.kind: each for each in (BrokerSpec, BrokerProgramSpec, ManagerSpec, AgentSpec, WebSpec)
}
