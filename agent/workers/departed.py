"""Has the routers of this node remove those from their clusters that are gone for good."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from msgspec.structs import replace

from ..planner.lifecycle import Phase
from ..planner.members import counted, due, group_of
from .membership import membership_of
from .nats_request import NoAnswerError
from .process_runner import Instance, ProcessRunner
from .registry import WorkerRegistry

log = logging.getLogger("busbar.agent")

EVERY_S: Final = 5.0
"""Pause between two looks at who is a member, seconds."""


class Departed:
    """Remembers what earlier looks have found."""

    def __init__(self, registry: WorkerRegistry, runner: ProcessRunner) -> None:
        self._registry, self._runner = registry, runner
        self._counts: dict[str, dict[str, int]] = {}

    def forget(self) -> None:
        """Begin anew: while nothing was heard of the manager, others may have become members."""
        self._counts = {}

    async def look(self) -> None:
        """One look at every cluster that a router of this node leads."""
        instances = [each for each in self._registry.all() if each.worker.phase is Phase.RUNNING]
        self._counts = {token: seen for each in instances if (seen := self._counts.get(token := each.token))}
        await asyncio.gather(*(self._look_at(each) for each in instances))

    async def _look_at(self, instance: Instance) -> None:
        oid, token = instance.worker.oid, instance.token
        members = group_of(oid, self._runner.members)
        folder = self._runner.state.worker_folder(oid)
        if not members or (mine := membership_of(instance.record, folder)) is None:
            return
        counts = counted(self._counts.get(token, {}), await mine.gone(members))
        names, error = due(counts), None
        for name in names:
            try:
                await mine.remove(name)
                log.info(
                    "worker %s: %s is a member of its cluster no longer", instance.worker.full_name, name
                )
            except NoAnswerError as failure:
                error = f"{name} is gone for good, and not removed from its cluster: {failure}"
                log.warning("worker %s: %s", instance.worker.full_name, error)
        if instance.token != token:
            return
        # What failed is tried again after as many looks as at first.
        self._counts[token] = {name: looks for name, looks in counts.items() if name not in names}
        if (names or not counts) and instance.worker.members_error != error:
            self._registry.update(instance, replace(instance.worker, members_error=error))
