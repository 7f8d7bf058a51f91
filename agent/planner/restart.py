"""When a failed worker is started again: jittered exponential backoff as a state table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BASE_S: Final = 0.25
"""Seconds before the first restart: after one crash a worker is ready again well under 2 s (p99)."""
FACTOR: Final = 2.0
CAP_S: Final = 30.0
"""Longest delay before jitter, seconds: a crash loop costs two starts a minute, and is never given up."""
JITTER: Final = 0.2
"""Largest relative change of a delay, so that workers that failed together do not restart together."""
STABLE_S: Final = 10.0
"""Seconds a worker must have been ready before its failure count is reset."""


class Outcome(StrEnum):
    """What happened to a worker, as far as its backoff is concerned."""

    FAILED = "failed"
    """It exited, hung, missed its start deadline or could not be started, before it was stable."""
    FAILED_AFTER_STABLE = "failed_after_stable"
    """The same, after it had been ready for at least `STABLE_S`."""
    STABLE = "stable"
    """It has now been ready for `STABLE_S`."""
    REPLACED = "replaced"
    """It got a new definition: failures of the old one do not count."""


@dataclass(frozen=True, slots=True)
class _Rule:
    keep: bool
    add: int


_TABLE: Final[Mapping[Outcome, _Rule]] = {
    Outcome.FAILED: _Rule(keep=True, add=1),
    Outcome.FAILED_AFTER_STABLE: _Rule(keep=False, add=1),
    Outcome.STABLE: _Rule(keep=False, add=0),
    Outcome.REPLACED: _Rule(keep=False, add=0),
}


def failures_after(consecutive_failures: int, outcome: Outcome) -> int:
    """The number of consecutive failures after this outcome."""
    rule = _TABLE[outcome]
    return (consecutive_failures if rule.keep else 0) + rule.add


def classify_failure(ready_for_s: float | None) -> Outcome:
    """Classify a failure by how many seconds the worker had been ready (None: it never was)."""
    if ready_for_s is not None and ready_for_s >= STABLE_S:
        return Outcome.FAILED_AFTER_STABLE
    return Outcome.FAILED


def next_delay(consecutive_failures: int, random_0_1: float) -> float:
    """Seconds to wait before the next start; `random_0_1` from 0 to 1 sets the jitter.

    No failure means no wait. Retries are unlimited.
    """
    if consecutive_failures <= 0:
        return 0.0
    # 2.0 ** 1024 overflows: past the cap the exponent no longer matters.
    delay = min(CAP_S, BASE_S * FACTOR ** min(consecutive_failures - 1, 64))
    return delay * (1.0 + JITTER * (2.0 * min(1.0, max(0.0, random_0_1)) - 1.0))
