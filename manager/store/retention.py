"""Retention: deletes old rows in small steps, each in its own commit, so that other writes wait briefly."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.errors import BusError
from msgspec import Struct

from . import Store, Tx

log = logging.getLogger("busbar.retention")

REPLIES: Final = "requests_bytes"
EVERY_S: Final = 5.0
STEP: Final = 1_000
"""Rows deleted in one commit, over all tables: about 10 ms."""
STEPS: Final = 100
"""Commits per round; the next round deletes the rest."""


class Bounds(Struct, frozen=True):
    """What is kept: replies for `requests_s` seconds (contract, section 3) and up to `requests_bytes`, the
    rest by number of rows."""

    requests_s: float = 24 * 3600.0
    requests_rows: int = 500_000
    requests_bytes: int = 64 * 1024 * 1024
    events: int = 100_000
    audit: int = 100_000
    refusals: int = 10_000
    outbox: int = 200_000

    def plan(self, now_ns: int) -> list[tuple[str, int]]:
        """The steps of one round: a statement's name and its bound."""
        return [
            ("requests_age", now_ns - int(self.requests_s * 1e9)),
            ("requests_rows", self.requests_rows),
            (REPLIES, self.requests_bytes),
            ("events", self.events),
            ("audit", self.audit),
            ("refusals", self.refusals),
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
        """One round; returns the number of deleted rows."""
        total, plan = 0, self._bounds.plan(self._clock.time_ns())
        for _ in range(STEPS):
            deleted = await self._store.write(partial(_prune, plan=plan))
            total += deleted
            if deleted < STEP:
                break
        return total


def _prune(tx: Tx, plan: Sequence[tuple[str, int]]) -> int:
    """One step over the tables in order; returns the number of deleted rows."""
    deleted = 0
    for name, bound in plan:
        prune = tx.prune_replies if name == REPLIES else partial(tx.prune, name)
        deleted += prune(bound, STEP - deleted)
        if deleted >= STEP:
            break
    return deleted
