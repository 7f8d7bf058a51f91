"""The reconcile loop: has `planner.plan` compare workers with the assignment, and carries out its steps.

Every event and a timer wake it, and each pass looks at everything: a lost event only costs time.
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

from .planner import lifecycle, plan
from .planner.lifecycle import WorkerTiming
from .planner.peers import NONE, peers_by_worker, peers_digest
from .state import is_locked
from .workers.adoption import Adoption
from .workers.controller import WorkerController
from .workers.departed import EVERY_S as MEMBERS_S
from .workers.departed import Departed
from .workers.files import WatchedFiles
from .workers.mesh import EVERY_S as MESHES_S
from .workers.process_runner import ProcessRunner
from .workers.registry import WorkerRegistry

log = logging.getLogger("busbar.agent")

IDLE_S: Final = 1.0
"""Longest pause between two passes, seconds."""
USAGE_S: Final = 10.0
"""Interval of reading CPU and memory, seconds."""
FILES_S: Final = 5.0
"""Interval of looking at the files that running workers depend on, seconds."""
ROTATE_S: Final = 1.0
ROTATE_SOON_S: Final = 0.1
"""Interval of looking at the logs' sizes, seconds; the short one while a worker floods its log."""
SUSPENDED_S: Final = 1.0
"""If two passes lie apart by so much more than the longest pause, the agent itself was suspended."""
_MIN_PAUSE_S: Final = 0.01
_RETRY_S: Final = 1.0


