"""Limits repeated log lines: the same text is logged at once, then after pauses that double."""

from __future__ import annotations

from typing import Final

from busbar.bus.clock import Clock

FIRST_S: Final = 5.0
"""The first pause."""
MOST_S: Final = 3_600.0
"""The longest one. A text that did not recur for twice its pause starts anew."""
LIMIT: Final = 1_000
"""Texts remembered; beyond it all are forgotten, and may be logged again."""


class LogThrottle:
    """Tells whether a text may be logged now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, tuple[float, float, float]] = {}
        """By text: when it was logged, the pause after it, and when it was last asked for."""

    def allows(self, text: str) -> bool:
        """True the first time, then once per pause."""
        now = self._clock.monotonic()
        logged, pause, asked = self._last.get(text, (now, 0.0, now))
        if now - asked > 2 * max(pause, FIRST_S):
            pause = 0.0
        allowed = pause == 0.0 or now - logged >= pause
        if allowed:
            logged, pause = now, min(max(FIRST_S, 2 * pause), MOST_S)
        if text not in self._last and len(self._last) >= LIMIT:
            self._last.clear()
        self._last[text] = (logged, pause, now)
        return allowed
