"""Notices a connection that has gone deaf: what a manager says of itself has to come back. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final

QUIET_BEATS: Final = 2.0
"""After so many heartbeat intervals without any message the manager listens for its own echo: in a fleet that
is heard it never has to."""
BOUND_S: Final = 6.0
"""By then the echo must be here: a broker that takes five seconds still serves."""


class Step(Enum):
    """What is to be done now."""

    NOTHING = 0
    ASK = 1
    """Say something that has to come back."""
    RECONNECT = 2
    """It did not come back."""


class Echo:
    """Call `heard` with the time of every message, `look` every second or so. Times are monotonic seconds."""

    def __init__(self, heartbeat: float, now: float) -> None:
        self._quiet = QUIET_BEATS * heartbeat
        self._heard = self._looked = now
        self._asked: float | None = None

    def heard(self, at: float) -> None:
        """A message came in, the echo or any other."""
        self._heard = max(self._heard, at)

    def look(self, now: float, connected: bool) -> Step:
        """Whether to ask, to give the connection up, or to go on."""
        stood_still = now - self._looked > BOUND_S
        self._looked = now
        if not connected or stood_still:
            # A new connection, or one whose messages wait still to be read, has all the time again.
            self._heard, self._asked = now, None
        elif self._asked is not None and self._heard >= self._asked:
            self._asked = None
        elif self._asked is not None and now - self._asked >= BOUND_S:
            self._heard, self._asked = now, None
            return Step.RECONNECT
        elif self._asked is None and now - self._heard >= self._quiet:
            self._asked = now
            return Step.ASK
        return Step.NOTHING
