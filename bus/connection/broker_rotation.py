"""Which broker is tried next, and after what delay. Pure: times and random numbers are arguments."""

from __future__ import annotations

from typing import Final

from ..backoff import Backoff
from ..options import ConnectOptions

STABLE: Final = 5.0
"""Seconds after which a connection counts as good and resets the backoff."""
UNTRIED: Final = "not connected yet"


class BrokerRotation:
    """The brokers of one connection in turn: whichever fails, or is lost, the next one is tried.

    The wait grows with each whole round, not with each broker: the way past one that is down is short. A
    connection stays where it is: nobody goes back to the first broker for its own sake.
    """

    def __init__(self, options: ConnectOptions, backoff: Backoff) -> None:
        self._brokers = options.brokers
        self._backoff = backoff
        self._at = 0
        self._errors: dict[str, str] = {}
        self.failures = 0
        """Consecutive attempts that failed, or ended before `STABLE`."""

    @property
    def current(self) -> ConnectOptions:
        """The broker that is tried, or connected to."""
        return self._brokers[self._at]

    @property
    def last_error(self) -> str:
        """Why there is no connection: with several brokers, the last error of each."""
        if len(self._brokers) == 1:
            return self._errors.get(self.current.url, UNTRIED)
        return "; ".join(f"{url}: {why}" for url, why in self._errors.items()) or UNTRIED

    @property
    def exhausted(self) -> bool:
        """True when every broker has failed since the last good connection."""
        return self.failures >= len(self._brokers)

    def failed(self, why: str, lasted: float) -> None:
        """The attempt, or the connection, has ended after `lasted` seconds: the next broker's turn."""
        if lasted > STABLE:
            self.failures = 0
            self._errors.clear()
        self.failures += 1
        self._errors[self.current.url] = why
        self._at = (self._at + 1) % len(self._brokers)

    def delay(self, chance: float) -> float:
        """Seconds to wait before the next attempt; `chance` is in [0, 1)."""
        rounds = -(-self.failures // len(self._brokers))
        return self._backoff.delay(rounds, chance)
