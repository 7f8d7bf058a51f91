"""Detects a connection that no longer receives: the manager's own state must come back as an echo. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final

IDLE_HEARTBEATS: Final = 2.0
"""Probe after so many heartbeat intervals without a message; with nodes online that never happens."""
ECHO_TIMEOUT_S: Final = 6.0
"""A broker that takes five seconds still serves."""


class Step(Enum):
    """What the caller has to do."""

    NOTHING = 0
    PROBE = 1
    """Publish something that comes back."""
    RECONNECT = 2
    """The echo is missing."""


class LinkWatchdog:
    """Call `heard` with the time of every message, `check` every second. Times are monotonic seconds."""

    def __init__(self, heartbeat: float, now: float) -> None:
        self._idle_s = IDLE_HEARTBEATS * heartbeat
        self._heard = self._checked = now
        self._probed: float | None = None
        self.silences = 0
        """How often in a row nothing came back."""

    def heard(self, at: float) -> None:
        """A message came in, the echo or any other."""
        self._heard = max(self._heard, at)

    def check(self, now: float, connected: bool) -> Step:
        """Whether to probe, to reconnect, or to do nothing."""
        was_suspended = now - self._checked > ECHO_TIMEOUT_S
        self._checked = now
        if not connected or was_suspended:
            # Start over on a new connection, and where unread messages may be waiting.
            self._heard, self._probed = now, None
        elif self._probed is not None and self._heard >= self._probed:
            self._probed, self.silences = None, 0
        elif self._probed is not None and now - self._probed >= ECHO_TIMEOUT_S:
            self._heard, self._probed = now, None
            self.silences += 1
            return Step.RECONNECT
        elif self._probed is None and now - self._heard >= self._idle_s:
            self._probed = now
            return Step.PROBE
        return Step.NOTHING
