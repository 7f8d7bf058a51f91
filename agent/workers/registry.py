"""The node's workers by oid: what is known of each, and what a report shows of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from busbar.bus.clock import Clock
from busbar.bus.messages import AssignedWorker, ReportedWorker
from busbar.bus.states import WorkerState
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ..planner import lifecycle
from ..planner.lifecycle import Worker
from ..planner.mesh_links import MeshLinks
from ..planner.peers import PeersOf
from ..processes import logs
from ..processes.log_history import LogHistory
from ..processes.process import WorkerProcesses
from ..runtimes import ListenerSpec
from ..state import State, WorkerRecord
from .mesh import seen
from .process_runner import Instance


class WorkerRegistry:
    """`changed` is called after a change that a report would show, `wake` after any, to reconcile."""

    def __init__(
        self,
        state: State,
        processes: WorkerProcesses,
        clock: Clock,
        changed: Callable[[], None],
        wake: Callable[[], None],
        history: LogHistory,
        peers_of: Callable[[], PeersOf] = dict,
    ) -> None:
        self.history = history
        self._by_oid: dict[str, Instance] = {}
        self._state, self._processes, self._clock = state, processes, clock
        self._changed, self._wake = changed, wake
        self._peers_of = peers_of

    def __len__(self) -> int:
        return len(self._by_oid)

    def __getitem__(self, oid: str) -> Instance:
        return self._by_oid[oid]

    def has_processes(self) -> bool:
        """Whether one of the workers has a process, or may have one that is not seen."""
        return self.has_unseen() or any(each.process is not None for each in self._by_oid.values())

    def has_unseen(self) -> bool:
        """Whether one of the workers is not known to have ended, though no process of it is seen."""
        found = self._by_oid.values()
        return any(each.process is None and each.worker.phase is lifecycle.Phase.STOPPING for each in found)

    def all(self) -> list[Instance]:
        """Every instance, also those without a process."""
        return list(self._by_oid.values())

    def alive(self) -> int:
        """How many have, or may have, a process."""
        return sum(1 for instance in self._by_oid.values() if instance.worker.alive)

    def wildcards(self) -> int:
        """How many run that listen on all interfaces, so that clients are told the node's own address."""
        specs = [each.spec for each in self._by_oid.values() if each.worker.alive and each.spec is not None]
        return sum(1 for spec in specs if any(map(_is_wildcard, spec.listeners)))

    def held(self) -> int:
        """How many are assigned and not started for a limit of this node."""
        return sum(1 for instance in self._by_oid.values() if instance.worker.held)

    def snapshot(self) -> dict[str, Worker]:
        """The state of each worker, for `agent.planner.plan`."""
        return {oid: instance.worker for oid, instance in self._by_oid.items()}

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()

    # --- changes

    def add(self, instance: Instance) -> None:
        """Add an instance, or replace the one with its oid."""
        self._by_oid[instance.worker.oid] = instance
        self.notify()

    def admit(self, assigned: Collection[AssignedWorker]) -> None:
        """Add those that are new; keep those that were to be forgotten after their stop."""
        for each in assigned:
            known = self._by_oid.get(each.oid)
            if known is not None:
                self.update(known, lifecycle.reassigned(known.worker))
                continue
            worker = (each.oid, each.worker, each.cluster, each.generation, each.digest)
            self.add(Instance(lifecycle.admitted(*worker, self.now())))

    def forget(self, instance: Instance) -> None:
        """Remove it; one that was assigned again meanwhile is replaced, so that no report lacks it."""
        was = instance.worker
        self._by_oid.pop(was.oid, None)
        if was.after_stop is not lifecycle.AfterStop.FORGET:
            new = lifecycle.admitted(was.oid, was.name, was.cluster, was.generation, was.digest, self.now())
            self._by_oid[was.oid] = Instance(new)
        self.notify()

    def update(self, instance: Instance, worker: Worker) -> None:
        """Set its state, and have it reported if a report shows the difference."""
        before, instance.worker = instance.worker, worker
        if _reported_part(before) != _reported_part(worker):
            self._changed()
        self._wake()

    def notify(self) -> None:
        """Have a report sent, and the workers reconciled."""
        self._changed()
        self._wake()

    # --- what is reported

    def reported(self) -> list[ReportedWorker]:
        """Every worker as a report shows it."""
        workers = [self._reported(instance) for instance in self._by_oid.values()]
        return sorted(workers, key=lambda each: (each.cluster or "", each.worker, each.oid or ""))

    def _reported(self, instance: Instance) -> ReportedWorker:
        found, peers = _reported(instance, self.now()), self._peers_of().get(instance.worker.oid)
        if peers is None or found.pid is None:
            return found
        return replace(found, mesh=seen(peers, instance.linked))

    def links(self) -> list[tuple[str, str, MeshLinks]]:
        """Cluster, name and connections of each worker of a meshed group that tells them."""
        found = [(each.worker, each.linked) for each in self._by_oid.values() if each.process is not None]
        return [(worker.cluster or "", worker.name, linked) for worker, linked in found if linked is not None]

    def log_path(self, worker: str, cluster: str | None) -> Path | None:
        """The log of a worker by name; None when there is none of that name."""
        for instance in self._by_oid.values():
            known = instance.worker
            if known.name == worker and cluster in (None, known.cluster) and instance.record is not None:
                return self._state.log_path(instance.record.oid)
        return None

    async def refresh_usage(self) -> None:
        """Read CPU and memory of every worker, in one pass over /proc.

        Raises:
            OSError: /proc can't be read.
        """
        living = {each.token: each for each in self._by_oid.values() if each.process is not None}
        records = [each.process.record for each in living.values() if each.process is not None]
        for token, usage in (await self._processes.usage(records)).items():
            living[token].usage = usage

    def rotate_logs(self) -> bool:
        """Bound the size of the workers' logs, also of those that wait for their next start.

        Returns whether one was too large: then the next look should come soon.
        """
        rotated, now = False, self._clock.time_ns() / 1e9
        for instance in self._by_oid.values():
            if instance.record is not None:
                path = self._state.log_path(instance.record.oid)
                if instance.process is not None:
                    logs.take_from_removed(path, instance.process.record.pid)
                self.history.note(path, now)
                if self.history.rotate(path):
                    instance.rotated = rotated = True
        return rotated

    def close(self) -> None:
        """Stop watching; the workers go on."""
        for instance in self._by_oid.values():
            if instance.process is not None:
                instance.process.close()


def _is_wildcard(listener: ListenerSpec) -> bool:
    return bool(listener.address) and listener.interface in ("0.0.0.0", "::")


def _reported_part(worker: Worker) -> tuple[object, ...]:
    return lifecycle.reported_state(worker), worker.starts, worker.generation, lifecycle.reason(worker)


def _reported(instance: Instance, now: float) -> ReportedWorker:
    worker, process, record = instance.worker, instance.process, instance.record
    state = lifecycle.reported_state(worker)
    lives = process is not None and process.running and state is not WorkerState.BACKOFF
    return ReportedWorker(
        worker=worker.name,
        state=str(state),
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
        listeners=_urls(record) if record is not None and lives else UNSET,
        traffic=instance.traffic if instance.traffic is not None and lives else UNSET,
    )


def _urls(record: WorkerRecord) -> dict[str, str] | UnsetType:
    """The URLs of named listeners."""
    return {name: each.address for name, each in record.listeners.items() if each.address} or UNSET
