"""Limits repeated log lines: the same text is logged at most once a minute."""

from __future__ import annotations

from typing import Final

from busbar.bus.clock import Clock

PERIOD_S: Final = 60.0
LIMIT: Final = 1_000
"""Texts remembered; beyond it all are forgotten, and may be logged again."""


class LogThrottle:
    """Tells whether a text may be logged now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def allows(self, text: str) -> bool:
        """True once per 60 s for each distinct text."""
        now = self._clock.monotonic()
        last = self._last.get(text)
        if last is not None and now - last < PERIOD_S:
            return False
        if len(self._last) >= LIMIT:
            self._last.clear()
        self._last[text] = now
        return True
