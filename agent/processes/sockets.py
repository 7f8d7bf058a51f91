"""Asks the kernel whether a port can be bound."""

from __future__ import annotations

import errno
import socket
from typing import Final

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""They say nothing about the port."""


def bind_error(interface: str, port: int, *, shared: bool = False) -> OSError | None:
    """Why a server could not bind this port now, with SO_REUSEADDR as servers do; None when it could.

    Raises:
        OSError: unknown, such as when the agent has no file descriptor left.
    """
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((interface, port))
            # bind alone succeeds next to a listener with SO_REUSEADDR on a wildcard address.
            sock.listen(1)
    except OSError as error:
        if error.errno is None or error.errno in _EXHAUSTED:
            raise
        return error
    return None
