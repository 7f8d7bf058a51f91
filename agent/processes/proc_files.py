"""Reads the files of a process in /proc.

A search for a worker's processes reads hundreds of them, and os.open with os.read takes a quarter of
pathlib's time.
"""

from __future__ import annotations

import os
from typing import Final

PROC: Final = "/proc"
_CHUNK: Final = 1 << 16


def read_bytes(pid: int, name: str) -> bytes:
    """The whole file `/proc/PID/NAME`.

    Raises:
        OSError: as open(2) and read(2); FileNotFoundError and ProcessLookupError: there is no such process.
    """
    descriptor = os.open(f"{PROC}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while more := os.read(descriptor, _CHUNK):
            found += more
        return found
    finally:
        os.close(descriptor)


def read_text(pid: int, name: str) -> str:
    """The same as text; what is no UTF-8 is replaced. Raises as `read_bytes`."""
    return read_bytes(pid, name).decode(errors="replace")
