"""The URL of a listener, taken apart. Pure.

Nodes report it, and its parts go into the configurations of proxies and of other routers: what is not plain
is refused.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from .addresses import netloc

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PATH: Final = re.compile(r"[A-Za-z0-9/._~-]{0,256}")


class EndpointUrl(Struct, frozen=True):
    """`host` is an IP address (without brackets) or a name."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return netloc(self.host, self.port)


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def endpoint_url(text: str) -> EndpointUrl | None:
    """None for what has no port, or more than a plain scheme, host, port and path."""
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        return None
    plain = _SCHEME.fullmatch(url.scheme) and _PATH.fullmatch(url.path) and not (url.query or url.fragment)
    if not (port and plain and text == text.strip() and text.isprintable()):
        return None
    if ip_address(host) is None and not _HOST.fullmatch(host):
        return None
    return EndpointUrl(url.scheme, host, port, url.path)
