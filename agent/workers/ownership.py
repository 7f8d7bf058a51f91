"""Decides, when an agent starts, which living processes are its workers, orphans or foreign. No I/O.

A record may be missing or torn, the agent may have died between fork and writing the pid, and the whole
state folder may be lost: therefore every process also carries its identity in its environment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from ..processes.procfs import ProcessRecord, TokenGroup
from ..state import WorkerRecord
from . import identity


class Ownership(Struct, frozen=True):
    """`workers`: records, each with its process if that may still live. `orphans`: tokens of this agent that
    no record accounts for, or whose process is gone and left descendants. `foreign`: processes of another
    agent or another store."""

    workers: tuple[tuple[WorkerRecord, ProcessRecord | None], ...]
    orphans: tuple[str, ...]
    foreign: tuple[TokenGroup, ...]


def classify(
    records: Sequence[WorkerRecord],
    living: Collection[str],
    found: Sequence[TokenGroup],
    folder_id: str,
    store: str | None,
    held: Collection[str],
) -> Ownership:
    """Match records with the processes that were found.

    `living` are the tokens of records whose process lives, `store` is that of the stored assignment, `held`
    are tokens whose own agent lives, which are never ours. This agent owns the processes of its state folder,
    and those of its store that no living agent holds: their folder is lost. Records are those of its scope.
    """
    by_token = {group.token: group for group in found}
    workers: dict[str, tuple[WorkerRecord, ProcessRecord | None]] = {}
    orphans: list[str] = []
    foreign: list[TokenGroup] = []
    for record in records:
        if record.token in held:
            continue
        group = by_token.pop(record.token, None)
        process = _process(record, living, group)
        workers[record.oid] = (record, process)
        if process is None and group is not None and (record.stopped or not record.pid):
            # It left descendants. Those of a process that ended by itself are killed as after any exit.
            orphans.append(record.token)
    for group in by_token.values():
        if not _is_owned(group, folder_id, store, held):
            foreign.append(group)
            continue
        rebuilt = identity.record_from(group)
        if rebuilt is None or (rebuilt.oid in workers and workers[rebuilt.oid][1] is not None):
            orphans.append(group.token)
        else:
            if rebuilt.oid in workers:
                orphans.append(workers[rebuilt.oid][0].token)
            workers[rebuilt.oid] = (rebuilt, group.leader)
    return Ownership(tuple(workers.values()), tuple(orphans), tuple(foreign))


def _process(record: WorkerRecord, living: Collection[str], group: TokenGroup | None) -> ProcessRecord | None:
    if record.token in living:
        return identity.process_of(record)
    return group.leader if group is not None else None


def _is_owned(group: TokenGroup, folder_id: str, store: str | None, held: Collection[str]) -> bool:
    if group.token in held:
        return False
    if identity.is_of_folder(group.token, folder_id):
        return True
    return store is not None and group.marks.get(identity.STORE) == store
