"""Which living processes belong to which worker when an agent starts. Reads nothing, decides only.

Records may be missing or torn, the agent may have died between the fork and writing the pid down, and the
whole state folder may be lost: every process of ours says in its environment whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from busbar.bus.messages import WORKER_NAME_PATTERN, AssignedWorker

from ..processes.procfs import Found, ProcessRecord
from ..state import WorkerRecord

OID: Final = "BUSBAR_OID"
CLUSTER: Final = "BUSBAR_CLUSTER"
GENERATION: Final = "BUSBAR_GENERATION"
DIGEST: Final = "BUSBAR_DIGEST"
PORT: Final = "BUSBAR_PORT"
STORE: Final = "BUSBAR_STORE"
STATE: Final = "BUSBAR_STATE"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found. `known`: a record and, if it may still live, its process; `swept`: tokens of ours that
    no worker accounts for; `strangers`: tokens that are another agent's or another store's."""

    known: tuple[tuple[WorkerRecord, ProcessRecord | None], ...]
    swept: tuple[str, ...]
    strangers: tuple[Found, ...]


def token(scope: str, folder_id: str, oid: str, generation: int, random: str) -> str:
    """A worker's token: recognisable as of this node and this state folder, and never twice the same."""
    return f"busbar:{scope}:{folder_id}:{oid}:{generation}:{random}"


def marks(worker: AssignedWorker, store: str, port: int, folder: str) -> dict[str, str]:
    """What a process carries so that an agent that lost its folder knows it again."""
    return {
        OID: worker.oid,
        CLUSTER: worker.cluster,
        GENERATION: str(worker.generation),
        DIGEST: worker.digest,
        PORT: str(port),
        STORE: store,
        STATE: folder,
    }


def process_of(record: WorkerRecord) -> ProcessRecord:
    """The process of a record, as `agent.processes.process` knows it."""
    return ProcessRecord(
        record.worker, record.pid, record.boot_id, record.start_ticks, record.token, record.log_from
    )


def recover(
    records: Sequence[WorkerRecord],
    living: Collection[str],
    found: Sequence[Found],
    folder_id: str,
    store: str | None,
    held: Collection[str],
) -> Recovered:
    """Put records and processes together.

    `living` are the tokens of records whose process is known to live, `store` is that of the stored
    assignment, `held` are tokens whose own agent lives. Ours are the processes of this state folder, and
    those of the same store that no living agent holds: their folder is lost, or this one is a copy.
    """
    by_token = {each.token: each for each in found}
    known: dict[str, tuple[WorkerRecord, ProcessRecord | None]] = {}
    swept: list[str] = []
    strangers: list[Found] = []
    for record in records:
        process = _process(record, living, by_token.pop(record.token, None))
        known[record.oid] = (record, process)
    for each in by_token.values():
        if not _ours(each, folder_id, store, held):
            strangers.append(each)
            continue
        again = _record(each)
        if again is None or (again.oid in known and known[again.oid][1] is not None):
            swept.append(each.token)
        else:
            if again.oid in known:
                swept.append(known[again.oid][0].token)
            known[again.oid] = (again, each.leader)
    return Recovered(tuple(known.values()), tuple(swept), tuple(strangers))


def _process(record: WorkerRecord, living: Collection[str], found: Found | None) -> ProcessRecord | None:
    if record.token in living:
        return process_of(record)
    return found.leader if found is not None else None


def _ours(each: Found, folder_id: str, store: str | None, held: Collection[str]) -> bool:
    if f":{folder_id}:" in each.token:
        return True
    return store is not None and each.marks.get(STORE) == store and each.token not in held


def _record(each: Found) -> WorkerRecord | None:
    """A record made of what a process says of itself; None when its leader is gone, or it says too little."""
    marked: Mapping[str, str] = each.marks
    leader = each.leader
    if leader is None or not marked.get(OID) or not re.match(WORKER_NAME_PATTERN, each.worker):
        return None
    try:
        generation, port = int(marked[GENERATION]), int(marked[PORT])
    except (KeyError, ValueError):
        return None
    return WorkerRecord(
        oid=marked[OID],
        worker=each.worker,
        cluster=marked.get(CLUSTER, ""),
        generation=generation,
        digest=marked.get(DIGEST, ""),
        token=each.token,
        pid=leader.pid,
        boot_id=leader.boot_id,
        start_ticks=leader.start_ticks,
        port=port,
        ready=True,
    )
