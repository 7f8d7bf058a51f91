"""Remembers in a file which brokers do not have MQTT 5, so that the next start does not try it first."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from ..clock import Clock
from ..files import write_atomically

KEPT_NS: Final = 24 * 3600 * 10**9
"""How long it holds: the broker may be replaced or updated."""


class ProtocolMemory:
    """One link's file. It is a hint: what can't be read or written is ignored."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def lacks_v5(self, url: str) -> bool:
        """Whether 3.1.1 was needed at these brokers within the last day."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            return known["url"] == url and 0 <= self._clock.time_ns() - int(known["time"]) < KEPT_NS
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def note(self, url: str, lacks_v5: bool) -> None:
        """A connection was accepted; the first note of a day counts, so that MQTT 5 is tried once a day."""
        with contextlib.suppress(OSError):
            if not lacks_v5:
                self._path.unlink(missing_ok=True)
            elif not self.lacks_v5(url):
                text = json.dumps({"url": url, "time": self._clock.time_ns()})
                write_atomically(self._path, text, durable=False)
