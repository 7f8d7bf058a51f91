"""Connection options of a broker. Pure: the command line uses them without importing the MQTT library."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from .addresses import bracketed, netloc

_SCHEMES: dict[str, tuple[Literal["tcp", "websockets"], bool, int]] = {
    "mqtt": ("tcp", False, 1883),
    "tcp": ("tcp", False, 1883),
    "mqtts": ("tcp", True, 8883),
    "ssl": ("tcp", True, 8883),
    "ws": ("websockets", False, 80),
    "wss": ("websockets", True, 443),
}

MAX_BROKERS: Final = 32
"""Addresses of one broker cluster: all are tried in each round, and a longer list is a mistake."""

MAX_PACKET: Final = 1024 * 1024
"""Bytes of a packet, unless a broker says less: the limit of the embedded broker, EMQX and NATS."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """PEM files; without `ca` the system's certificate authorities are trusted."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """Where one node of a broker cluster listens; `path` is for WebSockets only."""

    host: str
    port: int
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """One broker, and our identity there. `keepalive` is seconds; `protocol` 4 is MQTT 3.1.1, 5 is MQTT 5.

    `falls_back`: 3.1.1 is used with a broker that does not support 5.
    `as_published`: filters whose live messages keep the publisher's RETAIN flag (MQTT 5 only).
    `connect_s`: seconds for TCP, and three times as many until the CONNACK; then the next broker is tried.
    `max_packet`: the most bytes of a packet; less where the broker says so in its MQTT 5 CONNACK.
    `password_file`: read at each connection, as certificates are, so that a rotated password is used.
    `others`: further nodes of the same broker cluster, for failover (`brokers`).
    """

    host: str = "127.0.0.1"
    port: int = 1883
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"
    tls: TlsOptions | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    client_id: str = ""
    keepalive: int = 30
    protocol: Literal[4, 5] = 4
    falls_back: bool = False
    as_published: tuple[str, ...] = ()
    connect_s: float = 5.0
    max_packet: int = MAX_PACKET
    others: tuple[Address, ...] = ()

    @property
    def brokers(self) -> tuple[ConnectOptions, ...]:
        """The options of each broker, in the order in which they are tried."""
        return (
            replace(self, others=()),
            *(
                replace(self, others=(), host=a.host, port=a.port, transport=a.transport, path=a.path)
                for a in self.others
            ),
        )

    @property
    def url(self) -> str:
        """The broker's URL for display, without credentials; several are separated by commas."""
        if self.others:
            return ",".join(broker.url for broker in self.brokers)
        secure = "s" if self.tls else ""
        scheme = f"mqtt{secure}" if self.transport == "tcp" else f"ws{secure}"
        return f"{scheme}://{netloc(self.host, self.port)}" + (
            self.path if self.transport == "websockets" else ""
        )


def parse_url(url: str) -> ConnectOptions:
    """Read `mqtt://host:port`, `mqtts://`, `ws://host:port/path` or `wss://`; a bare `host:port` is mqtt,
    and so is a bare address, `localhost` or a name with a dot.

    Raises:
        ValueError: for anything else, and for a password in the URL (process lists would show it).
    """
    try:
        parts = urlsplit(url if "://" in url else f"mqtt://{bracketed(url)}")
    except ValueError:
        raise ValueError(f"broker URL {url!r}: an IPv6 address stands in brackets, as mqtt://[::1]") from None
    if parts.netloc.rpartition("@")[2].count(":") > 1 and "[" not in parts.netloc:
        raise ValueError(f"broker URL {url!r}: an IPv6 address stands in brackets, as mqtt://[::1]")
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"broker URL {url!r}: use mqtt://, mqtts://, ws:// or wss://")
    if parts.password is not None:
        raise ValueError("a broker URL holds no password: use a password file")
    if not parts.hostname:
        raise ValueError(f"broker URL {url!r} names no host")
    if not set(".:/@") & set(url) and url.lower() != "localhost":  # a slip, such as the name of a context
        raise ValueError(f"broker URL {url!r}: write mqtt://{url}, or {url}:1883, if that is a host")
    transport, secure, port = _SCHEMES[parts.scheme]
    try:
        port = parts.port or port
    except ValueError:
        raise ValueError(f"broker URL {url!r}: the port is a number from 1 to 65535") from None
    return ConnectOptions(
        host=parts.hostname,
        port=port,
        transport=transport,
        path=parts.path or "/mqtt",
        tls=TlsOptions() if secure else None,
        username=parts.username,
    )


def split_urls(urls: str) -> list[str]:
    """The URLs of a comma-separated list, stripped; empty entries are kept."""
    return [url.strip() for url in urls.split(",")]


def parse_urls(urls: str) -> ConnectOptions:
    """Read one broker URL or several nodes of one cluster, separated by commas (see `parse_url`).

    Raises:
        ValueError: one is malformed or duplicated, there are too many, or they differ in the user, or in
            TLS (a failover must not send a password in the clear).
    """
    found = [parse_url(url) for url in split_urls(urls)]
    first = found[0]
    if len({(one.host, one.port, one.transport) for one in found}) < len(found):
        raise ValueError(f"broker URLs {urls!r}: duplicate broker URL")
    if len(found) > MAX_BROKERS:
        raise ValueError(f"{len(found)} broker URLs: at most {MAX_BROKERS}")
    if len({one.tls is None for one in found}) > 1:
        raise ValueError(f"broker URLs {urls!r}: all with TLS, or none")
    if len({one.username for one in found}) > 1:
        raise ValueError(f"broker URLs {urls!r}: they name different users; say --username")
    others = (Address(one.host, one.port, one.transport, one.path) for one in found[1:])
    return replace(first, others=tuple(others))
