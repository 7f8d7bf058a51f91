"""When a worker that ended is started again: jittered exponential backoff as a state table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from busbar.bus.backoff import Backoff

BACKOFF: Final = Backoff(base=0.25, cap=30.0, jitter=(0.8, 1.2))
"""A single crash is to be ready again well under 2 s (p99); a crash loop costs two starts a minute, and a
worker is never given up."""
STABLE_S: Final = 10.0
"""Seconds a worker must have been ready for its earlier failures to be forgotten."""


class Happened(StrEnum):
    """What befell a worker, as far as its restarts are concerned."""

    FAILED = "failed"
    """It ended, hung, missed its start deadline, or could not be started; it had not been stable."""
    FAILED_AFTER_STABLE = "failed_after_stable"
    """The same, after it had been ready for at least `STABLE_S`."""
    STABLE = "stable"
    """It has now been ready for `STABLE_S`."""
    REPLACED = "replaced"
    """It was given a new definition: what the old one did says nothing about it."""


@dataclass(frozen=True, slots=True)
class _Rule:
    keep: bool
    add: int


_TABLE: Final[Mapping[Happened, _Rule]] = {
    Happened.FAILED: _Rule(keep=True, add=1),
    Happened.FAILED_AFTER_STABLE: _Rule(keep=False, add=1),
    Happened.STABLE: _Rule(keep=False, add=0),
    Happened.REPLACED: _Rule(keep=False, add=0),
}


def failures_after(consecutive_failures: int, happened: Happened) -> int:
    """Count of consecutive failures once `happened` is taken into account."""
    rule = _TABLE[happened]
    return (consecutive_failures if rule.keep else 0) + rule.add


def judge(ready_for_s: float | None) -> Happened:
    """Say what an end means, given how long the worker had been ready (None: it never was), in seconds."""
    if ready_for_s is not None and ready_for_s >= STABLE_S:
        return Happened.FAILED_AFTER_STABLE
    return Happened.FAILED
