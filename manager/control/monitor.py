"""The control loop: snapshot, plan, apply. It runs on every change, when a limit falls due, and every second.

An exception ends a pass, never the loop.
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

from ..log_throttle import LogThrottle
from ..planner.deadlines import next_due
from ..planner.describe import Describer
from ..planner.failing import AVOID_S
from ..planner.model import Action, ClusterView, Relocate, SetPeers, Snapshot
from ..planner.plan import by_node, plan
from ..state.mirror import StateCache
from ..state.node_memory import NodeMemory
from ..store import Store
from ..store.changes import Changes
from .apply import Outcome, apply_all

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
"""Interval of the periodic pass, on which correctness rests; changes only trigger it earlier."""
PASSES: Final = 20
"""Passes per round; a plan that has not converged by then continues after `INTERVAL_S`."""
CHUNK: Final = 100
"""Actions in one write: some 10 ms of the event loop, which bounds how long requests wait for it."""
AHEAD: Final = 5
"""Writes queued at once, so that a large plan does not requeue behind requests after each of them."""
REST: Final = 4.0
"""Pause after a pass, in durations of its snapshot and plan: these take a fifth of the loop at most."""
GRAIN: Final = 0.001
"""Seconds by which it wakes after a limit, so that timer resolution and rounding do not make it early."""


class Monitor:
    """The loop. Call `wake` when something may have changed."""

    def __init__(
        self,
        store: Store,
        memory: NodeMemory,
        clock: Clock,
        *,
        manager_id: str = "m1",
        interval: float = INTERVAL_S,
    ) -> None:
        self.cache = StateCache(store.reads, memory, clock, lambda: store.max_packet)
        self._store, self._clock = store, clock
        self._manager_id, self._interval = manager_id, interval
        self._memory, self._passed_at = memory, clock.monotonic()
        self._pass_s, self._due = 0.0, math.inf
        self._woken = asyncio.Event()
        self._throttle = LogThrottle(clock)
        store.on_commit(self._committed)

    def wake(self) -> None:
        """Have a pass run soon."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                at_rest = await self._round()
            except Exception as error:
                self._log("a pass of the monitor failed; it goes on", error)
                at_rest = False
            if at_rest:
                await self._wait()
            else:
                await self._clock.sleep(self._interval)

    async def step(self) -> bool:
        """One pass: snapshot, plan, apply. True when it changed anything, so that another pass is due."""
        self._check_gap()
        began = self._clock.monotonic()
        snapshot = self._snapshot()
        now = self._clock.monotonic()
        actions = by_node(plan(snapshot, now, self._on_error))
        self._due = math.inf if actions else next_due(snapshot, now)
        self._pass_s = self._clock.monotonic() - began
        changed, describer = False, Describer(snapshot)
        chunks = [actions[start : start + CHUNK] for start in range(0, len(actions), CHUNK)]
        for start in range(0, len(chunks), AHEAD):
            writes = (self._write(chunk, snapshot) for chunk in chunks[start : start + AHEAD])
            for outcome in await asyncio.gather(*writes):
                changed |= outcome.changed
                for line in describer.lines(outcome.done) if log.isEnabledFor(logging.INFO) else ():
                    log.info("%s", line)
                for action, error in outcome.failures:
                    self._log(f"{type(action).__name__} failed ({action.reason})", error)
        for action in actions:
            if isinstance(action, Relocate):
                self._memory.avoid(action.group_oid, action.node_oid, now + AVOID_S)
            elif isinstance(action, SetPeers):
                self._memory.told_peers(action.node_oid)
        return changed

    def _snapshot(self) -> Snapshot:
        """The present state; when the hold was lifted, nodes still silent get their full limit again."""
        hold = self._memory.hold
        snapshot = self.cache.snapshot()
        if hold and not self._memory.hold:
            self._memory.start_listening()
            snapshot = self.cache.snapshot()
        return snapshot

    def _check_gap(self) -> None:
        """After this process was paused or starved, silence counts anew: it could not hear the nodes."""
        before, self._passed_at = self._passed_at, self._clock.monotonic()
        timing = self._memory.timing
        gap = self._passed_at - before
        if gap > self._interval + timing.late_after * timing.heartbeat / 2:
            self._log(f"the manager was paused for {gap:.0f} s: silence counts anew")
            self._memory.start_listening()

    async def _round(self) -> bool:
        """Passes until nothing is left to do; False when that did not come."""
        for _ in range(PASSES):
            self._woken.clear()
            changed = await self.step()
            await self._clock.sleep(min(self._interval, REST * self._pass_s))
            if not changed:
                return True
        self._log(f"the plan has not converged after {PASSES} passes")
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
            self._log("nothing can be written for now", busy)
            return Outcome([], changed=False)

    def _heard_since(self, snapshot: Snapshot, node_oid: str) -> bool:
        """Whether the node has been heard since this snapshot.

        May be called in the store's thread: it reads two numbers, each of which is replaced atomically.
        """
        node = snapshot.nodes.get(node_oid)
        return node is not None and self._memory.silent_since(node_oid) > node.heard_at

    async def _wait(self) -> None:
        """Until woken, the interval is over, or the next limit falls due."""
        due = self._due - self._clock.monotonic() + GRAIN
        await wait_or_sleep(self._clock, self._woken, min(self._interval, due))

    def _committed(self, changes: Changes) -> None:
        self.cache.invalidate(changes)
        if changes.nodes or changes.clusters or changes.groups or changes.workers:
            self.wake()

    def _on_error(self, cluster: ClusterView, error: Exception) -> None:
        self._log(f"planning cluster {cluster.name} failed; the others go on", error)

    def _log(self, what: str, error: Exception | None = None) -> None:
        if self._throttle.allows(f"{what}: {error!r}"):
            log.error("%s: %s", what, error, exc_info=error) if error else log.warning("%s", what)
