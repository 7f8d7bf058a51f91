"""Plans, one at a time and slice by slice: one of thousands of workers takes seconds, and nobody else waits
for more than a slice of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Final, NamedTuple

from busbar.bus.clock import Clock
from busbar.bus.errors import BusError

from ..slices import Slices

WAITING: Final = 16
"""Plans that wait for their turn; beyond it callers get `busy`."""
OF_ONE: Final = 4
"""Of one caller, waiting and under way: one account can't keep all others out."""
RETRY_MS: Final = 1_000

Begin = Callable[[], Slices[object]]
Done = Callable[[object, float], None]


class _Plan(NamedTuple):
    caller: str
    begin: Begin
    done: Done


class PlanQueue:
    """Takes plans with `submit`; `run` carries them out until it is cancelled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._plans: asyncio.Queue[_Plan] = asyncio.Queue(WAITING)
        self._of = Counter[str]()

    def submit(self, caller: str, begin: Begin, done: Done) -> None:
        """Have `begin` called when all plans before are done; `done` gets the result or the exception, and
        how many seconds the slices took.

        Raises:
            BusError: `busy`: too many plans are waiting, in all or of this caller.
        """
        if self._of[caller] >= OF_ONE:
            detail = f"{OF_ONE} plans of '{caller}' wait for their turn"
            raise BusError("busy", detail, retry_after_ms=RETRY_MS)
        try:
            self._plans.put_nowait(_Plan(caller, begin, done))
        except asyncio.QueueFull:
            detail = f"{WAITING} plans wait for their turn"
            raise BusError("busy", detail, retry_after_ms=RETRY_MS) from None
        self._of[caller] += 1

    async def run(self) -> None:
        """`done` raises nothing."""
        while True:
            plan = await self._plans.get()
            try:
                outcome, seconds = await self._carry_out(plan.begin)
            finally:
                self._of -= Counter((plan.caller,))  # which drops who has none left
            plan.done(outcome, seconds)

    async def _carry_out(self, begin: Begin) -> tuple[object, float]:
        spent = 0.0
        try:
            with closing(begin()) as slices:
                while True:
                    began = self._clock.monotonic()
                    try:
                        next(slices)
                    finally:
                        spent += self._clock.monotonic() - began
                    await self._clock.sleep(0)
        except StopIteration as end:
            return end.value, spent
        except Exception as error:
            return error, spent
