"""The input (Snapshot) and the output (Action) of a plan. Pure values.

Times are seconds on the manager's monotonic clock; what happened before this process began to listen counts
from that moment. So a restart makes nobody late, and no clock of another machine or boot is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from busbar.bus.messages import Members, Peers
from busbar.bus.placement import Placement
from busbar.bus.plans import MoveOrder
from busbar.bus.states import ClusterState, Leaves, NodeStatus, WorkerState
from msgspec import Struct, field


class NodeView(Struct, frozen=True):
    """A node, with its row's columns and its liveness times. `heard_at` is the last sign of life."""

    oid: str
    name: str
    status: NodeStatus
    heard_at: float
    runtimes: frozenset[str] = frozenset()
    max_workers: int | None = None
    will_at: float | None = None
    """When the will of its present connection arrived after `heard_at`; None otherwise."""
    goodbye: bool = False
    """Its agent exited cleanly: its last state is `disconnected`."""
    leaves: Leaves | None = None
    """What became of its workers at the goodbye; None where its agent did not say."""
    heard_once: bool = False
    """Whether it was heard since this process began to listen (its start, or its last connect)."""
    known: bool = False
    """Whether any manager of this store ever heard it: its birth is stored."""
    lost_before: bool = False
    """It was lost when this process began to listen, and has not been heard since."""
    draining: bool = False
    drain_note: str | None = None
    """The stored progress of the drain."""
    cordoned: bool = False
    """It takes no new workers; those on it stay."""
    labels: Mapping[str, str] = field(default_factory=dict)
    applied: bool = True
    """It has confirmed its present assignment."""
    refuses: str | None = None
    """Whom it follows instead of this manager, as a predicate; None: it applies our assignments."""
    refuses_since: float | None = None
    """Since when it has said so in every report."""
    peers: Peers | None = None
    """What its assignment says of meshed groups' workers."""
    members: Members | None = None
    """Whom its assignment names as meshed groups' workers."""
    schemas: Mapping[str, str] = field(default_factory=dict)
    """By runtime, as JSON: the schemas of the transports that it accepts, where they are another version's or
    an operator's."""
    peers_at: float = -math.inf
    """When that was last changed by this process."""


class MemberView(Struct, frozen=True):
    """A node's membership in a cluster; limits count that cluster's workers on that node."""

    node_oid: str
    hardlimit: int | None = None
    softlimit: int | None = None


class WorkerView(Struct, frozen=True):
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
    pid: int | None = None
    """That of its process, as its node last reported; None while it reports none."""
    failing_since: float | None = None
    """Since when it counts as failing to start where it is, which may lie ahead; None where it does not."""
    listeners: Mapping[str, str] = field(default_factory=dict)
    """The URLs of its process, by the listeners' names; empty while its node reports none."""
    move: MoveOrder | None = None
    """Where it is ordered to be; None: nowhere else."""


class GroupView(Struct, frozen=True):
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
    """Whether it was RUNNING since the last start: too few ready workers then mean DEGRADED, not STARTING."""
    none_ready_since: float | None = None
    """Since when none of its workers has been ready; None while one is, or when it is not known."""
    revision: int = 1
    settled: int = 1
    """The last revision whose rollout is complete."""
    max_unavailable: int = 1
    max_surge: int = 0
    held_back: str | None = None
    """The stored reason why outdated workers can't be replaced."""
    stop_ordered: bool = False
    """Whether it is to be stopped, or to stay so, whatever its cluster does."""
    mesh: bool = False
    """Whether its workers are told of each other."""
    transport: Mapping[str, Any] | None = None
    """What its workers run, its own or its cluster's."""
    placement: Placement | None = None
    """Which nodes may have its workers; None: any node of the cluster."""


class ClusterView(Struct, frozen=True):
    """A router cluster with its members and groups."""

    oid: str
    name: str
    status: ClusterState
    since: float
    members: tuple[MemberView, ...] = ()
    groups: tuple[GroupView, ...] = ()
    was_running: bool = False


class LivenessTiming(Struct, frozen=True):
    """The constants of liveness (contract, section 7); times in seconds."""

    heartbeat: float = 5.0
    late_after: int = 3
    """Heartbeat intervals of silence until a node is late."""
    lost_after: int = 6
    """Heartbeat intervals of silence until a node is lost."""
    offline_after: float = 86_400.0
    """Seconds after a goodbye that left workers running until these are moved all the same."""
    grace_until: float = 0.0
    """Until then (monotonic) both limits are doubled: the manager or the broker has just restarted."""


