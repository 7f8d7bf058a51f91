"""Asks a mosquitto what it can do with WebSocket listeners: some builds and versions can't have them.

2.0.11 (Debian 12) does not start where all its listeners are of that protocol.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final, Literal

from busbar.bus.system.loopback import loopback

from .brief_start import IN_USE, free_ports, start_briefly

Websockets = Literal["none", "beside", "alone"]
"""What it can serve: no WebSocket, WebSocket beside another listener, or also WebSocket alone."""

_TIMEOUT_S: Final = 3.0
_SOCKET: Final = "protocol websockets"


def websockets_of(program: str) -> Websockets:
    """What that program can do; one that can't be asked is believed to do all."""
    try:
        if _starts(program, [_SOCKET]):
            return "alone"
        return "beside" if _starts(program, ["", _SOCKET]) else "none"
    except OSError:
        return "alone"


def without_websockets(text: str, can: Websockets, program: str, pointer: str) -> str | None:
    """Why that program can't have the WebSocket listeners of a configuration; None where it can.

    `pointer` leads to the protocol of the first one in the definition.
    """
    if can == "none":
        return f"{pointer}: {program} of this node has no WebSocket"
    lines = text.splitlines()
    if can == "beside" and lines.count(_SOCKET) == sum(line.startswith("listener ") for line in lines):
        return f"{pointer}: {program} of this node does not start without a listener of type 'mqtt' beside it"
    return None


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
            "".join(f"listener {port} {host}\n{of}\n" for port, of in zip(ports, listeners, strict=True))
            + "allow_anonymous false\npersistence false\nlog_dest stderr\n"
        )
        ran, lines = start_briefly(path, config, _TIMEOUT_S)
    if not ran and (not any("Error" in line for line in lines) or any(IN_USE in line for line in lines)):
        raise OSError(f"{path} gave no answer")
    return ran
