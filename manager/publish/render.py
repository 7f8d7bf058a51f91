"""Renders rows as the contract's statuses and assignments. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from busbar.bus.assignments import shared, shares
from busbar.bus.clock import rfc3339
from busbar.bus.decode import digest
from busbar.bus.errors import MessageTooLargeError, MissingRightError
from busbar.bus.messages import AssignedWorker, Assignment, Endpoint, MeshSeen, Status
from busbar.bus.placement import unmet
from busbar.bus.routers.exposure import OPEN_ACCESS, open_condition
from busbar.bus.routers.router_options import joins_cluster, least_scale
from busbar.bus.states import STARTED, ClusterState, NodeStatus, WorkerState
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from ..planner.draining import DRAINED
from ..planner.rolling import progress
from ..planner.status import about, present_reason
from ..store.rows import AssignedRow, ClusterRow, GroupRow, NodeRow, WorkerRow

MAX_CONDITIONS: Final = 20
"""Conditions in one status, which keeps it far below the payload limits of brokers."""
MAX_ENDPOINTS: Final = 500
"""Endpoints in one status, for the same reason; `stat_*` and `list_workers` return all."""

PACKET_OVERHEAD: Final = 64
"""Bytes of a status packet besides topic and payload."""
SHORT: Final = 80
"""Characters of a reason or condition in a status that must be small."""

NotReadyWorker = tuple[str, str, str | None, str | None]
"""A worker that should be ready and is not: name, state, reason and node."""

ListeningGroup = tuple[str, str, Mapping[str, Any]]
"""A group whose transport names an interface: its name, runtime and effective transport."""

PlacedWorker = tuple[str, str, Mapping[str, str] | None]
"""An assigned worker, its node, and that node's labels."""

_STATE_WORDS: Final = {
    WorkerState.PENDING: "pending",
    WorkerState.STARTING: "starting",
    WorkerState.BACKOFF: "restarting",
    WorkerState.UNKNOWN: "unknown",
}
NOT_READY: Final = frozenset(_STATE_WORDS)
"""States of workers that should be ready and are not."""


class Stamp(Struct, frozen=True):
    """The store's version that a status shows: its epoch and the sequence of its last event."""

    epoch: int
    sequence: int

    @property
    def text(self) -> str:
        return f"{self.sequence:010d}"


def cluster_status(
    row: ClusterRow,
    scale: int,
    states: Mapping[str, int],
    not_ready: Sequence[NotReadyWorker],
    stamp: Stamp,
    listening: Sequence[ListeningGroup] = (),
) -> Status:
    """A cluster's retained status; `scale` is the sum over its groups."""
    return Status(
        version=row.version,
        epoch=stamp.epoch,
        sequence=stamp.text,
        status=row.status,
        name=row.name,
        time=rfc3339(row.changed),
        conditions=worker_conditions(not_ready) + open_conditions(listening),
        oid=row.oid,
        scale=scale,
        ready=states.get(WorkerState.RUNNING, 0),
        reason=reason_now(row, states.get(WorkerState.RUNNING, 0), scale, not_ready),
    )


def group_status(
    row: GroupRow,
    cluster: str,
    states: Mapping[str, int],
    not_ready: Sequence[NotReadyWorker],
    endpoints: Iterable[tuple[str, str, str, str]],
    stamp: Stamp,
    updated: int | None = None,
    surplus: int = 0,
    transport: Mapping[str, Any] | None = None,
    unaccepted: str | None = None,
    meshed: Sequence[tuple[str, MeshSeen]] = (),
    placed: Sequence[PlacedWorker] = (),
) -> Status:
    """A worker group's retained status.

    `updated` is given during a rollout; `surplus`: how many workers beyond the scale are still to stop;
    `transport` may be its cluster's; `unaccepted`: which nodes do not accept it; `placed`: where its workers
    are, if it has a placement.
    """
    open_access = group_open_condition(row, transport)
    update = None if updated is None else update_condition(row, updated, not_ready)
    return Status(
        version=row.version,
        epoch=stamp.epoch,
        sequence=stamp.text,
        status=row.status,
        name=row.name,
        time=rfc3339(row.changed),
        conditions=([update] if update else [])
        + ([unaccepted] if unaccepted else [])
        + placement_conditions(row, placed)
        + mesh_conditions(meshed)
        + small_cluster_conditions(row, transport)
        + worker_conditions(not_ready)
        + ([open_access] if open_access else []),
        oid=row.oid,
        cluster=cluster,
        scale=row.scale,
        ready=states.get(WorkerState.RUNNING, 0),
        endpoints=[Endpoint(*found) for found in endpoints],
        reason=update or reason_now(row, states.get(WorkerState.RUNNING, 0), row.scale, not_ready),
        revision=row.revision,
        updated=UNSET if updated is None else updated,
        surplus=surplus or UNSET,
        mesh=mesh_sum(each for _, each in meshed) if row.mesh else UNSET,
    )


