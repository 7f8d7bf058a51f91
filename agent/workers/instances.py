"""What can be done with one worker's process: start it, adopt it, ask it, stop it. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import msgspec
from busbar.bus.messages import AssignedWorker

from ..planner.lifecycle import Worker
from ..processes import logs
from ..processes.process import Exit, Process, Processes, Start, StopReport
from ..processes.procfs import Found, ProcessRecord, Usage
from ..runtimes import Launch, prepare
from ..state import State, WorkerRecord
from . import recover
from .host import Ground
from .launching import Launcher

log = logging.getLogger("busbar.agent")

REASON_LINES = 5
"""Last lines of a worker's output that become part of its reason."""


@dataclass(slots=True)
class Instance:
    """A worker and the process it has, if any. `started` is monotonic seconds."""

    worker: Worker
    record: WorkerRecord | None = None
    process: Process | None = None
    launch: Launch | None = None
    started: float = 0.0
    usage: Usage = field(default_factory=Usage)

    @property
    def token(self) -> str:
        """Names this very instance; empty before the first."""
        return self.record.token if self.record else ""


class Hands:
    """Carries out. Everything it raises is a reason in words."""

    def __init__(
        self,
        state: State,
        launcher: Launcher,
        processes: Processes,
        new_id: Callable[[], str],
        ground: Ground,
    ) -> None:
        self.ground = ground
        self.state = state
        self.launcher = launcher
        self.processes = processes
        self._new_id = new_id

    def start(self, instance: Instance, worker: AssignedWorker, store: str, taken: Collection[int]) -> None:
        """Render, write the token down, fork, write the pid down. All at once: nothing comes in between.

        Raises:
            RefusedError, RuntimeConfigError, NoPortError, SpawnError, OSError, ValueError: why it can't be.
        """
        before = instance.record
        launch = self.launcher.launch(worker, taken, before.port if before else None)
        folder = self.state.worker_folder(worker.oid)
        prepare(launch, folder)
        scope, generation = self.processes.scope, worker.generation
        record = WorkerRecord(
            oid=worker.oid,
            worker=worker.worker,
            cluster=worker.cluster,
            generation=generation,
            digest=worker.digest,
            token=recover.token(scope, self.state.folder_id, worker.oid, generation, self._new_id()),
            port=launch.port,
            address=launch.address,
            restarts=instance.worker.starts,
            stop_signal=launch.stop_signal,
            grace_s=launch.grace_s,
        )
        self.state.write_record(record)
        instance.record, instance.launch = record, launch
        instance.process = self.processes.spawn(self._start(worker, launch, record, store))
        self._note(instance, instance.process.record)

    def _start(self, worker: AssignedWorker, launch: Launch, record: WorkerRecord, store: str) -> Start:
        return Start(
            worker=worker.worker,
            token=record.token,
            argv=tuple(launch.argv),
            folder=self.state.worker_folder(worker.oid),
            log_path=self.state.log_path(worker.oid),
            env=launch.env,
            marks=recover.marks(worker, store, launch.port, str(self.state.folder)),
        )

    def _note(self, instance: Instance, process: ProcessRecord) -> None:
        assert instance.record is not None
        instance.record = msgspec.structs.replace(
            instance.record,
            pid=process.pid,
            boot_id=process.boot_id,
            start_ticks=process.start_ticks,
            log_from=process.log_from,
        )
        self.keep(instance)

    def keep(self, instance: Instance) -> None:
        """Write the record down; if that fails, the process is still found by its token."""
        if instance.record is not None:
            try:
                self.state.write_record(instance.record)
            except (OSError, ValueError) as error:
                log.warning("record of %s not written: %s", instance.worker.name, error)

    def adopt(self, instance: Instance, process: ProcessRecord) -> bool:
        """Take a living process over; False when it has ended.

        Raises:
            OSError: nothing is known.
        """
        instance.process = self.processes.adopt(process)
        if instance.process is None:
            return False
        self._note(instance, process)
        return True

    def equip(self, instance: Instance, worker: AssignedWorker) -> str | None:
        """Find out how an adopted worker is asked; why not, if its definition can't be rendered here."""
        record = instance.record
        assert record is not None
        try:
            launch = self.launcher.same(worker, record.port)
        except Exception as error:
            return str(error)
        instance.launch = launch
        instance.record = msgspec.structs.replace(
            record, address=launch.address, stop_signal=launch.stop_signal, grace_s=launch.grace_s
        )
        self.keep(instance)
        return None

    async def ask(self, instance: Instance, *, live: bool, timeout_s: float) -> str | None:
        """Ask once; None when it is well. Bounded by `timeout_s`."""
        launch, record = instance.launch, instance.record
        if launch is None or record is None:
            return "its definition is not known yet"
        wanted = launch.live if live else launch.ready
        if wanted is None:
            return None
        path = self.state.log_path(record.oid)
        why = await self.ground.probe(
            wanted, launch.probe_host, launch.port, path, timeout_s, log_from=record.log_from
        )
        if why is not None or live or not launch.own_listener or not launch.port:
            return why
        own = await asyncio.to_thread(self.ground.listens, recover.process_of(record), launch.port)
        return f"port {launch.port} is answered by another process" if own is False else None

    async def stop(self, instance: Instance) -> str | None:
        """Stop whatever there is of it; None when all is gone, else what is left.

        Raises:
            OSError: /proc can't be read.
        """
        record = instance.record
        if record is None:
            return None
        if instance.process is not None:
            report = await self.processes.stop(instance.process, record.stop_signal, record.grace_s)
        else:
            report = await self.processes.sweep(recover.process_of(record))
        if not report.gone:
            return _left(report)
        if instance.process is not None:
            instance.process.close()
            instance.process = None
        return None

    async def sweep(self, instance: Instance) -> str | None:
        """Kill what an instance whose process has ended left behind; None when all is gone.

        Raises:
            OSError: /proc can't be read.
        """
        if instance.record is None:
            return None
        report = await self.processes.sweep(recover.process_of(instance.record))
        return None if report.gone else _left(report)

    def last_words(self, instance: Instance, ended: Exit) -> str:
        """Why it ended: its exit code, and the last lines it wrote."""
        record = instance.record
        lines: list[str] = []
        if record is not None:
            with contextlib.suppress(ValueError):
                lines = logs.tail(self.state.log_path(record.oid), REASON_LINES, start=record.log_from)
        return f"{ended.reason}; last output: {' | '.join(lines)}" if lines else ended.reason

    async def found(self) -> list[Found]:
        """Living processes of this node.

        Raises:
            OSError: /proc can't be read.
        """
        return await asyncio.to_thread(self.processes.found)


def _left(report: StopReport) -> str:
    return f"processes {', '.join(map(str, report.left))} can't be killed"
