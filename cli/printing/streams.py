"""The standard streams as they come: closed, in another encoding, or on a full disk."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


def prepare() -> None:
    """Open what is closed on the null device, and let no character fail that an encoding does not have."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        # A socket or the store on number 1 would get what is printed; and children expect the three.
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115  # for the life of the process
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish(code: Any) -> Any:
    """Write out what is left in stdout; the exit code of the process."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again at its end, and fail in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not (code or isinstance(error, BrokenPipeError)):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
        return code or 1
    return code
