"""Brings the workers to where the assignment wants them: asks `planner.plan` and has its steps carried out.

One loop, woken by every event and by time, makes a full pass each time: events only hasten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.messages import AssignedWorker, Assignment

from .planner import plan
from .planner.lifecycle import Timing
from .state import is_locked
from .workers.adoption import Adoption
from .workers.instances import Hands
from .workers.table import Workers

log = logging.getLogger("busbar.agent")

IDLE_S: Final = 1.0
"""Longest pause between two passes, seconds: the pass is what counts, not the event."""
USAGE_S: Final = 10.0
"""How often CPU and memory are read, seconds."""
ASLEEP_S: Final = 1.0
"""By so much more than the longest pause two passes lie apart only when the agent itself was stopped."""
_PAUSE_S: Final = 0.01
_RETRY_S: Final = 1.0


class Supervisor:
    """Runs the workers of one node. `stats` is called when their usage was read anew."""

    def __init__(
        self,
        hands: Hands,
        clock: Clock,
        random: Random,
        changed: Callable[[], None],
        stats: Callable[[], None],
        timing: Timing | None = None,
    ) -> None:
        self.assignment: Assignment | None = None
        self._wanted: Mapping[str, AssignedWorker] = {}
        self.scanned = asyncio.Event()
        self._clock = clock
        self._stats = stats
        self._wake = asyncio.Event()
        self._first = True
        self._halted = False
        self._passed_at = clock.monotonic()
        self.workers = Workers(hands, clock, random, changed, self._wake.set, timing or Timing())
        self.adoption = Adoption(self.workers)

    def apply(self, assignment: Assignment) -> None:
        """Take an assignment over; its workers are in the very next report."""
        before, self.assignment = self.assignment, assignment
        self._wanted = plan.wanted(assignment) or {}
        if before is None or before.store != assignment.store:
            # Nothing is started before it is known what of this store runs already.
            self.scanned.clear()
        self.workers.admit(self._wanted.values())
        self.adoption.equip(self._wanted)
        self.workers.tell()

    async def run(self) -> None:
        """Supervise until cancelled; workers are left as they are."""
        helper = asyncio.create_task(self._housekeeping(), name="housekeeping")
        try:
            while True:
                self._wake.clear()
                await self._pause(await self._turn())
        finally:
            helper.cancel()
            await self.workers.cancel_tasks()

    async def halt(self, reason: str) -> None:
        """Stop all workers for good, each within its grace and 6 s.

        Raises:
            OSError: /proc can't be read.
        """
        self._halted = True
        await self.workers.halt(reason)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_PAUSE_S, min(seconds, IDLE_S))):
                await self._wake.wait()

    async def _turn(self) -> float:
        """One turn of the loop; after how many seconds the next is due."""
        try:
            if not self.scanned.is_set():
                await self._scan()
            return IDLE_S if self._halted else self._pass()
        except Exception:
            log.exception("a pass failed; the next one follows")
            return _RETRY_S

    async def _scan(self) -> None:
        """Find out what lives. Until that has worked nothing is started: it might run already."""
        store = self.assignment.store if self.assignment else None
        await self.adoption.scan(self.workers.hands.state.records() if self._first else [], store)
        self._first = False
        self.adoption.equip(self._wanted)
        await self.adoption.first_look()
        self.scanned.set()
        self.workers.tell()

    def _pass(self) -> float:
        assigned = None if self.assignment is None else self._wanted
        timing, now = self.workers.timing, self.workers.now()
        gap, self._passed_at = now - self._passed_at - IDLE_S, now
        if gap > ASLEEP_S:
            self.workers.excuse(gap + IDLE_S)
        for step in plan.steps(assigned, self.workers.values(), now, timing):
            self._do(step)
        return plan.next_due(self.workers.values().values(), now) - now

    def _do(self, step: plan.Step) -> None:
        try:
            self._carry_out(step)
        except Exception as error:
            log.exception("worker %s: %s failed", step.oid, type(step).__name__)
            self.workers.broken(self.workers[step.oid], error)

    def _carry_out(self, step: plan.Step) -> None:
        workers = self.workers
        match step:
            case plan.Admit():
                workers.admit([self._wanted[step.oid]])
            case plan.Start():
                self._start(step)
            case plan.Stop():
                workers.stop(workers[step.oid], step.then, step.reason)
            case plan.Probe():
                workers.probe(workers[step.oid], step.live)
            case plan.Forgive():
                workers.forgive(workers[step.oid])

    def _start(self, step: plan.Start) -> None:
        assert self.assignment is not None
        instance, definition = self.workers[step.oid], self._wanted[step.oid]
        log.info("worker %s: start: %s", instance.worker.name, step.reason)
        holder = self.adoption.held.get(step.oid)
        if holder is not None and not is_locked(holder):
            # That agent is gone: its worker becomes ours.
            self.scanned.clear()
            self._wake.set()
            return
        self.workers.begin(instance, definition)
        if holder is not None:
            self.workers.fail(instance, f"another agent of this node runs it on this host (folder {holder})")
        else:
            self.workers.start(instance, definition, self.assignment.store)

    async def _housekeeping(self) -> None:
        """Bounds the logs and reads usage; never ends of itself."""
        due = self._clock.monotonic() + _RETRY_S
        while True:
            await self._clock.sleep(1.0)
            try:
                self.workers.rotate_logs()
                if self._clock.monotonic() >= due:
                    due = self._clock.monotonic() + USAGE_S
                    await self.workers.refresh_usage()
                    self._stats()
            except Exception:
                log.exception("housekeeping failed")
