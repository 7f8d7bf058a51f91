"""Rate limit per caller: a token bucket and a limit on changes in flight. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from msgspec import Struct

MAX_CALLERS: Final = 1_024
"""Buckets kept; the one idle for longest is dropped first, and starts full again."""
IN_FLIGHT_RETRY_MS: Final = 50


class _Bucket(Struct):
    tokens: float
    at: float
    in_flight: int = 0


class Limits:
    """Admits requests. `rate` is requests per second and caller, `burst` the bucket's size; `now` seconds."""

    def __init__(self, rate: float, burst: int, in_flight: int, max_callers: int = MAX_CALLERS) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._in_flight = in_flight
        self._max_callers = max_callers
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, caller: str, now: float, cost: float = 1.0) -> int | None:
        """Take `cost` tokens: None when it may run, else the milliseconds after which to retry."""
        bucket = self._bucket(caller, now)
        if bucket is None:
            return IN_FLIGHT_RETRY_MS
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.in_flight >= self._in_flight:
            return IN_FLIGHT_RETRY_MS
        cost = min(cost, self._burst)
        if bucket.tokens < cost:
            return max(1, math.ceil((cost - bucket.tokens) / self._rate * 1000))
        bucket.tokens -= cost
        return None

    def charge(self, caller: str, cost: float) -> None:
        """Take tokens for the actual cost of an admitted request; the bucket may go negative."""
        bucket = self._buckets.get(caller)
        if bucket is not None:
            bucket.tokens = max(-self._burst, bucket.tokens - cost)

    def began(self, caller: str) -> None:
        """A change of this caller is in flight."""
        bucket = self._buckets.get(caller)
        if bucket is not None:
            bucket.in_flight += 1

    def ended(self, caller: str) -> None:
        """It is answered."""
        bucket = self._buckets.get(caller)
        if bucket is not None:
            bucket.in_flight = max(0, bucket.in_flight - 1)

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, caller: str, now: float) -> _Bucket | None:
        """This caller's bucket, now the most recently used; None when all buckets have changes in flight."""
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= self._max_callers and not self._evict():
                return None
            bucket = self._buckets[caller] = _Bucket(self._burst, now)
        self._buckets.move_to_end(caller)
        return bucket

    def _evict(self) -> bool:
        idle = next((name for name, bucket in self._buckets.items() if bucket.in_flight == 0), None)
        if idle is None:
            return False
        del self._buckets[idle]
        return True
