"""Tells the service manager what a service does: that it is up, that it lives, and its state in one line.

Speaks sd_notify(3): datagrams to the UNIX socket that systemd names in NOTIFY_SOCKET.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

from ..clock import Clock
from ..printable import printable

SayStatus = Callable[[str], None]
MAX_CHARACTERS: Final = 500
"""Of a status line; what a terminal shows of it is less."""
BEATS: Final = 3
"""Signs of life per interval of the watchdog; sd_watchdog_enabled(3) asks for two."""


def unsaid(_: str) -> None:
    """For services whose status nobody asks for."""


class ServiceStatus:
    """`address` is that of NOTIFY_SOCKET; None: nobody asks. One text is sent once until another follows.

    `watchdog_s`: seconds of silence after which the service manager kills this process; None: it does not.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        # A leading @ stands for the NUL byte of an abstract socket.
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._said = ""
        self._is_over = False
        self.watchdog_s = watchdog_s if address else None

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str] = os.environ) -> ServiceStatus:
        """That of this process; removed from `environ`, as the processes it starts have none of their own."""
        address, usec, pid = (
            environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        mine = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(address or None, int(usec) / 1e6 if mine else None)

    def say(self, text: str) -> None:
        """Send it. A service manager that does not listen changes nothing."""
        line = printable(text)[:MAX_CHARACTERS]
        if line != self._said and not self._is_over and self._send(f"STATUS={line}"):
            self._said = line

    def started(self) -> None:
        """It is up: what depends on it may start."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It has begun to stop. It says nothing more: its last status would be shown while it is down."""
        self._send("STOPPING=1\nSTATUS=")
        self._is_over = True

    async def beat(self, clock: Clock) -> None:
        """Give signs of life until cancelled, from the event loop: one that hangs gives none."""
        if self.watchdog_s is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await clock.sleep(self.watchdog_s / BEATS)

    def _send(self, line: str) -> bool:
        if not self._address:
            return False
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
            found.setblocking(False)
            found.sendto(f"{line}\n".encode(), self._address)
            return True
        return False
