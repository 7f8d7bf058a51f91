"""How to reach a broker. Pure: the command line reads these without importing the MQTT library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

_SCHEMES: dict[str, tuple[Literal["tcp", "websockets"], bool, int]] = {
    "mqtt": ("tcp", False, 1883),
    "tcp": ("tcp", False, 1883),
    "mqtts": ("tcp", True, 8883),
    "ssl": ("tcp", True, 8883),
    "ws": ("websockets", False, 80),
    "wss": ("websockets", True, 443),
}


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Files in PEM form; without `ca` the system's own authorities are trusted."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """One broker and who we are there. `keepalive` is seconds; `protocol` 4 is MQTT 3.1.1, 5 is MQTT 5.

    `falls_back`: 3.1.1 is spoken after all with a broker that does not understand 5.
    `as_published`: filters whose messages show the publisher's RETAIN flag also live (MQTT 5 alone can).
    """

    host: str = "127.0.0.1"
    port: int = 1883
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"
    tls: TlsOptions | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str = ""
    keepalive: int = 30
    protocol: Literal[4, 5] = 4
    falls_back: bool = False
    as_published: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The broker's address for people, without credentials."""
        secure = "s" if self.tls else ""
        scheme = f"mqtt{secure}" if self.transport == "tcp" else f"ws{secure}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}" + (self.path if self.transport == "websockets" else "")


def parse_url(url: str) -> ConnectOptions:
    """Read `mqtt://host:port`, `mqtts://`, `ws://host:port/path` or `wss://`; a bare `host:port` is mqtt.

    Raises:
        ValueError: for anything else, and for a password in the URL (it would show up in process lists).
    """
    parts = urlsplit(url if "://" in url else f"mqtt://{url}")
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"broker URL {url!r}: use mqtt://, mqtts://, ws:// or wss://")
    if parts.password is not None:
        raise ValueError("a broker URL holds no password: use a password file")
    if not parts.hostname:
        raise ValueError(f"broker URL {url!r} names no host")
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
