"""The signals of a service and of `busbar up`: what each means, in one place.

SIGTERM, SIGINT, SIGQUIT   a clean stop
SIGHUP                     a clean stop when the terminal is closed; without a terminal a reload
SIGUSR1, SIGUSR2           ignored, with a line in the log: their default action would be a crash
SIGPIPE                    ignored by Python; the write fails instead

The handlers stay until the process has ended, also while the event loop starts and is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
from collections.abc import Callable
from types import FrameType
from typing import Final

STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)
ALL: Final = (*STOP, signal.SIGHUP, *IGNORED)

Handler = Callable[[signal.Signals], None]

log = logging.getLogger("busbar.service")


class Signals:
    """Takes the signals of this process from its creation on; those before `deliver` wait until then.

    Make it in the main thread. A signal that was ignored before (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self._waiting: list[signal.Signals] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handler: Handler = self._waiting.append
        for signum in ALL:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        loop, taken = self._loop, signal.Signals(signum)
        if loop is None:
            self._waiting.append(taken)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._handler, taken)

    def deliver(self, handler: Handler) -> None:
        """Call `handler` in the running event loop for each signal, earlier ones first."""
        self._loop, self._handler = asyncio.get_running_loop(), handler
        while self._waiting:
            self._loop.call_soon(handler, self._waiting.pop(0))


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, so that SIGHUP means that it was closed.

    Ask at the start: once it is closed, there is none.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def leave_terminal() -> None:
    """Write to nowhere from now on instead of a terminal that was closed: a failed flush is exit code 120."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    nowhere = os.fstat(null).st_rdev
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            mode = os.fstat(fd)
            if stat.S_ISCHR(mode.st_mode) and mode.st_rdev != nowhere:
                os.dup2(null, fd)
    os.close(null)


def note_ignored(signum: signal.Signals) -> None:
    """Log that a signal has no meaning here."""
    log.warning("%s has no meaning here: ignored", signum.name)