def mesh_sum(seen: Iterable[MeshSeen]) -> MeshSeen:
    """The connections of a group's workers together; not known where one does not say."""
    found = list(seen)
    known = [each.connected for each in found if each.connected is not None]
    connected = sum(known) if len(known) == len(found) else None
    return MeshSeen(sum(each.of for each in found), connected)


def mesh_conditions(meshed: Iterable[tuple[str, MeshSeen]]) -> list[str]:
    """For example: worker web-1: not connected to web-2, web-3."""
    found = [
        f"worker {name}: not connected to {', '.join(seen.missing)}" for name, seen in meshed if seen.missing
    ]
    if len(found) > MAX_CONDITIONS:
        found[MAX_CONDITIONS - 1 :] = ["more workers are not connected"]
    return found


def placement_conditions(row: GroupRow, placed: Iterable[PlacedWorker]) -> list[str]:
    """For example: worker web-2 stays on n1, which has label zone=b (zone=a is required): …"""
    found = [
        f"worker {name} stays on {node}, which {lacks}: 'busbar rebalance' moves it to one that has them"
        for name, node, labels in placed
        if (lacks := unmet(row.placement, labels))
    ]
    if len(found) > MAX_CONDITIONS:
        found[MAX_CONDITIONS - 1 :] = ["more workers are on nodes without the required labels"]
    return found


def small_cluster_conditions(row: GroupRow, transport: Mapping[str, Any] | None) -> list[str]:
    """Of a started group of nats whose workers can't begin a cluster, so that they are ready and serve
    nobody."""
    if row.status is ClusterState.STOPPED or transport is None or not joins_cluster(row.runtime, transport):
        return []
    least = least_scale(transport)
    if row.scale == 0 or row.scale >= least:
        return []
    return [
        f"scale {row.scale}: a new cluster of nats serves no MQTT with fewer than {least} workers; "
        "scale it, or leave out the listener of type 'cluster'"
    ]


def worker_status(
    row: WorkerRow, cluster: str, group: str, node: str | None, stamp: Stamp, target: str | None = None
) -> Status:
    """A worker's retained status; `target`: the node that it is to move to."""
    wanted = row.state in _STATE_WORDS and row.state is not WorkerState.STARTING
    return Status(
        version=row.version,
        epoch=stamp.epoch,
        sequence=stamp.text,
        status=row.state,
        name=row.name,
        time=rfc3339(row.changed),
        conditions=([worker_condition((row.name, row.state, row.reason, node))] if wanted else [])
        + ([f"it is to move to {target}: {row.move.reason}"] if row.move and target else []),
        oid=row.oid,
        cluster=cluster,
        workergroup=group,
        node=node,
        address=row.address,
        listeners=row.listeners or UNSET,
        mesh=row.mesh or UNSET,
        pid=row.pid,
        restarts=row.restarts,
        generation=row.generation,
        reason=row.reason,
        revision=row.revision,
        moving_to=target or UNSET,
    )


def node_status(
    row: NodeRow, stamp: Stamp, held: MessageTooLargeError | MissingRightError | None = None
) -> Status:
    """A node's retained status; `held`: its assignment could not be sent."""
    told = [held_condition(held)] if held else []
    return Status(
        version=row.version,
        epoch=stamp.epoch,
        sequence=stamp.text,
        status=row.status,
        name=row.name,
        time=rfc3339(row.changed),
        conditions=told + node_conditions(row),
        oid=row.oid,
        reason=row.reason,
        draining=row.draining or UNSET,
        cordoned=row.cordoned or UNSET,
        drained=UNSET if row.draining is None else row.drain_note == DRAINED,
    )


def assignment(
    node: NodeRow, rows: Iterable[AssignedRow], store: str, epoch: int, heartbeat_ms: int
) -> Assignment:
    """A node's whole desired state; empty for an unpaired node."""
    wanted = [] if node.status is NodeStatus.UNPAIRED else [_assigned(row) for row in rows]
    own_epoch = max(epoch, node.assignment_epoch)
    peers = node.peers if node.peers and wanted else UNSET
    members = node.members or UNSET
    if node.status is NodeStatus.UNPAIRED:
        members = UNSET
    whole = Assignment(
        store, own_epoch, node.assignment_version, wanted, heartbeat_ms, peers=peers, members=members
    )
    return shared(whole) if shares(node.capacity) else whole


