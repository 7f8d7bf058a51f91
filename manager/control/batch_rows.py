"""The rows that a transaction looks at again and again while it applies a plan's actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from busbar.bus.states import STARTED, ClusterState, NodeStatus, WorkerState

from ..planner.admission import occupies
from ..store.rows import GroupRow, MemberRow, NodeRow, WorkerRow
from ..store.tx import Tx

Heard = Callable[[str], bool]


class BatchRows:
    """Rows of one transaction, cached; each node's assignment version is bumped once."""

    def __init__(self, tx: Tx, heard_since: Heard) -> None:
        self._tx = tx
        self._heard_since = heard_since
        self.reset()

    def reset(self) -> None:
        """Drop the caches: an action was rolled back."""
        self._bumped: dict[str, int] = {}
        self._nodes: dict[str, NodeRow | None] = {}
        self._schemas: dict[str, dict[str, str]] = {}
        self._members: dict[tuple[str, str], MemberRow | None] = {}
        self._on_node: dict[str, Counter[str]] = {}
        self._groups: dict[str, GroupRow | None] = {}
        self._statuses: dict[str, ClusterState | None] = {}
        self._ready: dict[str, int] = {}
        """By group: its ready workers, while nothing but replacements is applied."""

    def _worker_in(self, worker_oid: str, *states: WorkerState) -> WorkerRow | None:
        row = self._tx.worker(worker_oid)
        return row if row is not None and row.state in states else None

    def _node(self, oid: str) -> NodeRow | None:
        """A node's row; its assignment version may be outdated by this batch's own bumps."""
        if oid not in self._nodes:
            self._nodes[oid] = self._tx.node(oid)
        return self._nodes[oid]

    def _member(self, cluster_oid: str, node_oid: str) -> MemberRow | None:
        key = (cluster_oid, node_oid)
        if key not in self._members:
            self._members[key] = self._tx.member(cluster_oid, node_oid)
        return self._members[key]

    def _group(self, oid: str) -> GroupRow | None:
        if oid not in self._groups:
            self._groups[oid] = self._tx.group(oid)
        return self._groups[oid]

    def _ready_in(self, group_oid: str) -> int:
        """The group's ready workers. Counting those of a large group for each replacement took most of it."""
        if group_oid not in self._ready:
            states = self._tx.worker_states("group_oid", group_oid)
            self._ready[group_oid] = states.get(WorkerState.RUNNING, 0)
        return self._ready[group_oid]

    def _is_wanted(self, worker: WorkerRow) -> bool:
        group = self._group(worker.group_oid)
        return group is not None and self._wanted(group)

    def _wanted(self, group: GroupRow) -> bool:
        """Whether the group's workers are to run."""
        return not group.stop_ordered and self._started(group.cluster_oid)

    def _started(self, cluster_oid: str) -> bool:
        if cluster_oid not in self._statuses:
            row = self._tx.cluster(cluster_oid)
            self._statuses[cluster_oid] = row.status if row else None
        return self._statuses[cluster_oid] in STARTED

    def _is_online_member(self, cluster_oid: str, node_oid: str) -> bool:
        """Whether the node is online and a member: then nothing is evicted from it."""
        node = self._node(node_oid)
        if node is None or node.status is not NodeStatus.ONLINE:
            return False
        return self._member(cluster_oid, node_oid) is not None

    def _heard_again(self, worker: WorkerRow) -> bool:
        """Whether the worker's node, silent when this was planned, has been heard since."""
        return worker.node_oid is not None and self._heard_since(worker.node_oid)

    def _load(self, node_oid: str) -> Counter[str]:
        if node_oid not in self._on_node:
            held = self._tx.workers_on(node_oid)
            occupying = (worker.cluster_oid for worker in held if occupies(worker.state))
            self._on_node[node_oid] = Counter(occupying)
        return self._on_node[node_oid]

    def _bump(self, node_oid: str) -> int:
        if node_oid not in self._bumped:
            self._bumped[node_oid] = self._tx.bump_assignment(node_oid)
        return self._bumped[node_oid]
