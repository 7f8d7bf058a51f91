"""Which broker is tried next, and after what delay. Pure: times and random numbers are arguments."""

from __future__ import annotations

from typing import Final

from ..backoff import Backoff
from ..options import ConnectOptions

STABLE: Final = 5.0
"""Seconds after which a connection counts as good, and the backoff is reset."""
UNTRIED: Final = "not connected yet"


class BrokerRotation:
    """Round-robin over the brokers of one link: when one fails, or is lost, the next one is tried.

    The delay grows with each full round, not with each broker, so that failing over is quick. There is no
    preferred broker: a good connection is kept.
    """

    def __init__(self, options: ConnectOptions, backoff: Backoff) -> None:
        self.brokers = options.brokers
        self._backoff = backoff
        self._at = 0
        self._errors: dict[str, str] = {}
        self.failures = 0
        """Attempts in a row that failed, or ended soon."""

    @property
    def current(self) -> ConnectOptions:
        """The broker that is tried, or connected to."""
        return self.brokers[self._at]

    @property
    def last_error(self) -> str:
        """Why there is no connection: with several brokers, the last error of each."""
        if len(self.brokers) == 1:
            return self._errors.get(self.current.url, UNTRIED)
        return "; ".join(f"{url}: {why}" for url, why in self._errors.items()) or UNTRIED

    @property
    def exhausted(self) -> bool:
        """True when every broker has failed since the last good connection."""
        return self.failures >= len(self.brokers)

    def failed(self, why: str, lasted: float) -> None:
        """The attempt, or the connection, ended after `lasted` seconds: move on to the next broker."""
        if lasted > STABLE:
            self.failures = 0
            self._errors.clear()
        self.failures += 1
        self._errors[self.current.url] = why
        self._at = (self._at + 1) % len(self.brokers)

    def trouble(self, why: str) -> None:
        """The attempt at the present broker is not over yet, and this is what hinders it."""
        self._errors[self.current.url] = why

    def delay(self, chance: float) -> float:
        """Seconds to wait before the next attempt; `chance` is in [0, 1)."""
        rounds = -(-self.failures // len(self.brokers))
        return self._backoff.delay(rounds, chance)
