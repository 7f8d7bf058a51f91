"""How often somebody may try to sign in: a bucket for each address and each name, and one for all. Pure."""

from __future__ import annotations

import math
from typing import Final

from busbar.bus.buckets import Buckets

BURST, PER_S = 8, 0.1
"""Tries in a row of one address or one name, and tries a second from then on."""
ALL, ALL_PER_S = 60, 2.0
"""Of everybody together."""
KNOWN: Final = 1024
"""Addresses and names that are remembered; the one that tried longest ago is forgotten."""


class Throttle:
    """Counts tries; a try that is refused does not count."""

    def __init__(self) -> None:
        self._each, self._all = Buckets(BURST, PER_S, KNOWN), Buckets(ALL, ALL_PER_S, 1)

    def wait(self, keys: tuple[str, ...], now: float) -> int:
        """Count a try of these; else the seconds, at least 1, until there may be one."""
        late = max(self._all.wait("", now), *(self._each.wait(key, now) for key in keys))
        if late > 0:
            return math.ceil(late)
        self._all.take("", now)
        for key in keys:
            self._each.take(key, now)
        return 0

    def forgive(self, keys: tuple[str, ...]) -> None:
        """These have signed in."""
        for key in keys:
            self._each.forget(key)
