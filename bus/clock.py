"""The only file that reads time or sleeps; timeouts on I/O are asyncio's own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Time as the code may see it; the tests pass a fake one."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; comparable within one boot of one machine."""
        ...

    def time_ns(self) -> int:
        """Wall clock, nanoseconds since 1970: for display, never for decisions."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long (at once for zero or less)."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


async def wait_or_sleep(clock: Clock, event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, for at most `seconds`; then set it."""

    def over(_: object) -> None:
        event.set()

    timer = asyncio.ensure_future(clock.sleep(seconds))
    timer.add_done_callback(over)
    try:
        await event.wait()
    finally:
        timer.remove_done_callback(over)
        timer.cancel()


def rfc3339(time_ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(maxsize=16)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def moment_ns(text: str) -> int:
    """The reverse: RFC 3339, or ISO 8601 in local time where it names no zone.

    Raises:
        ValueError: it is neither.
    """
    moment = datetime.fromisoformat(text)
    return int(moment.astimezone().timestamp() * 1000) * 1_000_000
