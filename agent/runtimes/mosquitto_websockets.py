"""Asks a mosquitto once what it can do with WebSocket listeners: some builds and versions can't have them.

2.0.11 (Debian 12) does not start where all its listeners are of that protocol.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from busbar.bus.loopback import loopback
from busbar.bus.programs import find_program

Websockets = Literal["none", "beside", "alone"]
"""What it can serve: no WebSocket, WebSocket beside another listener, or also WebSocket alone."""
Ask = Callable[[str], Websockets]

_TIMEOUT_S: Final = 3.0
_SOCKET: Final = "protocol websockets\n"
_IN_USE: Final = "Address already in use"


def websockets_of(program: str) -> Websockets:
    """What the present file of that program can do; one that can't be asked is believed to do all."""
    found = find_program(program)
    if found is None:
        return "alone"
    try:
        stat = Path(found).stat()
        return _asked(found, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return "alone"


@lru_cache(maxsize=8)
def _asked(path: str, _changed: int, _size: int) -> Websockets:
    if _starts(path, [_SOCKET]):
        return "alone"
    return "beside" if _starts(path, ["", _SOCKET]) else "none"


def _starts(path: str, listeners: list[str]) -> bool:
    """Start it for a moment on free ports of loopback.

    Raises:
        OSError: it can't be started, or gives no answer in time.
    """
    host = loopback()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as held:
        servers = [held.enter_context(socket.create_server((host, 0), family=family)) for _ in listeners]
        ports = [server.getsockname()[1] for server in servers]
    with tempfile.TemporaryDirectory(prefix="busbar-mosquitto-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            "".join(f"listener {port} {host}\n{of}" for port, of in zip(ports, listeners, strict=True))
            + "allow_anonymous false\npersistence false\nlog_dest stderr\n"
        )
        lines = _lines([path, "-c", str(config)])
    if lines and lines[-1].endswith(" running"):
        return True
    if not lines or not any("Error" in line for line in lines) or any(_IN_USE in line for line in lines):
        raise OSError(f"{path} gave no answer")
    return False


def _lines(argv: list[str]) -> list[str]:
    """What it says until it runs or ends."""
    with subprocess.Popen(
        argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        bound = threading.Timer(_TIMEOUT_S, process.kill)
        bound.start()
        lines = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line.rstrip())
                if lines[-1].endswith(" running"):
                    break
        finally:
            bound.cancel()
            process.kill()
    return lines
