"""The node's workers: what happens to each is turned into its next value, and told.

What takes long runs as a task per worker. No failure of one reaches another, and a worker whose process may
still live is never taken for one without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from busbar.bus.clock import Clock
from busbar.bus.messages import AssignedWorker, ReportedWorker

from ..planner import lifecycle
from ..planner.lifecycle import Phase, Then, Timing, Worker
from ..processes import logs
from ..processes.process import Exit, said
from .instances import Hands, Instance

log = logging.getLogger("busbar.agent")

PROBE_TIMEOUT_S: Final = 2.0


class Workers:
    """All workers by oid. `changed` is called after what a report would show, `wake` to have a pass made."""

    def __init__(
        self,
        hands: Hands,
        clock: Clock,
        random: Random,
        changed: Callable[[], None],
        wake: Callable[[], None],
        timing: Timing,
    ) -> None:
        self.hands = hands
        self.timing = timing
        self._by_oid: dict[str, Instance] = {}
        self._clock = clock
        self._random = random
        self._changed = changed
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._halted = False

    def __len__(self) -> int:
        return len(self._by_oid)

    def __getitem__(self, oid: str) -> Instance:
        return self._by_oid[oid]

    def all(self) -> list[Instance]:
        """Every instance, also those without a process."""
        return list(self._by_oid.values())

    def values(self) -> dict[str, Worker]:
        """What is known of each, for `agent.planner.plan`."""
        return {oid: instance.worker for oid, instance in self._by_oid.items()}

    def put(self, instance: Instance) -> None:
        """Take in one that was found, in place of what is known of its oid."""
        self._by_oid[instance.worker.oid] = instance
        if instance.process is not None:
            self._watch(instance)
        self.tell()

    def admit(self, assigned: Collection[AssignedWorker]) -> None:
        """Take in those that are new, and those that were about to be forgotten."""
        for each in assigned:
            known = self._by_oid.get(each.oid)
            if known is not None:
                self.set(known, lifecycle.wanted_again(known.worker))
                continue
            new = lifecycle.admitted(
                each.oid, each.worker, each.cluster, each.generation, each.digest, self.now()
            )
            self._by_oid[each.oid] = Instance(new)
            self.tell()

    # --- start

    def begin(self, instance: Instance, definition: AssignedWorker) -> None:
        """From here on it is starting."""
        worker = lifecycle.begun(instance.worker, definition.generation, definition.digest, self.now())
        self.set(instance, worker)

    def start(self, instance: Instance, definition: AssignedWorker, store: str) -> None:
        """Start a worker that was begun; if that fails it waits for its next try."""
        others = (each for each in self._by_oid.values() if each is not instance and each.worker.alive)
        ports = {each.record.port for each in others if each.record}
        try:
            self.hands.start(instance, definition, store, ports - {0})
        except Exception as error:
            if instance.process is not None:
                raise
            self.fail(instance, _why(error))
            return
        assert instance.launch is not None
        instance.started = self.now()
        self._watch(instance)
        self.set(instance, lifecycle.spawned(instance.worker, self.now(), instance.launch.start_deadline_s))

    # --- probes

    def probe(self, instance: Instance, live: bool) -> None:
        """Ask it, and take the answer in."""
        instance.worker = lifecycle.probing(instance.worker)
        self.spawn(self.look(instance, live), instance)

    async def look(self, instance: Instance, live: bool) -> None:
        """Ask once, within `PROBE_TIMEOUT_S` seconds."""
        token = instance.token
        why = await self.hands.ask(instance, live=live, timeout_s=PROBE_TIMEOUT_S)
        if instance.token == token and instance.worker.phase in (Phase.STARTING, Phase.RUNNING):
            self._answer(instance, why)

    def _answer(self, instance: Instance, why: str | None) -> None:
        worker, now = instance.worker, self.now()
        if why is not None:
            self.set(instance, lifecycle.silent(worker, now, why, self.timing))
            return
        answer = lifecycle.answered(worker, now, self.timing)
        watched = instance.launch is None or instance.launch.live is not None
        self.set(instance, answer if watched else replace(answer, probe_at=lifecycle.NEVER))
        if worker.phase is Phase.STARTING:
            log.info("worker %s: ready at %s", worker.name, instance.record and instance.record.address)
            self._keep(instance, ready=True)

    def _keep(self, instance: Instance, **changes: Any) -> None:
        if instance.record is not None:
            instance.record = msgspec.structs.replace(instance.record, **changes)
            self.hands.keep(instance)

    def excuse(self, seconds: float) -> None:
        """The agent itself slept for so long: nobody's deadline ran meanwhile."""
        log.warning("this agent was stopped for some %.1f s", seconds)
        for instance in self.all():
            if instance.worker.alive:
                self.set(instance, lifecycle.slept(instance.worker, seconds))

    # --- the end of a process, wanted or not

    def _watch(self, instance: Instance) -> None:
        process, token = instance.process, instance.token
        assert process is not None

        def ended(future: asyncio.Future[Exit]) -> None:
            if not future.cancelled() and instance.token == token:
                self._ended(instance, future.result())

        process.exited.add_done_callback(ended)

    def _ended(self, instance: Instance, end: Exit) -> None:
        if self._halted or instance.worker.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        words = self.hands.last_words(instance, end)
        log.warning("worker %s: %s", instance.worker.name, words)
        if instance.process is not None:
            instance.process.close()
        instance.process = None
        self.fail(instance, words)
        self.sweep(instance)

    def forgive(self, instance: Instance) -> None:
        """It has been well for long enough."""
        self.set(instance, lifecycle.stable(instance.worker))

    def sweep(self, instance: Instance) -> None:
        """Kill what its last process left behind; nothing is started before that is done."""
        self.set(instance, replace(instance.worker, busy=True))
        self.spawn(self._sweep(instance), instance)

    async def _sweep(self, instance: Instance) -> None:
        while (why := await self.hands.sweep(instance)) is not None:
            self.set(instance, replace(instance.worker, cause=why))
            await self._clock.sleep(self.timing.stop_again)
        self.set(instance, replace(instance.worker, busy=False))

    def stop(self, instance: Instance, then: Then, reason: str) -> None:
        """Stop it, and do `then` when nothing of it is left."""
        log.info("worker %s: stop: %s", instance.worker.name, reason)
        self.set(instance, lifecycle.stopping(instance.worker, self.now(), then, reason))
        self.spawn(self._stop(instance), instance)

    async def _stop(self, instance: Instance) -> None:
        why = await self.hands.stop(instance)
        if why is not None:
            log.error("worker %s: %s", instance.worker.name, why)
            self.set(instance, lifecycle.not_gone(instance.worker, self.now(), why, self.timing))
            return
        instance.launch = None
        left = lifecycle.gone(instance.worker, self.now(), self._random.random())
        if left is not None:
            # What was stopped in good order is not taken for a crash by the next agent.
            self._keep(instance, stopped=instance.worker.then is not Then.BACKOFF)
            self.set(instance, left)
            return
        await self._forget(instance)

    async def _forget(self, instance: Instance) -> None:
        """Keep nothing of it; what was assigned again meanwhile is never missing from a report."""
        await asyncio.to_thread(self.hands.state.forget, instance.worker.oid)
        was = instance.worker
        self._by_oid.pop(was.oid, None)
        if was.then is not Then.FORGET:
            new = lifecycle.admitted(was.oid, was.name, was.cluster, was.generation, was.digest, self.now())
            self._by_oid[was.oid] = Instance(new)
        self.tell()

    def fail(self, instance: Instance, cause: str) -> None:
        """It has no process, and waits for its next start."""
        # A file's name in an error may hold what is no UTF-8.
        sayable = cause.encode("utf-8", "replace").decode()
        failed = lifecycle.failed(instance.worker, self.now(), sayable, self._random.random())
        self.set(instance, replace(failed, busy=False))

    def broken(self, instance: Instance, error: Exception) -> None:
        """Something went wrong here, not with the worker: whatever it has is stopped before a new start."""
        why, worker = f"internal error: {error}", instance.worker
        if worker.phase is Phase.STOPPING:
            self.set(instance, lifecycle.not_gone(worker, self.now(), why, self.timing))
        elif instance.process is not None:
            stopping = lifecycle.stopping(worker, self.now(), Then.BACKOFF, why)
            self.set(instance, lifecycle.not_gone(stopping, self.now(), why, self.timing))
        else:
            self.fail(instance, why)

    async def halt(self, reason: str) -> None:
        """Stop all of them (each within its grace and 6 s), and what else is left of this state folder.

        Raises:
            OSError: /proc can't be read.
        """
        self._halted = True
        await self.cancel_tasks()
        for instance in self.all():
            self.set(instance, lifecycle.stopping(instance.worker, self.now(), Then.HOLD, reason))
        await asyncio.gather(*(self._stop(each) for each in self.all()), return_exceptions=True)
        for left in await self.hands.found():
            if f":{self.hands.state.folder_id}:" in left.token:
                await self.hands.processes.sweep_token(left.token)

    def close(self) -> None:
        """Stop watching; every worker goes on."""
        for instance in self._by_oid.values():
            if instance.process is not None:
                instance.process.close()

    # --- what is told

    def reported(self) -> list[ReportedWorker]:
        """Every worker as it is now."""
        found = [_reported(instance, self.now()) for instance in self._by_oid.values()]
        return sorted(found, key=lambda each: (each.cluster or "", each.worker, each.oid or ""))

    def log_of(self, worker: str, cluster: str | None) -> Path | None:
        """The log of a worker by name; None when there is none of that name."""
        for instance in self._by_oid.values():
            known = instance.worker
            if known.name == worker and cluster in (None, known.cluster) and instance.record is not None:
                return self.hands.state.log_path(instance.record.oid)
        return None

    async def refresh_usage(self) -> None:
        """Read CPU and memory of every worker, in one pass over /proc.

        Raises:
            OSError: /proc can't be read.
        """
        living = {each.token: each for each in self._by_oid.values() if each.process is not None}
        records = [each.process.record for each in living.values() if each.process is not None]
        for token, usage in (await self.hands.processes.usage(records)).items():
            living[token].usage = usage

    def rotate_logs(self) -> None:
        """Bound what the workers have written."""
        for instance in self._by_oid.values():
            if instance.process is not None and instance.record is not None:
                logs.rotate_if_needed(self.hands.state.log_path(instance.record.oid))

    def set(self, instance: Instance, worker: Worker) -> None:
        """Make this its present value, and tell if a report would show it."""
        before, instance.worker = instance.worker, worker
        if _told(before) != _told(worker):
            self._changed()
        self._wake()

    def tell(self) -> None:
        """Have it reported, and have a pass made."""
        self._changed()
        self._wake()

    def spawn(self, work: Coroutine[Any, Any, None], instance: Instance) -> None:
        """Run something that takes long on behalf of one worker."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                log.exception("worker %s: a task failed", instance.worker.name)
                self.broken(instance, error)

        task = asyncio.create_task(guarded(), name=f"worker {instance.worker.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel_tasks(self) -> None:
        """End what is under way; a stop that was begun is taken up again by the next agent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()


def _why(error: Exception) -> str:
    """Wherever the start failed: what is short is said in the same words."""
    if isinstance(error, OSError):
        about = f": {error.filename}" if error.filename else ""
        return f"can't start it: {said(error)}{about}"
    return str(error) or type(error).__name__


def _told(worker: Worker) -> tuple[object, ...]:
    return worker.phase, worker.starts, worker.generation, lifecycle.reason(worker)


def _reported(instance: Instance, now: float) -> ReportedWorker:
    worker, process, record = instance.worker, instance.process, instance.record
    lives = process is not None and process.running
    return ReportedWorker(
        worker=worker.name,
        state=str(lifecycle.shown(worker)),
        generation=worker.generation,
        pid=process.record.pid if process is not None and lives else None,
        address=(record.address or None) if record is not None and lives else None,
        restarts=worker.restarts,
        reason=lifecycle.reason(worker),
        oid=worker.oid,
        cluster=worker.cluster or None,
        uptime_ms=int(max(0.0, now - instance.started) * 1000) if lives else None,
        cpu_s=round(instance.usage.cpu_s, 2) if lives else None,
        rss=instance.usage.rss_bytes if lives else None,
    )
