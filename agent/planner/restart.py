"""When a failed worker is started again: jittered exponential backoff as a state table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from busbar.bus.backoff import Backoff
from msgspec import Struct

BACKOFF: Final = Backoff(base=0.25, cap=30.0, jitter=(0.8, 1.2))
"""After one crash a worker is ready again well under 2 s (p99); a crash loop costs two starts a minute, and
retries are unlimited."""
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


class _Rule(Struct, frozen=True):
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
