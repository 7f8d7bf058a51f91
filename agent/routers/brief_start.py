"""Starts a mosquitto for a moment, to learn what it makes of a file: it has no option for that before 2.1."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

IN_USE: Final = "Address already in use"
_LINES: Final = 200
_RUNS: Final = " running"
"""How its line ends once it has taken its file, and listens."""


class BriefStart(NamedTuple):
    """Whether it ran, and what it said until then or until it ended: the last lines."""

    ran: bool
    lines: list[str]


def start_briefly(program: str, config: Path, timeout_s: float) -> BriefStart:
    """Start it with that file, and end it as soon as it runs, or after so long.

    Raises:
        OSError: it can't be started.
    """
    lines: deque[str] = deque(maxlen=_LINES)
    with subprocess.Popen(
        [program, "-c", str(config)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        bound = threading.Timer(timeout_s, _end, (process.pid,))
        bound.start()
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line.rstrip())
                if lines[-1].endswith(_RUNS):
                    return BriefStart(True, list(lines))
        finally:
            bound.cancel()
            _end(process.pid)
    return BriefStart(False, list(lines))


def _end(pid: int) -> None:
    """What a wrapper has started ends too: it would hold the output open."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def free_ports(count: int, host: str) -> list[int]:
    """Different ones that nobody listens on at the moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as held:
        servers = [held.enter_context(socket.create_server((host, 0), family=family)) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
