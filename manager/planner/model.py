"""What the manager knows (Snapshot) and what it may do about it (Action). Pure values.

Times are seconds on the manager's monotonic clock; a moment that this process did not witness counts from the
process's start. So a restart forgives, and never acts on a clock of another machine or boot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from busbar.bus.states import ClusterState, NodeStatus, WorkerState


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, desired and observed. `heard_at` is the last sign of life."""

    oid: str
    name: str
    status: NodeStatus
    heard_at: float
    runtimes: frozenset[str] = frozenset()
    max_workers: int | None = None
    will_at: float | None = None
    """When a will that fits the last birth arrived after `heard_at`; None otherwise."""
    goodbye: bool = False
    """The last thing it said of itself was `disconnected`."""
    heard_once: bool = False
    """Whether this process has heard it since it began to listen (its start, or its last connect)."""
    known: bool = False
    """Whether any manager of this store ever heard it: its birth is on record."""
    gone_before: bool = False
    """It was lost already when this process began to listen, and has not been heard since."""
    draining: bool = False
    drain_note: str | None = None
    """How far the drain is, as it is told now."""
    applied: bool = True
    """It has confirmed its present assignment."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """A node's membership in a cluster; limits count that cluster's workers on that node."""

    node_oid: str
    hardlimit: int | None = None
    softlimit: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker: a numbered slot of a group. `node_oid` is where it is placed (or still being stopped)."""

    oid: str
    name: str
    ordinal: int
    group_oid: str
    cluster_oid: str
    state: WorkerState
    node_oid: str | None = None
    last_node_oid: str | None = None
    generation: int = 0
    reason: str | None = None
    restarts: int = 0
    revision: int = 1


@dataclass(frozen=True, slots=True)
class GroupView:
    """A worker group. `since` is when it entered its present status."""

    oid: str
    name: str
    cluster_oid: str
    scale: int
    status: ClusterState
    since: float
    runtime: str
    lost_after: float
    start_deadline: float
    workers: tuple[WorkerView, ...] = ()
    was_running: bool = False
    """Whether it was RUNNING since the last start: then too few workers mean DEGRADED, not STARTING."""
    none_ready_since: float | None = None
    """Since when none of its workers has been ready; None while one is (or when it is not known)."""
    revision: int = 1
    settled: int = 1
    """The last revision that all its workers have been ready with."""
    max_unavailable: int = 1
    max_surge: int = 0
    held_back: str | None = None
    """Why outdated workers can't be renewed, as it is told now."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A router cluster with its members and groups."""

    oid: str
    name: str
    status: ClusterState
    since: float
    members: tuple[MemberView, ...] = ()
    groups: tuple[GroupView, ...] = ()
    was_running: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """The manager's constants for liveness, in seconds (contract, section 7)."""

    heartbeat: float = 5.0
    late_after: int = 3
    """Heartbeat intervals of silence until a node is late."""
    lost_after: int = 6
    """Heartbeat intervals of silence until a node is lost."""
    grace_until: float = 0.0
    """Until then (monotonic) both are doubled: the manager or the broker has just restarted."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a plan may look at. `nodes` and `clusters` are keyed by oid; a cluster at rest
    (`manager.planner.plan.at_rest`) may be missing."""

    timing: Timing
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    clusters: Mapping[str, ClusterView] = field(default_factory=dict)
    braked: str | None = None
    """Why the brake is on; None when it is off."""
    brake_nodes: frozenset[str] = frozenset()
    """Oids of the nodes whose vanishing put it on; stored with it, so that a restart does not release it."""


# --- actions: each carries its reason, which reaches the event, the status and the command line ------------


class Ground(Enum):
    """Why a worker is to go; an operation may take that back before it is carried out."""

    ANY = "any"
    SURPLUS = "surplus"
    """Its group asks for fewer."""
    REMOVED = "removed"
    """Its node is no longer one of its cluster."""
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class SetNode:
    """Judge a node anew."""

    node_oid: str
    status: NodeStatus
    reason: str


@dataclass(frozen=True, slots=True)
class NoteDrain:
    """Tell how far the drain of a node is."""

    node_oid: str
    note: str
    reason: str


@dataclass(frozen=True, slots=True)
class CreateWorker:
    """Open a slot: a new worker, STARTING on that node, or PENDING without one; the reason says why there."""

    group_oid: str
    ordinal: int
    reason: str
    node_oid: str | None = None


@dataclass(frozen=True, slots=True)
class DropWorker:
    """Close a slot: the stopped worker's row and status go away."""

    worker_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pend:
    """Make a worker PENDING, or tell a pending one's new reason; it holds no place meanwhile."""

    worker_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """Give a pending or stopped worker a node: it becomes STARTING and enters the node's assignment."""

    worker_oid: str
    node_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unassign:
    """Take a worker out of its node's assignment: it becomes STOPPING until the node says it is gone.

    `ground` is what has to hold still when it is carried out, beside its being placed.
    """

    worker_oid: str
    reason: str
    ground: Ground = Ground.ANY


@dataclass(frozen=True, slots=True)
class Displace:
    """Give up on a worker whose node can't be heard: out of that assignment and PENDING at once."""

    worker_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class MarkUnknown:
    """A worker whose node can't be heard."""

    worker_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class MarkStopped:
    """A worker that is known to be gone, or whose lost node no longer has it assigned."""

    worker_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Have a worker run its group's present revision, where it is: STARTING again, as a new generation."""

    worker_oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Tell why no more of a group's workers can be renewed, or that nothing is in the way (None)."""

    group_oid: str
    why: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Every worker of a group is ready with that revision: the update is over."""

    group_oid: str
    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class SetGroup:
    """A worker group's new status."""

    group_oid: str
    status: ClusterState
    reason: str


@dataclass(frozen=True, slots=True)
class SetCluster:
    """A cluster's new status."""

    cluster_oid: str
    status: ClusterState
    reason: str


@dataclass(frozen=True, slots=True)
class Brake:
    """Hold still (with the reason, and the nodes that vanished) or go on (None)."""

    reason: str | None
    nodes: frozenset[str] = frozenset()


Action = (
    SetNode
    | NoteDrain
    | CreateWorker
    | DropWorker
    | Pend
    | Place
    | Unassign
    | Displace
    | MarkUnknown
    | MarkStopped
    | Renew
    | HoldBack
    | Settle
    | SetGroup
    | SetCluster
    | Brake
)
