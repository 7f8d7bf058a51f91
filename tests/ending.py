"""How a long program of the tests ends when it is told to: once, and with everything cleared away."""

from __future__ import annotations

import signal
import sys
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""The exit code that a shell gives for it."""


def end_on_sigterm() -> None:
    """Leave by SystemExit, so that every `finally` runs; a second signal does not interrupt those."""

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
