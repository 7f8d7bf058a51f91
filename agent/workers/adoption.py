"""Adopts living workers when an agent starts, or learns which store it belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from busbar.bus.messages import AssignedWorker
from msgspec.structs import replace

from ..planner import lifecycle
from ..planner.lifecycle import AfterStop, Phase, Worker
from ..processes import logs
from ..processes.exits import Exit
from ..processes.procfs import ProcessRecord, TokenGroup
from ..state import WorkerRecord
from . import identity, ownership, unseen
from .controller import WorkerController
from .process_runner import Instance

log = logging.getLogger("busbar.agent")


class Adoption:
    """`held_elsewhere`: by oid, the state folder of another living agent of this node that runs that worker
    on this host. `foreign`: how many workers of another store or agent run here that no agent attends to,
    or that should be this agent's."""

    def __init__(self, controller: WorkerController) -> None:
        self.held_elsewhere: dict[str, Path] = {}
        self.foreign = 0
        self._foreign_tokens: frozenset[str] = frozenset()
        self._controller = controller
        self._registry = controller.registry
        self._runner = controller.runner
        self._state = controller.runner.state
        self._host = controller.runner.host

    async def scan(self, records: list[WorkerRecord], store: str | None) -> None:
        """Adopt this agent's living workers, kill its orphans, leave foreign ones alone.

        Raises:
            OSError: /proc can't be read: nothing is known, so nothing may be started.
        """
        await asyncio.to_thread(logs.rotate_all, self._state.logs)  # nobody did it while no agent ran
        known = {each.token for each in self._registry.all() if each.process is not None}
        scope = self._runner.processes.scope
        records = [each for each in records if identity.is_of_scope(each.token, scope)]
        scanned = await asyncio.to_thread(self._runner.processes.scan)
        found = [group for group in scanned if group.token not in known]
        living = {each.token for each in records if self._host.is_alive(identity.process_of(each))}
        held = {group.token for group in found if self._runner.is_held_elsewhere(group)}
        owned = ownership.classify(records, living, found, self._state.folder_id, store, held)
        for record, process in owned.workers:
            self._adopt(record, process)
        for token in owned.orphans:
            log.warning("killing orphaned processes: %s", token)
            await self._runner.processes.kill_by_token(token)
        self._note_foreign(owned.foreign, held, store)

    def _note_foreign(self, foreign: tuple[TokenGroup, ...], held: set[str], store: str | None) -> None:
        # What a living agent of another store holds is attended to: two stacks on one host are no problem.
        unattended = [
            group
            for group in foreign
            if group.token not in held or (store is not None and group.marks.get(identity.STORE) == store)
        ]
        self._foreign_tokens = frozenset(group.token for group in unattended)
        self.foreign = len(self._foreign_tokens)
        self.held_elsewhere = {
            group.marks.get(identity.OID, ""): identity.state_folder(group)
            for group in foreign
            if group.token in held and group.marks.get(identity.STORE) == store
        }

    async def recount_foreign(self) -> None:
        """Look again whether the foreign workers are still there; they are no business of this agent.

        Raises:
            OSError: /proc can't be read.
        """
        if not self._foreign_tokens:
            return
        found = await asyncio.to_thread(self._runner.processes.scan)
        self._foreign_tokens &= frozenset(group.token for group in found)
        self.foreign = len(self._foreign_tokens)

    def _adopt(self, record: WorkerRecord, process: ProcessRecord | None) -> None:
        now = self._registry.now()
        starts = 0 if record.stopped else record.restarts + 1
        worker = Worker(
            oid=record.oid,
            name=record.worker,
            cluster=record.cluster,
            generation=record.generation,
            digest=record.digest,
            since=now,
            next_start=now,
            starts=starts,
            restarts=max(0, starts - 1),
            peers=record.peers,
            known_peers=record.peers,
            proven=(record.kept.generation, record.kept.digest) if record.kept is not None else None,
        )
        instance = Instance(worker, record)
        adopted = process is not None and self._runner.adopt(instance, process)
        if process is not None and adopted:
            log.info("worker %s: adopted, pid %d", record.full_name, process.pid)
            instance.started = now - self._host.age_s(process)
            # No probe and no deadline before its definition is known, see `attach_probes`.
            unprobed = lifecycle.adopted(worker, now, lifecycle.NEVER, record.ready)
            instance.worker = replace(unprobed, next_probe=lifecycle.NEVER)
        self._controller.add(instance)
        if adopted:
            return
        if self._runner.why_unseen(record) is not None:
            # Its end is awaited as that of a worker whose processes can't be killed.
            self._controller.stop(instance, AfterStop.REPLACE, unseen.HELD)
        elif record.pid and not record.stopped:
            self._on_death(instance, record)

    def _on_death(self, instance: Instance, record: WorkerRecord) -> None:
        """It exited while no agent ran; after a reboot that is no failure."""
        if record.boot_id == self._host.boot_id():
            description = self._runner.describe_exit(instance, Exit(None))
            self._controller.fail(instance, f"while the agent was away: {description}")
        self._controller.kill_leftovers(instance)

    def attach_probes(self, desired: Mapping[str, AssignedWorker]) -> None:
        """Adopted workers whose definition is known get their probes: the assigned one, or the kept one."""
        for instance in self._registry.all():
            definition, worker = desired.get(instance.worker.oid), instance.worker
            unprobed = (
                instance.spec is None and instance.process is not None and worker.phase is Phase.STARTING
            )
            kept = instance.record.kept if instance.record is not None else None
            for known in (definition, kept) if unprobed and definition else ():
                if known is not None and worker.matches(known.generation, known.digest):
                    self._attach_probe(instance, known)
                    break

    def check_starts(self, desired: Mapping[str, AssignedWorker]) -> None:
        """Have each running worker say whether it would be started otherwise now."""
        for instance in self._registry.all():
            definition, worker = desired.get(instance.worker.oid), instance.worker
            running = worker.phase in (Phase.STARTING, Phase.RUNNING) and instance.process is not None
            if running and definition and worker.matches(definition.generation, definition.digest):
                outdated = self._runner.outdated(instance, definition)
                self._registry.update(instance, replace(worker, outdated=outdated))

    def _attach_probe(self, instance: Instance, definition: AssignedWorker) -> None:
        error = self._runner.attach_probe(instance, definition)
        now = self._registry.now()
        if error is not None:
            log.warning("worker %s is kept without probes: %s", instance.worker.full_name, error)
            self._registry.update(instance, lifecycle.without_probe(instance.worker, now))
        elif instance.spec is not None and instance.record is not None:
            seconds, ready = instance.spec.start_deadline_s, instance.record.ready
            self._registry.update(instance, lifecycle.adopted(instance.worker, now, seconds, ready))
        outdated = self._runner.outdated(instance, definition)
        self._registry.update(instance, replace(instance.worker, outdated=outdated))

    async def probe_adopted(self) -> None:
        """Probe all adopted workers once, so that healthy ones are reported as running from the start."""
        known = (each for each in self._registry.all() if each.spec is not None)
        adopted = [each for each in known if each.worker.phase is Phase.STARTING]
        probes = (self._controller.probe_once(each, each.worker.by_liveness) for each in adopted)
        await asyncio.gather(*probes, return_exceptions=True)
