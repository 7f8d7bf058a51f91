"""Makes a failing timeline shorter, by leaving happenings out while the same invariant still breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.faults import Entry, Schedule

TRIES = 150
"""Runs spent on one failure."""


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Delta debugging (Zeller): the shortest timeline found that still fails."""
    best, chunks, tries = schedule.timeline, 2, TRIES
    while len(best) >= 1 and tries > 0:
        found = None
        for part in _without(best, chunks):
            tries -= 1
            if fails(replace(schedule, timeline=part)):
                found = part
                break
        if found is not None:
            best, chunks = found, max(2, chunks - 1)
        elif chunks >= len(best):
            break
        else:
            chunks = min(len(best), 2 * chunks)
    return replace(schedule, timeline=best)


def _without(timeline: tuple[Entry, ...], chunks: int) -> list[tuple[Entry, ...]]:
    """The timeline with each of its chunks left out in turn."""
    size = max(1, -(-len(timeline) // chunks))
    return [timeline[:start] + timeline[start + size :] for start in range(0, len(timeline), size)]
