"""Operations on one worker's process: start, adopt, probe, stop. Makes no decisions."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Collection

import msgspec
from busbar.bus.clock import Clock
from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import AssignedWorker, Members, Traffic
from msgspec import Struct, field

from ..planner.file_watch import Files, FileWatch, stale_files, was_reloaded
from ..planner.lifecycle import AfterStop, Phase, Worker
from ..planner.members import leaves
from ..planner.mesh_links import MeshLinks
from ..planner.peers import PeersOf, peers_digest
from ..processes import logs
from ..processes.exits import Exit
from ..processes.killing import StopResult
from ..processes.log_history import LogHistory
from ..processes.memory import after_allocation
from ..processes.process import Process, SpawnSpec, WorkerProcesses
from ..processes.procfs import ProcessRecord, Stat, TokenGroup, Usage
from ..runtimes import LaunchSpec, ListenerSpec, Probe, prepare, rewrite_peers
from ..state import RecordedListener, State, WorkerRecord, is_locked, may_run
from . import identity, membership, unseen
from .host import Host
from .spec_renderer import SpecRenderer

log = logging.getLogger("busbar.agent")

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
REASON_LINES = 5
"""Last lines of a worker's log that become part of its reason."""


class Instance(Struct):
    """A worker and its process, if any. `started` is monotonic seconds."""

    worker: Worker
    record: WorkerRecord | None = None
    process: Process | None = None
    spec: LaunchSpec | None = None
    definition: AssignedWorker | None = None
    """That of its process, where it is known."""
    started: float = 0.0
    usage: Usage = field(default_factory=Usage)
    listeners: tuple[Stat, ...] | None = None
    """Its processes that listen on its port; None until they are looked for."""
    files: FileWatch = field(default_factory=FileWatch)
    linked: MeshLinks | None = None
    """The peers that its process is connected to; None while that is not known."""
    traffic: Traffic | None = None
    """What its process last said of its clients; None while that is not known."""
    unseen: str | None = None
    """Why it may live where this agent can't see it, as it was found when it was to be stopped."""
    rotated: bool = False
    """Its log was rotated since its start: its last output may be in the copy."""

    @property
    def token(self) -> str:
        """Unique per start; empty before the first."""
        return self.record.token if self.record else ""

    def own_definition(self, assigned: AssignedWorker) -> AssignedWorker | None:
        """What its process runs: the assigned definition, or the former one while its node finds that bad.

        None: it is about to be replaced, or not known.
        """
        worker, own = self.worker, self.definition
        if worker.matches(assigned.generation, assigned.digest):
            return assigned
        kept = worker.rejected == (assigned.generation, assigned.digest)
        return own if kept and own is not None and worker.matches(own.generation, own.digest) else None


