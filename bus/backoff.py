"""Jittered exponential backoff. Pure: the random number is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: `base`, doubled at each failure up to `cap`, less up to `jitter` of it by chance."""

    base: float = 0.2
    cap: float = 5.0
    jitter: float = 0.5

    def delay(self, failures: int, chance: float) -> float:
        """The wait after that many failures in a row (1 is the first); `chance` is in [0, 1)."""
        full = min(self.cap, self.base * 2.0 ** min(max(failures - 1, 0), 32))
        return full * (1.0 - self.jitter * chance)
