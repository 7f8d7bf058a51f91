"""The loop that looks, plans and acts: at start, on every change, when a limit falls due, and every second.

It can't die.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Final

from busbar.bus.clock import Clock, wait_or_sleep
from busbar.bus.errors import BusError

from ..log_throttle import Quiet
from ..planner.deadlines import next_due
from ..planner.model import Action, ClusterView, Snapshot
from ..planner.plan import by_node, plan
from ..state.mirror import World
from ..state.node_memory import Observed
from ..store import Store
from ..store.changes import Changes
from .apply import Outcome, apply_all

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
"""The full pass that nothing has to ask for: events only hasten, correctness rests on it."""
PASSES: Final = 20
"""Passes per round; a plan that has not come to rest by then waits for the next second."""
CHUNK: Final = 100
"""Actions in one write: some 10 ms of the loop, so that requests are not kept waiting longer."""
AHEAD: Final = 5
"""Writes handed to the store at once: a large plan is not to wait for its turn after every one of them."""
REST: Final = 4.0
"""Rest after a pass, in lengths of its looking and planning: that takes a fifth of the loop at most."""
GRAIN: Final = 0.001
"""Seconds by which it wakes after a limit: neither a timer's grain nor rounding has it look too early."""


class Monitor:
    """Call `wake` when something may have changed; `run` until cancelled."""

    def __init__(
        self,
        store: Store,
        observed: Observed,
        clock: Clock,
        *,
        manager_id: str = "m1",
        interval: float = INTERVAL_S,
    ) -> None:
        self.world = World(store.reads, observed, clock)
        self._store, self._clock = store, clock
        self._manager_id, self._interval = manager_id, interval
        self._observed, self._looked_at = observed, clock.monotonic()
        self._held, self._due = 0.0, math.inf
        self._woken = asyncio.Event()
        self._quiet = Quiet(clock)
        store.on_commit(self._committed)

    def wake(self) -> None:
        """Have a pass run soon."""
        self._woken.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                at_rest = await self._round()
            except Exception as error:
                self._complain("the monitor stumbled and goes on", error)
                at_rest = False
            if at_rest:
                await self._wait()
            else:
                await self._clock.sleep(self._interval)

    async def step(self) -> bool:
        """One pass: look, plan, act. True when it changed anything, so that another look is due."""
        self._mind_gap()
        began = self._clock.monotonic()
        snapshot = self._look()
        now = self._clock.monotonic()
        actions = by_node(plan(snapshot, now, self._on_error))
        self._due = math.inf if actions else next_due(snapshot, now)
        self._held = self._clock.monotonic() - began
        changed = False
        chunks = [actions[start : start + CHUNK] for start in range(0, len(actions), CHUNK)]
        for start in range(0, len(chunks), AHEAD):
            writes = (self._write(chunk, snapshot) for chunk in chunks[start : start + AHEAD])
            for outcome in await asyncio.gather(*writes):
                changed |= outcome.changed
                for action, error in outcome.failures:
                    self._complain(f"{type(action).__name__} failed ({action.reason})", error)
        return changed

    def _look(self) -> Snapshot:
        """What there is; when the brake was released, those still missing get their whole time again."""
        braked = self._observed.brake
        snapshot = self.world.snapshot()
        if braked and not self._observed.brake:
            self._observed.listen()
            snapshot = self.world.snapshot()
        return snapshot

    def _mind_gap(self) -> None:
        """Where this process stood still (paused, starved), no node is blamed for what it could not hear."""
        before, self._looked_at = self._looked_at, self._clock.monotonic()
        timing = self._observed.timing
        gap = self._looked_at - before
        if gap > self._interval + timing.late_after * timing.heartbeat / 2:
            self._complain(f"the manager stood still for {gap:.0f} s: silence is counted anew")
            self._observed.listen()

    async def _round(self) -> bool:
        """Passes until there is nothing to do; False when it has to be tried again later."""
        for _ in range(PASSES):
            self._woken.clear()
            changed = await self.step()
            await self._clock.sleep(min(self._interval, REST * self._held))
            if not changed:
                return True
        self._complain(f"the plan has not come to rest after {PASSES} passes")
        return False

    async def _write(self, actions: Sequence[Action], snapshot: Snapshot) -> Outcome:
        apply = partial(
            apply_all,
            actions=actions,
            manager_id=self._manager_id,
            heard_since=partial(self._heard_since, snapshot),
        )
        try:
            return await self._store.write(apply)
        except BusError as busy:
            self._complain("nothing can be written for now", busy)
            return Outcome([], changed=False)

    def _heard_since(self, snapshot: Snapshot, node_oid: str) -> bool:
        """Whether a plan of this snapshot is older than the node's last sign of life.

        It may be asked in the store's thread, which sees two numbers, each replaced whole by the loop's.
        """
        node = snapshot.nodes.get(node_oid)
        return node is not None and self._observed.silent_since(node_oid) > node.heard_at

    async def _wait(self) -> None:
        """Until woken, the interval is over, or the next limit falls due."""
        due = self._due - self._clock.monotonic() + GRAIN
        await wait_or_sleep(self._clock, self._woken, min(self._interval, due))

    def _committed(self, changes: Changes) -> None:
        self.world.note(changes)
        if changes.nodes or changes.clusters or changes.groups or changes.workers:
            self.wake()

    def _on_error(self, cluster: ClusterView, error: Exception) -> None:
        self._complain(f"planning cluster {cluster.name} failed; the others go on", error)

    def _complain(self, what: str, error: Exception | None = None) -> None:
        if self._quiet.may(f"{what}: {error!r}"):
            log.error("%s: %s", what, error, exc_info=error) if error else log.warning("%s", what)
