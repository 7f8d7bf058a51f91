"""This host's loopback address, asked of the kernel."""

from __future__ import annotations

import socket
from functools import cache

from ..addresses import IPV4, IPV6


def bind_error(host: str, port: int = 0) -> OSError | None:
    """Why a server could not listen there now; None when it could."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def can_bind(host: str, port: int = 0) -> bool:
    """Whether a server could listen there now."""
    return bind_error(host, port) is None


@cache
def loopback() -> str:
    """127.0.0.1, or ::1 on a host that has no IPv4."""
    try:
        return IPV4 if can_bind(IPV4) or not can_bind(IPV6) else IPV6
    except OSError:  # no IPv6 in this kernel, or no descriptor left
        return IPV4