def shortened(status: Status) -> Status | None:
    """A status with half as many endpoints, conditions and words; None when there is nothing to leave out."""
    endpoints = status.endpoints if isinstance(status.endpoints, list) else []
    if len(endpoints) > 1:
        return replace(status, endpoints=endpoints[: len(endpoints) // 2])
    if len(status.conditions) > 1:
        return replace(status, conditions=status.conditions[: len(status.conditions) // 2])
    if endpoints or any(len(text) > SHORT for text in (*status.conditions, _text(status.reason))):
        unset = isinstance(status.endpoints, UnsetType)
        return replace(
            status,
            endpoints=UNSET if unset else [],
            conditions=[text[:SHORT] for text in status.conditions],
            reason=_text(status.reason)[:SHORT] or status.reason,
        )
    return None


def _text(reason: str | UnsetType | None) -> str:
    return reason if isinstance(reason, str) else ""


def held_condition(held: MessageTooLargeError | MissingRightError) -> str:
    """Why a node follows an older assignment."""
    if isinstance(held, MissingRightError):
        return f"assignment held back: {held}"
    return f"assignment held back: {held.size} bytes, the broker takes {held.limit}: fewer or smaller workers"


def node_conditions(row: NodeRow) -> list[str]:
    """Conditions of a node, as text for people."""
    own = [] if row.status is NodeStatus.ONLINE or not row.reason else [f"{row.status}: {row.reason}"]
    if row.draining is not None:
        own.append(_draining(row))
    if row.cordoned is not None:
        own.append(f"cordoned: {row.cordoned}")
    return own + list(row.conditions)


def _draining(row: NodeRow) -> str:
    if row.drain_note == DRAINED:
        return f"drained: {row.draining}"
    return "; ".join([f"draining: {row.draining}", *([row.drain_note] if row.drain_note else [])])


def reason_now(
    row: ClusterRow | GroupRow, ready: int, scale: int, not_ready: Sequence[NotReadyWorker]
) -> str | None:
    """The reason of a cluster's or group's status, as of now."""
    return present_reason(row.status, row.reason, ready, scale, not_ready[0][:3] if not_ready else None)


def worker_conditions(not_ready: Sequence[NotReadyWorker]) -> list[str]:
    """One condition per worker that is not ready, except those STARTING without a reason."""
    found = [worker_condition(row) for row in not_ready if row[2] or row[1] != WorkerState.STARTING]
    if len(found) > MAX_CONDITIONS:
        found[MAX_CONDITIONS - 1 :] = ["more workers are not ready"]
    return found


def group_open_condition(row: GroupRow, transport: Mapping[str, Any] | None) -> str | None:
    """The condition of a started group that is open to other hosts."""
    return None if row.status is ClusterState.STOPPED else open_condition(transport, row.runtime)


def open_conditions(listening: Sequence[ListeningGroup]) -> list[str]:
    """One condition per group that is open to other hosts: group web: open access: …"""
    found = [
        f"group {name}: {text}"
        for name, runtime, transport in listening
        if (text := open_condition(transport, runtime))
    ]
    if len(found) > MAX_CONDITIONS:
        found[MAX_CONDITIONS - 1 :] = [f"{OPEN_ACCESS}: more groups"]
    return found


def update_condition(row: GroupRow, updated: int, not_ready: Sequence[NotReadyWorker]) -> str:
    """For example: update to revision 3: 1 of 4 workers; web-1 is BACKOFF: exit code 1."""
    text = progress(row.revision, updated, row.scale)
    if row.held_back and row.status in STARTED:
        return f"{text}; {row.held_back}"
    if not not_ready:
        return text
    return f"{text}; {about(*not_ready[0][:3])}"


def worker_condition(row: NotReadyWorker) -> str:
    """For example: worker web-4: restarting, exit code 1."""
    name, state, reason, _ = row
    word = _STATE_WORDS.get(WorkerState(state), state.lower())
    return f"worker {name}: {word}, {reason}" if reason else f"worker {name}: {word}"


def _assigned(row: AssignedRow) -> AssignedWorker:
    return AssignedWorker(
        worker=row.worker,
        oid=row.oid,
        cluster=row.cluster,
        workergroup=row.workergroup,
        generation=row.generation,
        runtime=row.runtime,
        digest=_digest(row),
        transport=row.transport,
    )


def _digest(row: AssignedRow) -> str:
    """Of what the worker runs. The order of its listeners, which tells the primary one, is part of it."""
    order = list((row.transport or {}).get("listeners", ()))
    return digest(row.runtime, row.transport, *([order] if order else []))