class ProcessRunner:
    """Carries out; the text of every exception is fit for a reason."""

    def __init__(
        self,
        state: State,
        specs: SpecRenderer,
        processes: WorkerProcesses,
        new_id: Callable[[], str],
        host: Host,
    ) -> None:
        self.host = host
        self.state = state
        self.specs = specs
        self.processes = processes
        self._new_id = new_id
        self.history = LogHistory()
        self.peers: PeersOf = {}
        """As the present assignment tells of them."""
        self.members: Members = {}
        """By group, as it tells of them."""

    # --- start and adopt

    def start(self, instance: Instance, worker: AssignedWorker, store: str, taken: Collection[int]) -> None:
        """Render the spec, store the token, fork, store the pid: synchronously, so that nothing interleaves.

        Raises:
            RefusedError, RuntimeConfigError, NoPortError, SpawnError, OSError, ValueError: the reason.
        """
        before = instance.record
        peers = self.peers.get(worker.oid, ())
        spec = self.specs.for_start(worker, taken, before.ports if before else {}, peers)
        prepare(spec, self.state.worker_folder(worker.oid))
        record = self._new_record(instance, worker, spec)
        instance.files = FileWatch(loaded=record.files)
        self._store_token(record)
        self.history.rotate(self.state.log_path(worker.oid))
        instance.rotated = False
        instance.listeners = instance.linked = instance.traffic = None
        instance.record, instance.spec, instance.definition = record, spec, worker
        instance.process = self.processes.spawn(self._spawn_spec(worker, spec, record, store))
        self._record_process(instance, instance.process.record)

    def _store_token(self, record: WorkerRecord) -> None:
        """A full disk stops no start: the process carries the same facts in its environment.

        Raises:
            OSError: another error.
        """
        try:
            self.state.write_record(record)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            log.warning("record of %s not written before its start: %s", record.full_name, error)

    def _new_record(self, instance: Instance, worker: AssignedWorker, spec: LaunchSpec) -> WorkerRecord:
        scope, generation = self.processes.scope, worker.generation
        return WorkerRecord(
            oid=worker.oid,
            worker=worker.worker,
            cluster=worker.cluster,
            generation=generation,
            digest=worker.digest,
            token=identity.token(scope, self.state.folder_id, worker.oid, generation, self._new_id()),
            boot_id=self.host.boot_id(),
            pid_namespace=self.host.pid_namespace(),
            port=spec.port,
            address=spec.address,
            listeners=_recorded(spec),
            restarts=instance.worker.starts,
            stop_signal=spec.stop_signal,
            grace_s=spec.grace_s,
            start=spec.digest,
            peers=peers_digest(self.peers.get(worker.oid, ())),
            files=dict(self.host.identities(spec.watched)),
            kept=instance.record.kept if instance.record is not None else None,
        )

    def _spawn_spec(
        self, worker: AssignedWorker, spec: LaunchSpec, record: WorkerRecord, store: str
    ) -> SpawnSpec:
        return SpawnSpec(
            worker=worker.worker,
            token=record.token,
            argv=tuple(spec.argv),
            folder=self.state.worker_folder(worker.oid),
            log_path=self.state.log_path(worker.oid),
            env=spec.env,
            run_as=spec.run_as,
            memory=spec.memory,
            marks=identity.marks(worker, store, str(self.state.folder), record),
        )

    def _record_process(self, instance: Instance, process: ProcessRecord) -> None:
        assert instance.record is not None
        instance.record = msgspec.structs.replace(
            instance.record,
            pid=process.pid,
            boot_id=process.boot_id,
            start_ticks=process.start_ticks,
            pid_namespace=process.pid_namespace,
            log_from=process.log_from,
            log_inode=self.held_log(instance.record.oid),
        )
        self.save_record(instance)

    def held_log(self, oid: str) -> int:
        """The inode of a living worker's log; 0 where its processes don't hold it."""
        log = logs.hold_of(self.state.log_path(oid))
        return log.inode if log is not None and log.held else 0

    def save_record(self, instance: Instance) -> None:
        """Store the record; if that fails, the process can still be found by its token."""
        if instance.record is not None:
            try:
                self.state.write_record(instance.record)
            except (OSError, ValueError) as error:
                log.warning("record of %s not written: %s", instance.worker.full_name, error)

    def adopt(self, instance: Instance, process: ProcessRecord) -> bool:
        """Take over a living process; False when it has exited.

        Raises:
            OSError: nothing is known.
        """
        instance.process = self.processes.adopt(process)
        if instance.process is None:
            return False
        if instance.record is not None:
            instance.files = FileWatch(loaded=instance.record.files)
        self._record_process(instance, process)
        return True

    def outdated(self, instance: Instance, worker: AssignedWorker) -> str | None:
        """How its start differs from the one it would get now; None when it does not, or it is not known."""
        record = instance.record
        if record is None:
            return None
        try:
            spec = self.specs.for_running(worker, record.ports)
        except Exception as error:
            return f"this node could not start it now: {error}"
        stale = stale_files(instance.files, spec.reloads)
        if stale is not None or record.start in ("", spec.digest):
            return stale
        return f"this node's definition of runtime '{worker.runtime}' has changed since"

    def reload(self, instance: Instance, files: Files) -> bool:
        """Have the router read its files again; False where it is gone, or they have changed once more."""
        spec, record = instance.spec, instance.record
        if spec is None or record is None or spec.reload_signal is None:
            return False
        if dict(self.host.identities(spec.watched)) != dict(files):
            return False
        if not self._signal(record, spec.reload_signal):
            return False
        instance.files = was_reloaded(instance.files, files, spec.reloads)
        instance.record = msgspec.structs.replace(record, files=dict(instance.files.loaded))
        self.save_record(instance)
        return True

    # --- probe

    def attach_probe(self, instance: Instance, worker: AssignedWorker) -> str | None:
        """Give an adopted worker its spec, and so its probes; the error if it can't be rendered here."""
        record = instance.record
        assert record is not None
        try:
            spec = self.specs.for_running(worker, record.ports)
        except Exception as error:
            return str(error)
        instance.spec, instance.definition = spec, worker
        instance.record = msgspec.structs.replace(
            record,
            address=spec.address,
            listeners=_recorded(spec),
            stop_signal=spec.stop_signal,
            grace_s=spec.grace_s,
        )
        self.save_record(instance)
        return None

    async def tell_peers(self, instance: Instance, worker: AssignedWorker) -> str | None:
        """Have a process read its present peers; returns their digest, or None when it is too early.

        Raises:
            RefusedError, RuntimeConfigError, OSError, ValueError: why it could not be told.
        """
        record, process = instance.record, instance.process
        if record is None or process is None:
            return None
        peers = self.peers.get(worker.oid, ())
        spec = self.specs.for_running(worker, record.ports, peers)
        if spec.peer_files:
            if spec.reload_signal is not None and not await self._handles_signals(instance, spec):
                return None
            rewrite_peers(spec, self.state.worker_folder(worker.oid))
            if spec.reload_signal is not None and not self._signal(record, spec.reload_signal):
                if process.running:
                    raise PermissionError(errno.EPERM, "its process can't be signalled")
                return None
        told = peers_digest(peers)
        if instance.record is not None and instance.record.token == record.token:
            instance.record = msgspec.structs.replace(instance.record, peers=told)
            self.save_record(instance)
        return told

    def _signal(self, record: WorkerRecord, signum: int) -> bool:
        return self.processes.signal(identity.process_of(record), signum)

    async def _handles_signals(self, instance: Instance, spec: LaunchSpec) -> bool:
        """A process that does not listen yet may not have set up its signals, and would be ended by one."""
        if instance.worker.phase is Phase.RUNNING:
            return True
        if not spec.own_listener or not spec.port or instance.record is None:
            return False
        record = identity.process_of(instance.record)
        return bool(await asyncio.to_thread(self.host.listens, record, spec.port))

    async def probe(self, instance: Instance, *, live: bool, timeout_s: float) -> str | None:
        """Probe once, within `timeout_s`; None when it is healthy, else the error."""
        spec, record = instance.spec, instance.record
        if spec is None or record is None:
            return "its definition is not known yet"
        error = await self._ask(spec, record, live, timeout_s)
        if error is None and live and spec.own_listener:
            # The kernel accepts a TCP connection for a process that is stopped.
            pids = await self._suspended(instance, spec, record)
            if pids:
                return f"its process is stopped by a signal (state T, pid {', '.join(map(str, pids))})"
        return error

    async def _ask(self, spec: LaunchSpec, record: WorkerRecord, live: bool, timeout_s: float) -> str | None:
        """Probe every listener at once, the primary as the spec says; the first error."""
        wanted = spec.live if live else spec.ready
        if wanted is None:
            return None
        first, *others = spec.listeners or (ListenerSpec("", "", spec.interface, 0),)
        asked = [(wanted, first), *((each.probe, each) for each in others)]
        errors = await asyncio.gather(
            *(self._ask_listener(probe, each, spec, record, live, timeout_s) for probe, each in asked)
        )
        for (_, each), error in zip(asked, errors, strict=True):
            if error is not None:
                return f"listener {each.name}: {error}" if others else error
        return None

    async def _ask_listener(
        self,
        wanted: Probe,
        listener: ListenerSpec,
        spec: LaunchSpec,
        record: WorkerRecord,
        live: bool,
        timeout_s: float,
    ) -> str | None:
        path, port = self.state.log_path(record.oid), listener.port
        process = identity.process_of(record)
        if listener.shared and spec.own_listener:
            return await self.host.probe_shared(wanted, listener, path, timeout_s, process)
        error = await self.host.probe(
            wanted, listener.probe_host, port, path, timeout_s, log_from=record.log_from
        )
        if error is not None or live or not spec.own_listener or not port:
            return error
        own = await asyncio.to_thread(self.host.listens, process, port)
        return f"port {port} is answered by another process" if own is False else None

    async def _suspended(self, instance: Instance, spec: LaunchSpec, record: WorkerRecord) -> list[int]:
        """Its first process, or all that listen on its ports, where a signal has stopped them."""
        if instance.listeners is None:
            ports = list(spec.ports.values())
            instance.listeners = await asyncio.to_thread(self._listeners, identity.process_of(record), ports)
        first = self.host.suspended([(record.pid, record.start_ticks)])
        if first or not instance.listeners:
            return first
        stopped = self.host.suspended([(each.pid, each.start_ticks) for each in instance.listeners])
        return stopped if len(stopped) == len(instance.listeners) else []

    def _listeners(self, process: ProcessRecord, ports: list[int]) -> tuple[Stat, ...]:
        found = {each.pid: each for port in ports for each in self.host.listeners(process, port)}
        return tuple(found.values())

    async def look_at_mesh(self, instance: Instance) -> bool:
        """Ask a worker to which peers it is connected; whether that has changed."""
        spec, before = instance.spec, instance.linked
        if spec is None or spec.mesh is None or instance.worker.oid not in self.peers:
            return False
        found = await self.host.linked(spec.mesh)
        if instance.spec is spec:
            instance.linked = found
        return (found and found.keys()) != (before and before.keys())

    async def look_at_traffic(self, instance: Instance) -> None:
        """Ask a worker for its clients and their messages."""
        spec, process = instance.spec, instance.process
        if spec is None or spec.traffic is None or process is None:
            return
        found = await self.host.traffic(spec.traffic)
        if instance.process is process:
            instance.traffic = found

    # --- stop

    async def leave_cluster(self, instance: Instance, clock: Clock) -> None:
        """Before a stop for good: have a router hand over what it has to the others of its cluster."""
        worker, record = instance.worker, instance.record
        if worker.after_stop is not AfterStop.FORGET or record is None or instance.process is None:
            return
        if leaves(worker.oid, worker.name, worker.cluster, self.members):
            await membership.leave(record, self.state.worker_folder(worker.oid), clock)

    def why_unseen(self, record: WorkerRecord) -> str | None:
        """Why a worker of which no process is found may live all the same; None: it has ended.

        One of which nothing is known has ended as soon as somebody has removed its record.
        """
        here = unseen.Here(self.host.boot_id(), self.host.pid_namespace())
        path = self.state.record_path(record.oid)
        found = unseen.fate(record, here, logs.hold_of(self.state.log_path(record.oid)))
        if found is unseen.Fate.GONE or (found is unseen.Fate.UNKNOWN and not path.exists()):
            return None
        return unseen.reason(record, found, path)

    async def stop(self, instance: Instance) -> str | None:
        """Stop all processes of an instance; None when none is left, else the error.

        Raises:
            OSError: /proc can't be read.
        """
        record = instance.record
        if record is None:
            return None
        if instance.process is not None:
            result = await self.processes.stop(instance.process, record.stop_signal, record.grace_s)
        else:
            if instance.unseen is not None and instance.unseen == self.why_unseen(record):
                return instance.unseen  # what can be seen of it was killed before
            result = await self.processes.kill_leftovers(identity.process_of(record))
        if not result.gone:
            return _survivors(result)
        if instance.process is not None:
            instance.process.close()
            instance.process = None
        else:
            instance.unseen = self.why_unseen(record)
        return instance.unseen

    async def kill_leftovers(self, instance: Instance) -> tuple[int, str | None]:
        """Kill the descendants of an instance that has exited: how many, and the error if any is left.

        Raises:
            OSError: /proc can't be read.
        """
        if instance.record is None:
            return 0, None
        result = await self.processes.kill_leftovers(identity.process_of(instance.record))
        return result.killed, None if result.gone else _survivors(result)

    async def kill_all(self) -> None:
        """Kill every process that an agent with this state folder has started.

        Raises:
            OSError: /proc can't be read.
        """
        for group in await asyncio.to_thread(self.processes.scan):
            ours = identity.is_of_folder(group.token, self.state.folder_id)
            if ours and not self.is_held_elsewhere(group):
                await self.processes.kill_by_token(group.token)

    def is_held_elsewhere(self, group: TokenGroup) -> bool:
        """Whether another agent on this host, which lives, has started these processes."""
        folder = identity.state_folder(group)
        if folder.resolve() == self.state.folder or not is_locked(folder):
            return False
        return may_run(folder, group.marks.get(identity.OID, ""), group.token)

    def describe_exit(self, instance: Instance, end: Exit) -> str:
        """Its exit status, and the last lines of its log."""
        record, reason = instance.record, end.reason
        if record is not None:
            reason = self.processes.killed_for_memory(record.token, end) or reason
        lines: list[str] = []
        if record is not None:
            with contextlib.suppress(ValueError):
                path = self.state.log_path(record.oid)
                lines = logs.tail(path, REASON_LINES, start=record.log_from)
                if not lines and instance.rotated:
                    lines = logs.tail(logs.newest_copy(path), REASON_LINES)
        refused = after_allocation(instance.spec.argv, lines) if instance.spec is not None else None
        reason = f"{reason}; {refused}" if refused else reason
        return f"{reason}; last output: {' | '.join(lines)}" if lines else reason


def _recorded(spec: LaunchSpec) -> dict[str, RecordedListener]:
    """Its named listeners; none where there is only the one without a name."""
    if spec.listener == DEFAULT and not spec.more:
        return {}
    return {each.name: RecordedListener(each.port, each.address) for each in spec.listeners}


def _survivors(result: StopResult) -> str:
    return f"processes {', '.join(map(str, result.survivors))} can't be killed"