class WorkerSupervisor:
    """Supervises the workers of one node. `on_usage` is called after their usage was read.

    `max_workers`: no worker is started beyond this number; None is no limit.
    """

    def __init__(
        self,
        runner: ProcessRunner,
        clock: Clock,
        random: Random,
        changed: Callable[[], None],
        on_usage: Callable[[], None],
        timing: WorkerTiming | None = None,
    ) -> None:
        self.assignment: Assignment | None = None
        self.max_workers: int | None = None
        self.connected: Callable[[], bool] = lambda: True
        self.scanned = asyncio.Event()
        self._wake = asyncio.Event()
        self.registry = WorkerRegistry(
            runner.state,
            runner.processes,
            clock,
            changed,
            self._wake.set,
            runner.history,
            lambda: runner.peers,
        )
        self.controller = WorkerController(
            self.registry, runner, clock, random, timing or WorkerTiming(), self._is_wanted
        )
        self.adoption = Adoption(self.controller)
        self.files = WatchedFiles(clock)
        self._desired: Mapping[str, AssignedWorker] = {}
        self._peers: Mapping[str, str] = {}
        self._clock = clock
        self._on_usage = on_usage
        self._first_scan = True
        self._stopping_all = False
        self._last_pass = clock.monotonic()

    def apply(self, assignment: Assignment) -> None:
        """Make this the desired state; the next report has all of its workers."""
        before, self.assignment = self.assignment, assignment
        self._desired = plan.desired_workers(assignment) or {}
        self.controller.runner.peers = told = peers_by_worker(assignment)
        self._peers = {oid: peers_digest(peers) for oid, peers in told.items()}
        self.controller.runner.members = assignment.members or {}
        if before is None or before.store != assignment.store:
            # Nothing is started before it is known which workers of this store run already.
            self.scanned.clear()
        self.registry.admit(self._desired.values())
        self._judge_anew()
        self.registry.notify()

    def check_starts(self) -> None:
        """After a change of the runtimes: which workers would be started otherwise now."""
        self._judge_anew(all_of_them=True)
        self.adoption.check_starts(self._desired)

    def _judge_anew(self, *, all_of_them: bool = False) -> None:
        """Definitions or runtimes have changed. What goes on as another definition is known only then."""
        self.controller.forget_rejections(self._desired, all_of_them=all_of_them)
        self.adoption.attach_probes(self._desired)

    async def run(self) -> None:
        """Reconcile until cancelled; the workers go on."""
        beside = [
            asyncio.create_task(self._housekeeping(), name="housekeeping"),
            asyncio.create_task(self._watch_usage(), name="usage"),
            asyncio.create_task(self._watch_meshes(), name="meshes"),
            asyncio.create_task(self._watch_members(), name="members"),
        ]
        try:
            while True:
                self._wake.clear()
                await self._pause(await self._run_once())
        finally:
            for task in beside:
                task.cancel()
            await self.controller.cancel_tasks()

    async def stop_all(self, reason: str) -> None:
        """Stop all workers for good, each within its grace period and 6 s.

        Raises:
            OSError: /proc can't be read.
        """
        self._stopping_all = True
        await self.controller.stop_all(reason)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_MIN_PAUSE_S, min(seconds, IDLE_S))):
                await self._wake.wait()

    async def _run_once(self) -> float:
        """One turn of the loop; returns the seconds until the next is due."""
        try:
            if not self.scanned.is_set():
                await self._scan()
            return IDLE_S if self._stopping_all else self._reconcile()
        except Exception:
            log.exception("a pass failed, and is repeated")
            return _RETRY_S

    async def _scan(self) -> None:
        """Find the living workers. Nothing is started before this has succeeded: it might run already."""
        store = self._store()
        read = self.controller.runner.state.records
        records = await asyncio.to_thread(read) if self._first_scan else []
        await self.adoption.scan(records, store)
        self._first_scan = False
        self.adoption.attach_probes(self._desired)
        await self.adoption.probe_adopted()
        self.scanned.set()
        self.registry.notify()

    def _store(self) -> str | None:
        return self.assignment.store if self.assignment else None

    def _reconcile(self) -> float:
        desired = None if self.assignment is None else self._desired
        timing, now = self.controller.timing, self._clock.monotonic()
        overdue, self._last_pass = now - self._last_pass - IDLE_S, now
        if overdue > SUSPENDED_S:
            self.controller.extend_deadlines(overdue + IDLE_S)
        self._note_peers()
        for step in plan.reconcile(desired, self.registry.snapshot(), now, timing, self.max_workers):
            try:
                self._carry_out(step)
            except Exception as error:
                log.exception("worker %s: %s failed", step.oid, type(step).__name__)
                self.controller.recover_from_error(self.registry[step.oid], error)
        return plan.next_due(self.registry.snapshot().values(), now) - now

    def _note_peers(self) -> None:
        """Note which peers each worker is to know; the plan compares them with those that it knows."""
        for instance in self.registry.all():
            oid = instance.worker.oid
            wanted = self._peers.get(oid, NONE)
            if oid in self._desired and instance.worker.peers != wanted:
                instance.worker = lifecycle.with_peers(instance.worker, wanted)

    def _carry_out(self, step: plan.Step) -> None:
        match step:
            case plan.AdmitWorker():
                self.registry.admit([self._desired[step.oid]])
            case plan.StartWorker():
                self._start(step)
            case plan.HoldWorker():
                self.controller.hold(self.registry[step.oid], step.held)
            case plan.CheckWorker():
                self.controller.check(self.registry[step.oid], self._desired[step.oid])
            case plan.StopWorker():
                self.controller.stop(self.registry[step.oid], step.after, step.reason)
            case plan.ProbeWorker():
                self.controller.probe(self.registry[step.oid], step.live)
            case plan.TellPeers():
                self.controller.tell_peers(self.registry[step.oid], self._desired[step.oid])
            case plan.ResetBackoff():
                self.controller.reset_backoff(self.registry[step.oid])

    def _start(self, step: plan.StartWorker) -> None:
        assert self.assignment is not None
        instance, definition = self.registry[step.oid], self._desired[step.oid]
        log.info("worker %s: start: %s", instance.worker.full_name, step.reason)
        holder = self.adoption.held_elsewhere.get(step.oid)
        if holder is not None and not is_locked(holder):
            # The other agent is gone: scan again and adopt its worker.
            self.scanned.clear()
            self._wake.set()
            return
        before = self.controller.prepare_start(instance, definition)
        if holder is not None:
            reason = f"another agent of this node runs it on this host (folder {holder})"
            self.controller.fail(instance, reason)
        elif step.kept:
            self.controller.start_kept(instance, definition, self.assignment.store, before)
        else:
            self.controller.check_and_start(instance, definition, self.assignment.store, before)

    def _is_wanted(self, definition: AssignedWorker) -> bool:
        """Whether a definition that was looked at for a while is the assigned one still."""
        return self._desired.get(definition.oid) == definition and not self._stopping_all

    async def _look_at_files(self) -> None:
        """Find files of running workers that have changed."""
        for oid, files in (await self.files.look(self.registry.all())).items():
            definition = self._desired.get(oid)
            if definition is None or oid not in self.registry.snapshot():
                continue
            instance = self.registry[oid]
            if (own := instance.own_definition(definition)) is not None:
                self.controller.look_at_files(instance, own, files)

    async def _watch_meshes(self) -> None:
        """Finds out which workers are connected to their peers, until cancelled."""
        while True:
            await self._clock.sleep(MESHES_S)
            try:
                looks = (self.controller.runner.look_at_mesh(each) for each in self.registry.all())
                if any(await asyncio.gather(*looks)):
                    self.registry.notify()
            except Exception:
                log.exception("a look at the meshes failed")

    async def _watch_members(self) -> None:
        """Has routers remove those from their clusters that are gone for good, until cancelled."""
        departed = Departed(self.registry, self.controller.runner)
        while True:
            await self._clock.sleep(MEMBERS_S)
            try:
                # Without a connection, newer members may have come that this agent has not heard of.
                if self.connected():
                    await departed.look()
                else:
                    departed.forget()
            except Exception:
                log.exception("a look at the members of clusters failed")

    async def _housekeeping(self) -> None:
        """Rotates logs and looks at files, until cancelled."""
        files_due = self._clock.monotonic() + _RETRY_S
        flooded = False
        while True:
            await self._clock.sleep(ROTATE_SOON_S if flooded else ROTATE_S)
            try:
                flooded = self.registry.rotate_logs()
                if self._clock.monotonic() >= files_due:
                    files_due = self._clock.monotonic() + FILES_S
                    await self._look_at_files()
            except Exception:
                log.exception("housekeeping failed")

    async def _watch_usage(self) -> None:
        """Reads usage and asks routers for their traffic, both at once, until cancelled."""
        await self._clock.sleep(_RETRY_S)
        while True:
            try:
                looks = (self.controller.runner.look_at_traffic(each) for each in self.registry.all())
                await asyncio.gather(self.registry.refresh_usage(), *looks)
                await self.adoption.recount_foreign()
                self._on_usage()
            except Exception:
                log.exception("reading usage failed")
            await self._clock.sleep(USAGE_S)
