"""What identifies a worker's process: its token, and the BUSBAR_* variables in its environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from busbar.bus.messages import WORKER_NAME_PATTERN, AssignedWorker

from ..processes.procfs import ProcessRecord, TokenGroup
from ..state import RecordedListener, WorkerRecord

OID: Final = "BUSBAR_OID"
CLUSTER: Final = "BUSBAR_CLUSTER"
GENERATION: Final = "BUSBAR_GENERATION"
DIGEST: Final = "BUSBAR_DIGEST"
PORT: Final = "BUSBAR_PORT"
PORTS: Final = "BUSBAR_PORTS"
"""Of several listeners, as NAME=PORT with spaces between; the first is the primary."""
STORE: Final = "BUSBAR_STORE"
STATE: Final = "BUSBAR_STATE"
START: Final = "BUSBAR_START"


def token(scope: str, folder_id: str, oid: str, generation: int, random: str) -> str:
    """A unique token that names its node, its agent's state folder and its worker."""
    return f"busbar:{scope}:{folder_id}:{oid}:{generation}:{random}"


def is_of_folder(token: str, folder_id: str) -> bool:
    """Whether a token was made by an agent with this state folder."""
    return f":{folder_id}:" in token


def is_of_scope(token: str, scope: str) -> bool:
    """Whether a token was made by an agent of this node and realm."""
    return token.startswith(f"busbar:{scope}:")


def marks(worker: AssignedWorker, store: str, folder: str, record: WorkerRecord) -> dict[str, str]:
    """The variables from which an agent that lost its state folder rebuilds the record, see `record_from`."""
    named = " ".join(f"{name}={each.port}" for name, each in record.listeners.items())
    return {
        **({PORTS: named} if named else {}),
        OID: worker.oid,
        CLUSTER: worker.cluster,
        GENERATION: str(worker.generation),
        DIGEST: worker.digest,
        PORT: str(record.port),
        STORE: store,
        STATE: folder,
        START: record.start,
    }


def state_folder(group: TokenGroup) -> Path:
    """The state folder of the agent that started these processes."""
    return Path(group.marks.get(STATE, "/"))


def process_of(record: WorkerRecord) -> ProcessRecord:
    """The process of a worker's record."""
    return ProcessRecord(
        worker=record.worker,
        pid=record.pid,
        boot_id=record.boot_id,
        start_ticks=record.start_ticks,
        token=record.token,
        log_from=record.log_from,
        pid_namespace=record.pid_namespace,
    )


def record_from(group: TokenGroup) -> WorkerRecord | None:
    """A record rebuilt from the environment; None when the leader has exited or a variable is missing."""
    marks, leader = group.marks, group.leader
    if leader is None or not marks.get(OID) or not re.match(WORKER_NAME_PATTERN, group.worker):
        return None
    try:
        generation, port = int(marks[GENERATION]), int(marks[PORT])
        listeners = {
            name: RecordedListener(int(number))
            for name, _, number in (each.partition("=") for each in marks.get(PORTS, "").split())
        }
    except (KeyError, ValueError):
        return None
    return WorkerRecord(
        oid=marks[OID],
        worker=group.worker,
        cluster=marks.get(CLUSTER, ""),
        generation=generation,
        digest=marks.get(DIGEST, ""),
        token=group.token,
        pid=leader.pid,
        boot_id=leader.boot_id,
        start_ticks=leader.start_ticks,
        pid_namespace=leader.pid_namespace,
        port=port,
        listeners=listeners,
        ready=True,
        start=marks.get(START, ""),
    )
