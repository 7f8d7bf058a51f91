"""Tells the service manager in one line what a service does: `systemctl status` shows it.

Speaks sd_notify(3): one datagram to the UNIX socket that systemd names in NOTIFY_SOCKET.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

from .printable import printable

SayStatus = Callable[[str], None]
MAX_CHARACTERS: Final = 500
"""Of a status line; what a terminal shows of it is less."""


def unsaid(_: str) -> None:
    """For services whose status nobody asks for."""


class ServiceStatus:
    """`address` is that of NOTIFY_SOCKET; None: nobody asks. One text is sent once until another follows."""

    def __init__(self, address: str | None) -> None:
        # A leading @ stands for the NUL byte of an abstract socket.
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._said = ""

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str] = os.environ) -> ServiceStatus:
        """That of this process; removed from `environ`, as the processes it starts have none of their own."""
        return cls(environ.pop("NOTIFY_SOCKET", None))

    def say(self, text: str) -> None:
        """Send it. A service manager that does not listen changes nothing."""
        line = printable(text)[:MAX_CHARACTERS]
        if not self._address or line == self._said:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
            found.setblocking(False)
            found.sendto(f"STATUS={line}\n".encode(), self._address)
            self._said = line
