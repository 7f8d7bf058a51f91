"""Which failed attempts to connect are logged, and how. Pure: times are arguments."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

REPEAT_S: Final = 60.0
"""Seconds until the same reason is logged again; doubled each time, up to `MAX_REPEAT_S`."""
MAX_REPEAT_S: Final = 3_600.0
CHANGES: Final = 6
"""Changes of the reason logged at once within `REPEAT_S`; beyond it, as a repeated reason: a broker that
alternates must not fill the log."""


class _Outage(Struct):
    """One broker that can't be connected to."""

    since: float
    why: str
    logged: float
    repeat_s: float = REPEAT_S
    attempts: int = 1


class FailureLog:
    """Logs each change of the reason at once, and the present one at a falling rate."""

    def __init__(self) -> None:
        self._outages: dict[str, _Outage] = {}
        self._changes: list[float] = []

    def connected(self, url: str) -> None:
        """A connection has lasted: what happens to it later is logged as new."""
        self._outages.pop(url, None)

    def failed(self, url: str, why: str, now: float) -> str | None:
        """The line to log for this attempt, if any. `now`: seconds of a monotonic clock."""
        outage = self._outages.get(url)
        if outage is None:
            self._outages[url] = _Outage(now, why, now)
            return f"no connection to {url}: {why}"
        outage.attempts += 1
        if why != outage.why and self._may_change(now):
            outage.why, outage.logged, outage.repeat_s = why, now, REPEAT_S
            return f"no connection to {url}: {why}"
        if now - outage.logged < outage.repeat_s:
            return None
        outage.why, outage.logged = why, now
        outage.repeat_s = min(MAX_REPEAT_S, 2 * outage.repeat_s)
        lasted = f"{now - outage.since:.0f} s, {outage.attempts} attempts"
        return f"still no connection to {url} ({lasted}): {why}"

    def _may_change(self, now: float) -> bool:
        self._changes = [at for at in self._changes if now - at < REPEAT_S]
        if len(self._changes) >= CHANGES:
            return False
        self._changes.append(now)
        return True
