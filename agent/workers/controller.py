"""Carries out the planned steps: starts, probes and stops workers, and records each result in the registry.

Slow operations run as one task per worker. A failure in one does not affect another, and a worker whose
process may still live is never treated as one without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final

import msgspec
from busbar.bus.clock import Clock
from busbar.bus.messages import AssignedWorker
from msgspec.structs import replace

from ..planner import lifecycle
from ..planner.file_watch import Files, FileStep, looked
from ..planner.lifecycle import AfterStop, Phase, Worker, WorkerTiming
from ..processes.exits import Exit
from ..processes.process import describe_os_error
from ..runtimes import LaunchSpec
from .process_runner import Instance, ProcessRunner
from .registry import WorkerRegistry
from .vetting import Vetter

log = logging.getLogger("busbar.agent")

PROBE_TIMEOUT_S: Final = 2.0
DAEMONIZED: Final = (
    "it daemonized: its first process exited and left others in the background, which were killed; "
    "have it run in the foreground (such as `daemonize no`, `-F` or `--no-daemon` in its arguments)"
)


class WorkerController:
    """Operates the workers of a registry."""

    def __init__(
        self,
        registry: WorkerRegistry,
        runner: ProcessRunner,
        clock: Clock,
        random: Random,
        timing: WorkerTiming,
        is_wanted: Callable[[AssignedWorker], bool],
    ) -> None:
        self.registry = registry
        self.runner = runner
        self.vetter = Vetter(runner)
        self._is_wanted = is_wanted
        self.timing = timing
        self._clock = clock
        self._random = random
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping_all = False

    def add(self, instance: Instance) -> None:
        """Take over an instance that was found, in place of what is known of its oid."""
        self.registry.add(instance)
        if instance.process is not None:
            self._watch(instance)

    # --- start

    def prepare_start(self, instance: Instance, definition: AssignedWorker) -> Worker:
        """Mark it as starting; returns how it was before."""
        before = instance.worker
        worker = lifecycle.starting(before, definition.generation, definition.digest, self._now())
        self.registry.update(instance, worker)
        return before

    def hold(self, instance: Instance, held: str | None) -> None:
        """Say why it is not started; None: it may be."""
        self.registry.update(instance, lifecycle.holding(instance.worker, held))

    def check_and_start(
        self, instance: Instance, definition: AssignedWorker, store: str, before: Worker
    ) -> None:
        """Start a worker that is marked as starting, once its definition was found good.

        `before` is how it was before it was marked.
        """
        vetting = self.vetter.look(instance, definition, start=True)
        key = definition.generation, definition.digest
        spec, replaces = vetting.spec, before.proven not in (None, key)
        if vetting.error is not None:
            self._refuse(instance, definition, store, before, vetting.error)
        elif spec is None or instance.worker.checked == key or not (spec.checks_starts or replaces):
            self.start(instance, definition, store)
        else:
            self._run_task(self._check_and_start(instance, definition, store, before, spec), instance)

    async def _check_and_start(
        self, instance: Instance, definition: AssignedWorker, store: str, before: Worker, spec: LaunchSpec
    ) -> None:
        error = await self.vetter.run_check(definition, spec)
        if not self._is_wanted(definition):
            self.registry.update(instance, lifecycle.start_withdrawn(instance.worker, self._now()))
        elif error is not None:
            self._refuse(instance, definition, store, before, error)
        else:
            key = definition.generation, definition.digest
            self.registry.update(instance, lifecycle.check_passed(instance.worker, key))
            self.start(instance, definition, store)

    def start_kept(self, instance: Instance, definition: AssignedWorker, store: str, before: Worker) -> None:
        """As `check_and_start`, for a definition that was rejected of late."""
        self._refuse(instance, definition, store, before, before.rejection or "")

    def _refuse(
        self, instance: Instance, definition: AssignedWorker, store: str, before: Worker, error: str
    ) -> None:
        """A definition was found bad at its start: the worker comes back with what it was ready with last."""
        key = definition.generation, definition.digest
        kept = instance.record.kept if instance.record is not None else None
        if kept is None or before.proven in (None, key):
            self.fail(instance, error)
            return
        if before.rejection != error:
            log.warning("worker %s: generation %d is not started: %s", before.full_name, key[0], error)
        encodable = error.encode("utf-8", "replace").decode()
        fallen = lifecycle.falling_back(before, key, self._now(), encodable, self.timing)
        self.registry.update(instance, fallen)
        self.start(instance, kept, store)

    def check(self, instance: Instance, definition: AssignedWorker) -> None:
        """Look at the definition that is to replace a running instance's, which goes on meanwhile."""
        vetting = self.vetter.look(instance, definition, start=False)
        if vetting.error is not None or vetting.spec is None:
            self._record_check(instance, definition, vetting.error)
            return
        self.registry.update(instance, lifecycle.check_begun(instance.worker))
        self._run_task(self._check(instance, definition, vetting.spec), instance)

    async def _check(self, instance: Instance, definition: AssignedWorker, spec: LaunchSpec) -> None:
        try:
            error = await self.vetter.run_check(definition, spec)
        except Exception as failure:
            # A bug of ours must not stop a worker that runs.
            log.exception("worker %s: a check failed", instance.worker.full_name)
            error = f"internal error: {failure}"
        self._record_check(instance, definition, error)

    def look_at_files(self, instance: Instance, definition: AssignedWorker, files: Files) -> None:
        """After a look at the files of a running instance: have it reload them, or say that they changed."""
        spec, worker = instance.spec, instance.worker
        if spec is None or worker.phase is not Phase.RUNNING or worker.busy or worker.checking:
            return
        instance.files, step = looked(instance.files, files, spec.reloads)
        if step is FileStep.NONE:
            return
        outdated = self.runner.outdated(instance, definition)
        self.registry.update(instance, replace(worker, outdated=outdated, not_reloaded=None))
        if step is FileStep.RELOAD:
            self._run_task(self._reload(instance, definition, files), instance)

    async def _reload(self, instance: Instance, definition: AssignedWorker, files: Files) -> None:
        """What the router's own checker refuses is not loaded: it goes on with what it has read."""
        token, name = instance.token, instance.worker.full_name
        vetting = self.vetter.look(instance, definition, start=False)
        error = vetting.error
        if error is None and vetting.spec is not None:
            try:
                error = await self.vetter.run_check(definition, vetting.spec)
            except Exception as failure:
                # A bug of ours must not stop a worker that runs.
                log.exception("worker %s: a check failed", name)
                error = f"internal error: {failure}"
        if instance.token != token or instance.worker.phase is not Phase.RUNNING:
            return
        if error is not None:
            log.warning("worker %s: changed files are not loaded: %s", name, error)
            encodable = error.encode("utf-8", "replace").decode()
            self.registry.update(instance, replace(instance.worker, not_reloaded=encodable))
        elif self.runner.reload(instance, files):
            log.info("worker %s: it reads its changed files again", name)
        else:
            # They changed while they were judged, or it is ending: the next look tells.
            instance.files = replace(instance.files, judged={})

    def forget_rejections(self, desired: Mapping[str, AssignedWorker], *, all_of_them: bool = False) -> None:
        """Those of definitions that are assigned no longer, or all; what is assigned is looked at anew."""
        for instance in self.registry.all():
            worker, definition = instance.worker, desired.get(instance.worker.oid)
            key = (definition.generation, definition.digest) if definition is not None else None
            if definition is not None and key is not None and lifecycle.is_way_back(worker, key):
                self._go_back(instance, definition)
            elif worker.rejected is not None and (all_of_them or worker.rejected != key):
                self.registry.update(instance, lifecycle.rejection_forgotten(worker))

    def _go_back(self, instance: Instance, definition: AssignedWorker) -> None:
        """A bad update was taken back before it had touched the worker: its process is what is asked for."""
        key, before = (definition.generation, definition.digest), instance.worker
        kept = {"kept": definition} if before.proven == (before.generation, before.digest) else {}
        instance.definition = definition
        self.registry.update(instance, lifecycle.way_back(before, key))
        self._update_record(instance, generation=definition.generation, **kept)
        log.info("worker %s: goes on as generation %d, which is what it runs", before.full_name, key[0])

    def _record_check(self, instance: Instance, definition: AssignedWorker, error: str | None) -> None:
        key = definition.generation, definition.digest
        if not self._is_wanted(definition):
            self.registry.update(instance, replace(instance.worker, checking=False))
            return
        if error is None:
            self.registry.update(instance, lifecycle.check_passed(instance.worker, key))
            return
        if instance.worker.rejection != error:
            log.warning(
                "worker %s: generation %d is not started: %s", instance.worker.full_name, key[0], error
            )
        encodable = error.encode("utf-8", "replace").decode()
        failed = lifecycle.check_failed(instance.worker, key, self._now(), encodable, self.timing)
        self.registry.update(instance, failed)

    def start(self, instance: Instance, definition: AssignedWorker, store: str) -> None:
        """Start a worker that is marked as starting; if that fails it waits for its next start."""
        others = (each for each in self.registry.all() if each is not instance and each.worker.alive)
        ports = {port for each in others if each.record for port in each.record.ports.values()}
        try:
            self.runner.start(instance, definition, store, ports)
        except Exception as error:
            if instance.process is not None:
                raise
            self.fail(instance, _start_failure(error))
            return
        assert instance.spec is not None
        instance.started = self._now()
        self._watch(instance)
        self.registry.update(
            instance, lifecycle.spawned(instance.worker, self._now(), instance.spec.start_deadline_s)
        )

    # --- probes

    def probe(self, instance: Instance, live: bool) -> None:
        """Start a probe."""
        instance.worker = lifecycle.probing(instance.worker)
        self._run_task(self.probe_once(instance, live), instance)

    async def probe_once(self, instance: Instance, live: bool) -> None:
        """Probe once, within `PROBE_TIMEOUT_S` seconds, and record the result."""
        token = instance.token
        error = await self.runner.probe(instance, live=live, timeout_s=PROBE_TIMEOUT_S)
        if instance.token == token and instance.worker.phase in (Phase.STARTING, Phase.RUNNING):
            self._record_probe(instance, error)

    def _record_probe(self, instance: Instance, error: str | None) -> None:
        worker, now = instance.worker, self._now()
        if error is not None:
            self.registry.update(instance, lifecycle.probe_failed(worker, now, error, self.timing))
            return
        healthy = lifecycle.probe_succeeded(worker, now, self.timing)
        self.registry.update(instance, healthy)
        if worker.phase is Phase.STARTING:
            log.info("worker %s: ready at %s", worker.full_name, instance.record and instance.record.address)
            kept = {} if instance.definition is None else {"kept": instance.definition}
            log_inode = self.runner.held_log(instance.worker.oid)  # it may have closed what it inherited
            self._update_record(instance, ready=True, log_inode=log_inode, **kept)

    def _update_record(self, instance: Instance, **changes: object) -> None:
        if instance.record is not None:
            instance.record = msgspec.structs.replace(instance.record, **changes)
            self.runner.save_record(instance)

    def extend_deadlines(self, seconds: float) -> None:
        """The agent was suspended for so long: that time counts against no worker's deadline."""
        log.warning("this agent was suspended for about %.1f s", seconds)
        for instance in self.registry.all():
            if instance.worker.alive:
                self.registry.update(instance, lifecycle.agent_suspended(instance.worker, seconds))

    def tell_peers(self, instance: Instance, definition: AssignedWorker) -> None:
        """Tell its process of its present peers."""
        own = instance.own_definition(definition)
        if own is None:
            # It is about to be replaced, and is told of them then.
            later = lifecycle.peers_later(instance.worker, self._now(), self.timing)
            self.registry.update(instance, later)
            return
        self.registry.update(instance, lifecycle.telling_peers(instance.worker))
        self._run_task(self._tell_peers(instance, own), instance)

    async def _tell_peers(self, instance: Instance, definition: AssignedWorker) -> None:
        token = instance.token
        try:
            told = await self.runner.tell_peers(instance, definition)
        except Exception as error:
            reason = _start_failure(error).encode("utf-8", "replace").decode()
            if instance.worker.peers_error != reason:
                log.warning("worker %s: not told of its peers: %s", instance.worker.full_name, reason)
            if instance.token == token:
                failed = lifecycle.peers_not_told(instance.worker, self._now(), reason, self.timing)
                self.registry.update(instance, failed)
            return
        if instance.token != token:
            return
        if told is None:
            later = lifecycle.peers_later(instance.worker, self._now(), self.timing)
            self.registry.update(instance, later)
            return
        log.info("worker %s: told of its peers", instance.worker.full_name)
        self.registry.update(instance, lifecycle.peers_told(instance.worker, self._now(), told, self.timing))

    def reset_backoff(self, instance: Instance) -> None:
        """It has been ready long enough."""
        self.registry.update(instance, lifecycle.backoff_reset(instance.worker))

    # --- exits

    def _watch(self, instance: Instance) -> None:
        process, token = instance.process, instance.token
        assert process is not None

        def on_exit(exited: asyncio.Future[Exit]) -> None:
            if not exited.cancelled() and instance.token == token:
                self._on_exit(instance, exited.result())

        process.exited.add_done_callback(on_exit)

    def _on_exit(self, instance: Instance, end: Exit) -> None:
        if self._stopping_all or instance.worker.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        description = self.runner.describe_exit(instance, end)
        log.warning("worker %s: %s", instance.worker.full_name, description)
        if instance.process is not None:
            instance.process.close()
        instance.process = None
        self.fail(instance, description)
        self.kill_leftovers(instance, daemonized=end.code == 0)

    def kill_leftovers(self, instance: Instance, *, daemonized: bool = False) -> None:
        """Kill the descendants of its last process; it is not started again before they are gone.

        `daemonized`: if there are any, it went to the background, and its reason says so.
        """
        self.registry.update(instance, replace(instance.worker, busy=True))
        self._run_task(self._kill_leftovers(instance, daemonized), instance)

    async def _kill_leftovers(self, instance: Instance, daemonized: bool) -> None:
        failure = instance.worker.last_failure
        while True:
            killed, error = await self.runner.kill_leftovers(instance)
            if killed and daemonized:
                failure = f"{DAEMONIZED} ({failure})"
                daemonized = False
            if error is None:
                break
            self.registry.update(instance, replace(instance.worker, last_failure=error))
            await self._clock.sleep(self.timing.stop_again)
        self.registry.update(instance, replace(instance.worker, busy=False, last_failure=failure))

    def fail(self, instance: Instance, failure: str) -> None:
        """It has no process, and backs off before its next start."""
        # A file name in an error may not be valid UTF-8.
        encodable = failure.encode("utf-8", "replace").decode()
        failed = lifecycle.failed(instance.worker, self._now(), encodable, self._random.random())
        self.registry.update(instance, replace(failed, busy=False))

    # --- stop

    def stop(self, instance: Instance, after: AfterStop, reason: str) -> None:
        """Stop it; `after` is what follows once no process of it is left."""
        if instance.worker.phase is not Phase.STOPPING:
            log.info("worker %s: stop: %s", instance.worker.full_name, reason)
        self.registry.update(instance, lifecycle.stopping(instance.worker, self._now(), after, reason))
        self._run_task(self._stop(instance), instance)

    async def _stop(self, instance: Instance) -> None:
        await self.runner.leave_cluster(instance, self._clock)
        error = await self.runner.stop(instance)
        if error is not None:
            if error != instance.worker.stop_error:
                log.error("worker %s: %s", instance.worker.full_name, error)
            failed = lifecycle.stop_failed(instance.worker, self._now(), error, self.timing)
            self.registry.update(instance, failed)
            return
        instance.spec = None
        stopped = lifecycle.stopped(instance.worker, self._now(), self._random.random())
        if stopped is not None:
            # The next agent must not take an orderly stop for a crash.
            self._update_record(instance, stopped=instance.worker.after_stop is not AfterStop.BACKOFF)
            self.registry.update(instance, stopped)
            return
        await asyncio.to_thread(self.runner.state.forget, instance.worker.oid)
        self.registry.forget(instance)

    def recover_from_error(self, instance: Instance, error: Exception) -> None:
        """A bug of ours, not a failure of the worker: its process, if any, is stopped before a new start."""
        reason, worker = f"internal error: {error}", instance.worker
        if worker.phase is not Phase.STOPPING:
            if instance.process is None:
                self.fail(instance, reason)
                return
            worker = lifecycle.stopping(worker, self._now(), AfterStop.BACKOFF, reason)
        self.registry.update(instance, lifecycle.stop_failed(worker, self._now(), reason, self.timing))

    async def stop_all(self, reason: str) -> None:
        """Stop all workers (each within its grace period and 6 s), then kill what this state folder has left.

        Raises:
            OSError: /proc can't be read.
        """
        self._stopping_all = True
        await self.cancel_tasks()
        instances = self.registry.all()
        for instance in instances:
            stopping = lifecycle.stopping(instance.worker, self._now(), AfterStop.HOLD, reason)
            self.registry.update(instance, stopping)
        await asyncio.gather(*(self._stop(each) for each in instances), return_exceptions=True)
        await self.runner.kill_all()

    # --- tasks

    def _run_task(self, work: Awaitable[None], instance: Instance) -> None:
        """Run a slow operation on one worker."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                log.exception("worker %s: a task failed", instance.worker.full_name)
                self.recover_from_error(instance, error)

        task = asyncio.create_task(guarded(), name=f"worker {instance.worker.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel_tasks(self) -> None:
        """Cancel all operations; the next agent resumes a stop that was under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)

    def _now(self) -> float:
        return self._clock.monotonic()


def _start_failure(error: Exception) -> str:
    if isinstance(error, OSError):
        about = f": {error.filename}" if error.filename else ""
        return f"can't start it: {describe_os_error(error)}{about}"
    return str(error) or type(error).__name__
