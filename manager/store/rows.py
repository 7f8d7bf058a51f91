"""One frozen struct per table, its fields in the order of the columns read. Pure.

They hold plain values only, so the garbage collector need not track them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from busbar.bus.messages import Members, MeshSeen, Peers
from busbar.bus.placement import Placement
from busbar.bus.plans import MoveOrder
from busbar.bus.states import ClusterState, Leaves, NodeStatus, WorkerState
from msgspec import Struct
from msgspec.structs import replace


class NodeRow(Struct, frozen=True, gc=False):
    """A node that is or was paired: the manager's verdict, and the node's last report.

    `draining` says why it is drained (None: it is not), `drain_note` the progress; `cordoned` why it takes
    no new workers (None: it does).
    """

    oid: str
    name: str
    labels: dict[str, str] | None
    status: NodeStatus
    reason: str | None
    boot: str | None
    conn: int | None
    goodbye: bool
    runtimes: list[str]
    capacity: dict[str, Any] | None
    conditions: list[str]
    assignment_version: int
    applied_epoch: int
    applied_version: int
    changed: int
    version: int
    assignment_epoch: int = 0
    """The least epoch of its assignment: above that of a forged one that its agent has applied."""
    draining: str | None = None
    drain_note: str | None = None
    owner_oid: str | None = None
    """Who paired it; None: paired before owners were recorded, so it is the realm owners'."""
    refuses: str | None = None
    """Whom it follows instead of this manager, so that it applies none of its assignments: a predicate."""
    leaves: Leaves | None = None
    """What became of its workers at its last goodbye; None where its agent did not say."""
    peers: Peers | None = None
    """What its assignment says of meshed groups' workers."""
    members: Members | None = None
    """Whom its assignment names as meshed groups' workers."""
    heard: bool = False
    """Whether its agent was ever heard before it was paired anew; see `was_heard`."""
    runtime_details: dict[str, dict[str, Any]] | None = None
    """As last reported (`bus.messages.RuntimeDetail`), by runtime; None where its agent knows none."""

    @property
    def was_heard(self) -> bool:
        """Whether an agent may have an assignment of it: then its versions must go on."""
        return self.heard or self.boot is not None or self.applied_epoch > 0 or self.applied_version > 0

    cordoned: str | None = None


class ClusterRow(Struct, frozen=True, gc=False):
    """A router cluster. `who` and `request_id` are those of the last start or stop."""

    oid: str
    name: str
    label: str | None
    description: str | None
    tags: list[str] | None
    transport: dict[str, Any] | None
    owner_oid: str
    status: ClusterState
    reason: str | None
    was_running: bool
    who: dict[str, str] | None
    request_id: str | None
    changed: int
    version: int
    managed_by: str | None = None
    """The file that has created it (its `owner`); here and below None: none has."""


class MemberRow(Struct, frozen=True, gc=False):
    """A node's membership in a cluster."""

    cluster_oid: str
    node_oid: str
    hardlimit: int | None
    softlimit: int | None
    changed: int
    managed_by: str | None = None


class GroupRow(Struct, frozen=True, gc=False):
    """A worker group. `lost_after` and `start_deadline` are seconds.

    `settled` is the last revision that all its workers have been ready with; `held_back` says why its rollout
    is blocked. `stop_ordered`: it is to be stopped, or to stay so, whatever its cluster does.
    """

    oid: str
    cluster_oid: str
    name: str
    label: str | None
    description: str | None
    tags: list[str] | None
    transport: dict[str, Any] | None
    scale: int
    runtime: str
    lost_after: float
    start_deadline: float
    status: ClusterState
    reason: str | None
    was_running: bool
    changed: int
    version: int
    revision: int = 1
    settled: int = 1
    max_unavailable: int = 1
    max_surge: int = 0
    held_back: str | None = None
    stop_ordered: bool = False
    mesh: bool = False
    """Whether its workers are told of each other."""
    managed_by: str | None = None
    placement: Placement | None = None


class WorkerRow(Struct, frozen=True, gc=False):
    """A numbered slot of a group. It is in its node's assignment while `unassigned_version` is None;
    otherwise that is the first assignment version without it. `revision` is that of its group when it was
    last placed or replaced."""

    oid: str
    group_oid: str
    cluster_oid: str
    name: str
    ordinal: int
    state: WorkerState
    reason: str | None
    node_oid: str | None
    last_node_oid: str | None
    generation: int
    unassigned_version: int | None
    address: str | None
    pid: int | None
    restarts: int
    changed: int
    version: int
    revision: int = 1
    mesh: MeshSeen | None = None
    """To how many of its peers it is connected; None where its group is not meshed, or it does not run."""
    listeners: dict[str, str] | None = None
    """The URL of each named listener; None where it has none, or is not ready."""
    move: MoveOrder | None = None
    """Where it was ordered to be; None: nowhere else."""


class NodeSchemaRow(Struct, frozen=True, gc=False):
    """A member node and the digest of the schema that it has reported for a runtime; None: this version's
    own, or none."""

    node: str
    status: NodeStatus
    runtimes: list[str]
    digest: str | None


NO_PROCESS: Final[Mapping[str, Any]] = dict.fromkeys(("address", "listeners", "mesh", "pid"))
"""The columns of a worker whose process is gone, or is no longer the assigned one."""


class PrincipalRow(Struct, frozen=True, gc=False):
    """A user of the bus and its role: owner, operator or viewer. `reused`: its name had another holder."""

    oid: str
    name: str
    role: str
    changed: int
    reused: bool = False
    managed_by: str | None = None


class OutboxRow(Struct, frozen=True, gc=False):
    """A message that the broker has not acknowledged. `properties` is JSON (see `bus.connection.link`)."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    properties: str | None = None


class AssignedRow(Struct, frozen=True, gc=False):
    """A worker in its node's assignment."""

    worker: str
    oid: str
    cluster: str
    workergroup: str
    generation: int
    runtime: str
    transport: dict[str, Any] | None


class RevisionRow(Struct, frozen=True, gc=False):
    """What the workers of one revision of a group run; the transport is resolved."""

    group_oid: str
    revision: int
    runtime: str
    transport: dict[str, Any] | None


class StoredReply(Struct, frozen=True, gc=False):
    """The reply to a request, and the digest of that request."""

    digest: str
    reply: bytes


class AuditRow(Struct, frozen=True, gc=False):
    """A change that was carried out, or that failed; `params` is JSON, which may be cut off."""

    id: int
    time: int
    caller: str
    caller_oid: str | None
    role: str
    op: str
    request_id: str | None
    object: str | None
    outcome: str
    params: str


class RefusalRow(Struct, frozen=True, gc=False):
    """Requests of one caller that were refused alike in one hour (`period`, counted since 1970).

    Id and detail are those of the last one.
    """

    period: int
    caller: str
    op: str
    outcome: str
    first: int
    last: int
    count: int
    request_id: str | None
    detail: str
    id: int | None = None

    def after(self, earlier: RefusalRow) -> RefusalRow:
        """Both together."""
        return replace(self, first=earlier.first, count=self.count + earlier.count)


class ClusterRevisionRow(Struct, frozen=True, gc=False):
    """A cluster as JSON from `time` on (`bus.routers.definitions.ClusterSpec`), and who made it so."""

    cluster_oid: str
    revision: int
    time: int
    caller: str
    caller_oid: str | None
    op: str
    request_id: str | None
    definition: str
