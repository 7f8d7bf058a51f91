"""How often somebody may try to sign in: a bucket for each address and each name, and one for all. Pure."""

from __future__ import annotations

import math
from typing import Final

EACH: Final = (8.0, 10.0)
"""Tries in a row, and seconds until there is one more, of one address or one name."""
ALL: Final = (60.0, 0.5)
"""Of everybody together."""
KNOWN: Final = 1024
"""Addresses and names that are remembered; the one that tried longest ago is forgotten."""


class Throttle:
    """Counts tries; a try that is refused does not count."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, keys: tuple[str, ...], now: float) -> int:
        """Count a try of these; else the seconds, at least 1, until there may be one."""
        wanted = [("", ALL), *((key, EACH) for key in keys)]
        left = {key: self._now(key, burst, pause, now) for key, (burst, pause) in wanted}
        late = max((1 - left[key]) * pause for key, (_, pause) in wanted)
        if late > 0:
            return math.ceil(late)
        for key, _ in wanted:
            self._left.pop(key, None)
            self._left[key] = (left[key] - 1, now)
        while len(self._left) > KNOWN:
            del self._left[next(iter(self._left))]
        return 0

    def _now(self, key: str, burst: float, pause: float, now: float) -> float:
        left, then = self._left.get(key, (burst, now))
        return min(burst, left + (now - then) / pause)

    def forgive(self, keys: tuple[str, ...]) -> None:
        """These have signed in."""
        for key in keys:
            self._left.pop(key, None)
