"""IP addresses: loopback or not, and how they stand in a URL. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

IPV4: Final = "127.0.0.1"
IPV6: Final = "::1"


def netloc(host: str, port: int) -> str:
    """`host:port` as in a URL: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_listener(text: str) -> tuple[str, int]:
    """Address and port to listen on, from `PORT` (on 127.0.0.1), `ADDRESS:PORT` or `[ADDRESS]:PORT`.

    Raises:
        ValueError: it is none of these.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or IPV4
    if not (port.isdecimal() and port.isascii() and int(port) <= 65_535):
        raise ValueError(f"{text!r} is no port: use PORT, ADDRESS:PORT or [IPV6]:PORT")
    return str(ipaddress.ip_address(host)), int(port)


def bracketed(address: str) -> str:
    """A bare IPv6 address in brackets; anything else as it is."""
    try:
        return f"[{ipaddress.IPv6Address(address)}]"
    except ValueError:
        return address


def is_loopback(interface: str) -> bool:
    """Whether only programs on the same host can connect."""
    if interface == "localhost":
        return True
    try:
        address = ipaddress.ip_address(interface)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
