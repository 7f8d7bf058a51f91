"""Asks a mosquitto once what it can do with WebSocket listeners: some builds and versions can't have them.

2.0.11 (Debian 12) does not start where all its listeners are of that protocol.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from busbar.bus.loopback import loopback
from busbar.bus.programs import find_program

from ..processes.brief_start import IN_USE, free_ports, start_briefly

Websockets = Literal["none", "beside", "alone"]
"""What it can serve: no WebSocket, WebSocket beside another listener, or also WebSocket alone."""
Ask = Callable[[str], Websockets]

_TIMEOUT_S: Final = 3.0
_SOCKET: Final = "protocol websockets\n"


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
    ports = free_ports(len(listeners), host)
    with tempfile.TemporaryDirectory(prefix="busbar-mosquitto-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            "".join(f"listener {port} {host}\n{of}" for port, of in zip(ports, listeners, strict=True))
            + "allow_anonymous false\npersistence false\nlog_dest stderr\n"
        )
        ran, lines = start_briefly(path, config, _TIMEOUT_S)
    if not ran and (not any("Error" in line for line in lines) or any(IN_USE in line for line in lines)):
        raise OSError(f"{path} gave no answer")
    return ran
