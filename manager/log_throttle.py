"""Keeps a log readable: the same complaint is made once a minute, however often it is true."""

from __future__ import annotations

from typing import Final

from busbar.bus.clock import Clock

PERIOD_S: Final = 60.0
LIMIT: Final = 1_000
"""Complaints remembered; beyond it all are forgotten, and may be made again."""


class Quiet:
    """Says whether a complaint may be made now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def may(self, complaint: str) -> bool:
        """True once per 60 s for each distinct complaint."""
        now = self._clock.monotonic()
        last = self._last.get(complaint)
        if last is not None and now - last < PERIOD_S:
            return False
        if len(self._last) >= LIMIT:
            self._last.clear()
        self._last[complaint] = now
        return True
