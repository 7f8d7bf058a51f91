"""Finds the living workers again when an agent starts, or learns which store it belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from busbar.bus.messages import AssignedWorker

from ..planner import lifecycle
from ..planner.lifecycle import Phase, Worker
from ..processes.process import Exit
from ..processes.procfs import Found, ProcessRecord
from ..state import WorkerRecord, is_locked
from . import recover
from .instances import Instance
from .table import Workers

log = logging.getLogger("busbar.agent")


class Adoption:
    """`held`: workers that another living agent of this node runs on this host, by oid, with its folder."""

    def __init__(self, workers: Workers) -> None:
        self.held: dict[str, Path] = {}
        self.strangers = 0
        self._workers = workers
        self._state = workers.hands.state
        self._ground = workers.hands.ground

    async def scan(self, records: list[WorkerRecord], store: str | None) -> None:
        """Adopt what lives and is ours; kill what is ours and belongs to no worker; leave the rest alone.

        Raises:
            OSError: /proc can't be read: nothing is known, so nothing may be started.
        """
        known = {each.token for each in self._workers.all() if each.process is not None}
        found = [each for each in await self._workers.hands.found() if each.token not in known]
        living = {each.token for each in records if self._ground.is_ours(recover.process_of(each))}
        held = {each.token for each in found if self._held_elsewhere(each)}
        result = recover.recover(records, living, found, self._state.folder_id, store, held)
        for record, process in result.known:
            self._take(record, process)
        for token in result.swept:
            log.warning("processes that belong to no worker are killed: %s", token)
            await self._workers.hands.processes.sweep_token(token)
        self._note_strangers(result.strangers, held, store)

    def _held_elsewhere(self, found: Found) -> bool:
        folder = _folder(found)
        return folder != self._state.folder and is_locked(folder)

    def _note_strangers(self, strangers: tuple[Found, ...], held: set[str], store: str | None) -> None:
        self.strangers = len(strangers)
        self.held = {
            each.marks.get(recover.OID, ""): _folder(each)
            for each in strangers
            if each.token in held and each.marks.get(recover.STORE) == store
        }

    def _take(self, record: WorkerRecord, process: ProcessRecord | None) -> None:
        now = self._workers.now()
        starts = 0 if record.stopped else record.restarts + 1
        new = Worker(
            oid=record.oid,
            name=record.worker,
            cluster=record.cluster,
            generation=record.generation,
            digest=record.digest,
            since=now,
            next_start=now,
            starts=starts,
            restarts=max(0, starts - 1),
        )
        instance = Instance(new, record)
        adopted = process is not None and self._workers.hands.adopt(instance, process)
        if process is not None and adopted:
            log.info("worker %s: adopted, pid %d", record.worker, process.pid)
            instance.started = now - self._ground.age_s(process)
            # Nothing can be asked, and nothing missed, before its definition is known: see `equip`.
            blind = lifecycle.adopted(new, now, lifecycle.NEVER, record.ready)
            instance.worker = replace(blind, probe_at=lifecycle.NEVER)
        self._workers.put(instance)
        if not adopted and record.pid and not record.stopped:
            self._died(instance, record)

    def _died(self, instance: Instance, record: WorkerRecord) -> None:
        if record.boot_id == self._ground.boot_id():
            words = self._workers.hands.last_words(instance, Exit(None))
            self._workers.fail(instance, f"while the agent was away: {words}")
        self._workers.sweep(instance)

    def equip(self, assigned: Mapping[str, AssignedWorker]) -> None:
        """Adopted workers whose definition is known can be asked from now on."""
        for instance in self._workers.all():
            definition, worker = assigned.get(instance.worker.oid), instance.worker
            blind = (
                instance.launch is None and instance.process is not None and worker.phase is Phase.STARTING
            )
            if blind and definition and worker.is_defined_as(definition.generation, definition.digest):
                self._equip(instance, definition)

    def _equip(self, instance: Instance, definition: AssignedWorker) -> None:
        why = self._workers.hands.equip(instance, definition)
        now = self._workers.now()
        if why is not None:
            log.warning("worker %s is kept, but can't be asked: %s", instance.worker.name, why)
            self._workers.set(instance, lifecycle.unwatched(instance.worker, now))
        elif instance.launch is not None and instance.record is not None:
            seconds, ready = instance.launch.start_deadline_s, instance.record.ready
            self._workers.set(instance, lifecycle.adopted(instance.worker, now, seconds, ready))

    async def first_look(self) -> None:
        """Ask all that were adopted once: one that is well is never told of as anything but running."""
        fresh = [each for each in self._workers.all() if each.launch and each.worker.phase is Phase.STARTING]
        looks = (self._workers.look(each, each.worker.by_life) for each in fresh)
        await asyncio.gather(*looks, return_exceptions=True)


def _folder(found: Found) -> Path:
    return Path(found.marks.get(recover.STATE, "/"))
