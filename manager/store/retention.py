"""Keeps the database small: old rows go in small steps, each in a commit of its own, so that nobody waits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.errors import BusError

from . import Store, Tx

log = logging.getLogger("busbar.retention")

EVERY_S: Final = 5.0
STEP: Final = 1_000
"""Rows deleted in one commit, of all tables together: some 10 ms."""
STEPS: Final = 100
"""Commits per round; what is left waits for the next."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: replies for `requests_s` seconds (contract, section 3), the rest by rows."""

    requests_s: float = 24 * 3600.0
    requests_rows: int = 500_000
    events: int = 100_000
    audit: int = 100_000
    outbox: int = 200_000

    def plan(self, now_ns: int) -> list[tuple[str, int]]:
        """The steps of one round: a statement's name and its bound."""
        return [
            ("requests_age", now_ns - int(self.requests_s * 1e9)),
            ("requests_rows", self.requests_rows),
            ("events", self.events),
            ("audit", self.audit),
            ("outbox", self.outbox),
        ]


class Retention:
    """Prunes every few seconds; `run` lasts until cancelled and never fails."""

    def __init__(self, store: Store, clock: Clock, bounds: Bounds | None = None) -> None:
        self._store = store
        self._clock = clock
        self._bounds = bounds or Bounds()

    async def run(self) -> None:
        while True:
            await self._clock.sleep(EVERY_S)
            try:
                await self.prune()
            except BusError as error:
                log.debug("pruning waits: %s", error)
            except Exception:
                log.exception("pruning failed; trying again")

    async def prune(self) -> int:
        """One round; returns how many rows went."""
        total, plan = 0, self._bounds.plan(self._clock.time_ns())
        for _ in range(STEPS):
            gone = await self._store.write(partial(_prune, plan=plan))
            total += gone
            if gone < STEP:
                break
        return total


def _prune(tx: Tx, plan: Sequence[tuple[str, int]]) -> int:
    """One step: what the first tables leave of it is for the next ones. Returns how many rows went."""
    gone = 0
    for name, bound in plan:
        gone += tx.prune(name, bound, STEP - gone)
        if gone >= STEP:
            break
    return gone
