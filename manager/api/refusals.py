"""The audit of refused requests: counted in memory, one row per caller, operation, error and hour.

They have a table of their own, so that who is refused without end pushes no change out of the audit; that
costs one small write every few seconds.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final, NamedTuple

from busbar.bus.clock import Clock
from busbar.bus.errors import BusError

from ..store import Store, Tx
from ..store.rows import RefusalRow

log = logging.getLogger("busbar.dispatch")

EVERY_S: Final = 5.0
PERIOD_NS: Final = 3600 * 10**9
KINDS: Final = 32
"""Rows of one caller per hour; further ones are folded into one whose operation is `OTHERS`."""
CALLERS: Final = 1_024
"""Callers per hour; the refusals of further ones are folded into those of `OTHERS`."""
OTHERS: Final = "*"
WAITING: Final = 4_096
"""Rows kept while the store can't be written."""
MAX_OP: Final = 64
MAX_DETAIL: Final = 256


class _Key(NamedTuple):
    caller: str
    op: str
    outcome: str


class Refusals:
    """`note` counts a refusal; `run` writes what was counted, until it is cancelled, and never fails."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._counted: dict[tuple[int, _Key], RefusalRow] = {}
        self._period = -1
        self._kinds: dict[str, set[_Key]] = {}
        """What each caller was refused in this hour."""

    def note(self, caller: str, op: str, outcome: str, detail: str, request_id: str | None = None) -> None:
        """A request was refused with the error code `outcome`."""
        now = self._clock.time_ns()
        if now // PERIOD_NS != self._period:
            self._flush()
            self._period = now // PERIOD_NS
            self._kinds.clear()
        key = self._folded(_Key(caller, op[:MAX_OP], outcome))
        earlier = self._counted.get((self._period, key))
        self._counted[self._period, key] = RefusalRow(
            self._period,
            *key,
            first=earlier.first if earlier else now,
            last=now,
            count=earlier.count + 1 if earlier else 1,
            request_id=request_id,
            detail=detail[:MAX_DETAIL],
        )

    async def run(self) -> None:
        try:
            while True:
                await self._clock.sleep(EVERY_S)
                self._flush()
        finally:
            self._flush()

    def _folded(self, key: _Key) -> _Key:
        if key.caller not in self._kinds and len(self._kinds) >= CALLERS:
            key = key._replace(caller=OTHERS)
        kinds = self._kinds.setdefault(key.caller, set())
        if key not in kinds and len(kinds) >= KINDS:
            key = key._replace(op=OTHERS, outcome=OTHERS)
        kinds.add(key)
        return key

    def _flush(self) -> None:
        """Write without waiting; what can't be written is counted with the next ones."""
        rows, self._counted = self._counted, {}
        if not rows:
            return
        try:
            self._store.submit(partial(_write, rows=list(rows.values())), partial(self._written, rows))
        except BusError as error:
            self._written(rows, error)

    def _written(self, rows: dict[tuple[int, _Key], RefusalRow], outcome: object) -> None:
        if not isinstance(outcome, Exception):
            return
        log.warning("the refused requests are not in the audit yet: %s", outcome)
        for key, row in rows.items():
            later = self._counted.get(key)
            if later is not None:
                self._counted[key] = later.after(row)
            elif len(self._counted) < WAITING:
                self._counted[key] = row


def _write(tx: Tx, rows: list[RefusalRow]) -> None:
    for row in rows:
        tx.add_refusal(row)