class Snapshot(Struct, frozen=True):
    """The input of a plan. `nodes` and `clusters` are keyed by oid; clusters at rest (`plan.at_rest`) may be
    missing."""

    timing: LivenessTiming
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    clusters: Mapping[str, ClusterView] = field(default_factory=dict)
    hold: str | None = None
    """The reason of the mass failure hold; None when there is none."""
    hold_nodes: frozenset[str] = frozenset()
    """Oids of the nodes that caused it; stored with it, so that a restart does not lift it."""
    avoided: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Until when a group (oid) avoids a node (oid)."""


# --- actions: each carries its reason, which is shown in the event, the status and the command line ---------


class StopCause(Enum):
    """Why a worker is stopped; apply checks again that it still holds, as an operation may have undone it."""

    ANY = "any"
    SURPLUS = "surplus"
    """Its group asks for fewer."""
    REMOVED = "removed"
    """Its node is no longer one of its cluster."""
    DRAINING = "draining"
    MOVE = "move"
    """It is ordered elsewhere, where there is room."""


class SetNode(Struct, frozen=True):
    """Change a node's status."""

    node_oid: str
    status: NodeStatus
    reason: str


class NoteDrain(Struct, frozen=True):
    """Store the progress of a node's drain."""

    node_oid: str
    note: str
    reason: str


class CreateWorker(Struct, frozen=True):
    """Open a slot: a new worker, STARTING on that node, or PENDING without one."""

    group_oid: str
    ordinal: int
    reason: str
    node_oid: str | None = None


class DropWorker(Struct, frozen=True):
    """Close a slot: delete the stopped worker's row and status."""

    worker_oid: str
    reason: str


class MarkPending(Struct, frozen=True):
    """Make a worker PENDING, or give a pending one a new reason; it has no node meanwhile."""

    worker_oid: str
    reason: str


class Place(Struct, frozen=True):
    """Assign a pending or stopped worker to a node: it becomes STARTING."""

    worker_oid: str
    node_oid: str
    reason: str


class Unassign(Struct, frozen=True):
    """Take a worker out of its node's assignment: it is STOPPING until the node reports it gone.

    `cause` is the precondition that must still hold when this is applied.
    """

    worker_oid: str
    reason: str
    cause: StopCause = StopCause.ANY


class Relocate(Struct, frozen=True):
    """Unassign a worker that can't start on its node; its group avoids that node for a while."""

    worker_oid: str
    group_oid: str
    node_oid: str
    reason: str


class CancelMove(Struct, frozen=True):
    """Give up the order to move a worker: the node that it was to go to does not take it."""

    worker_oid: str
    reason: str


class Evict(Struct, frozen=True):
    """Unassign a worker whose node is silent, without waiting for the node: it is PENDING at once.

    `refused`: the node is heard, but follows another manager, and does not report the worker.
    """

    worker_oid: str
    reason: str
    refused: bool = False


class Explain(Struct, frozen=True):
    """Give a STARTING worker, of which its node says nothing, a reason."""

    worker_oid: str
    reason: str


class MarkUnknown(Struct, frozen=True):
    """Make a worker UNKNOWN: its node is silent."""

    worker_oid: str
    reason: str


class MarkStopped(Struct, frozen=True):
    """Make a worker STOPPED: it is known to be gone, or its lost node no longer has it assigned."""

    worker_oid: str
    reason: str


class Replace(Struct, frozen=True):
    """Have a worker run its group's present revision on the same node: STARTING, as a new generation."""

    worker_oid: str
    reason: str


class BlockRollout(Struct, frozen=True):
    """Store why a group's rollout can't go on, or that nothing blocks it (None)."""

    group_oid: str
    why: str | None
    reason: str


class CompleteRollout(Struct, frozen=True):
    """Every worker of a group is ready with that revision: its rollout is complete."""

    group_oid: str
    revision: int
    reason: str


class SetGroup(Struct, frozen=True):
    """A worker group's new status."""

    group_oid: str
    status: ClusterState
    reason: str


class SetCluster(Struct, frozen=True):
    """A cluster's new status."""

    cluster_oid: str
    status: ClusterState
    reason: str


class MassFailureHold(Struct, frozen=True):
    """Begin or change the mass failure hold (a reason, and the nodes that fell silent), or lift it (None)."""

    reason: str | None
    nodes: frozenset[str] = frozenset()


class SetPeers(Struct, frozen=True):
    """Change what a node's assignment says of meshed groups' workers."""

    node_oid: str
    peers: Peers
    reason: str
    members: Members = field(default_factory=dict)


Action = (
    SetNode
    | SetPeers
    | NoteDrain
    | CreateWorker
    | DropWorker
    | MarkPending
    | Place
    | Unassign
    | Relocate
    | CancelMove
    | Evict
    | Explain
    | MarkUnknown
    | MarkStopped
    | Replace
    | BlockRollout
    | CompleteRollout
    | SetGroup
    | SetCluster
    | MassFailureHold
)
