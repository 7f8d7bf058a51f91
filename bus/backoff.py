"""Jittered exponential backoff. Pure: the random number is an argument."""

from __future__ import annotations

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """Delays in seconds: `base`, doubled at each further failure up to `cap`, then jittered.

    `jitter`: the delay is multiplied by a factor between these two, so that what failed together does not
    come back together.
    """

    base: float = 0.2
    cap: float = 5.0
    jitter: tuple[float, float] = (0.5, 1.0)

    def delay(self, failures: int, chance: float) -> float:
        """The wait after so many failures in a row; none without one. `chance`, from 0 to 1, is random."""
        if failures <= 0:
            return 0.0
        # 2.0 ** 1024 overflows: past the cap the exponent no longer matters.
        full = min(self.cap, self.base * 2.0 ** min(failures - 1, 64))
        low, high = self.jitter
        return full * (low + (high - low) * min(1.0, max(0.0, chance)))
