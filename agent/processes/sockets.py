"""Asks the kernel whether a port can be bound."""

from __future__ import annotations

import socket


def is_free(interface: str, port: int, *, shared: bool = False) -> bool:
    """Whether a server could bind this port now, with SO_REUSEADDR as servers do.

    Raises:
        OSError: unknown, such as when the agent has no file descriptor left.
    """
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((interface, port))
            # bind alone succeeds next to a listener with SO_REUSEADDR on a wildcard address.
            sock.listen(1)
        except OSError:
            return False
    return True
