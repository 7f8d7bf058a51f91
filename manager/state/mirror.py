"""A cache of the store's rows, from which the monitor's snapshots are made.

It re-reads only the rows that a commit names. As a safety net everything is reloaded every 60 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.listeners import DEFAULT
from busbar.bus.options import MAX_PACKET
from busbar.bus.states import NodeStatus, WorkerState
from msgspec.structs import replace

from ..planner.admission import max_workers
from ..planner.model import ClusterView, GroupView, MemberView, NodeView, Snapshot, WorkerView
from ..planner.plan import at_rest
from ..planner.rolling import ready_of
from ..store import Reads
from ..store.changes import Changes
from ..store.meta import BRAKE_KEY, read_brake
from ..store.rows import ClusterRow, GroupRow, MemberRow, NodeRow, WorkerRow
from .node_memory import NodeMemory

RELOAD_S: Final = 60.0
"""Everything is reloaded this often, whatever the commits named."""
BULK: Final = 500
"""Above so many changed workers a full reload is cheaper than single reads."""
_Seen = tuple[float, float | None, bool, int, float]
"""What a node's view shows besides its row: silent since, will at, heard once, largest packet, when it was
told of peers."""


class StateCache:
    """The cache. Its methods belong to the event loop's thread; pass `invalidate` to `Store.on_commit`."""

    def __init__(
        self,
        reads: Reads,
        memory: NodeMemory,
        clock: Clock,
        max_packet: Callable[[], int] = lambda: MAX_PACKET,
    ) -> None:
        self._max_packet = max_packet
        self._reads, self._memory, self._clock = reads, memory, clock
        self._nodes: dict[str, NodeRow] = {}
        self._names: dict[str, str] = {}
        self._schemas: dict[str, dict[str, str]] = {}
        self._texts: dict[str, str] = {}
        """The schemas' texts: most nodes have the same."""
        self._node_views: dict[str, tuple[NodeRow, _Seen, NodeView]] = {}
        self._clusters: dict[str, ClusterRow] = {}
        self._members: dict[str, tuple[MemberView, ...]] = {}
        self._nodes_changed = False
        self._groups: dict[str, dict[str, GroupRow]] = {}
        self._workers: dict[str, dict[str, WorkerView]] = {}
        self._group_of: dict[str, str] = {}
        self._views: dict[str, GroupView] = {}
        self._unknown: dict[str, frozenset[str]] = {}
        self._active: dict[str, ClusterView] = {}
        self._dirty = Changes()
        self._loaded_at: float | None = None
        self._listening_since: float | None = None
        self._lost_before: frozenset[str] = frozenset()
        self._on_node_removed: list[Callable[[str], None]] = []

    def fork(self, reads: Reads, memory: NodeMemory, clock: Clock) -> StateCache:
        """An empty cache of another store's rows that knows which nodes were lost when listening began."""
        other = StateCache(reads, memory, clock, self._max_packet)
        other.take_lost_before(self._listening_since, self._lost_before)
        return other

    def take_lost_before(self, listening_since: float | None, nodes: frozenset[str]) -> None:
        """These nodes (oids) were lost when listening began."""
        self._listening_since, self._lost_before = listening_since, nodes

    def on_node_removed(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the oid of every node whose row is gone."""
        self._on_node_removed.append(listener)

    def invalidate(self, changes: Changes) -> None:
        """A commit changed these rows: they are read again when next needed."""
        dirty = self._dirty
        dirty.nodes |= changes.nodes
        dirty.clusters |= changes.clusters
        dirty.groups |= changes.groups
        dirty.workers |= changes.workers

    def snapshot(self) -> Snapshot:
        """The present state; clusters at rest are left out, so that they cost nothing."""
        try:
            stored = self._refresh_all() if self._is_outdated() else self._reads.meta(BRAKE_KEY)
        except BaseException:
            self._loaded_at = None  # partly refreshed: reload everything next time
            raise
        reason, nodes = read_brake(stored)
        self._memory.hold = reason
        self._note_lost_before()
        return Snapshot(
            timing=self._memory.timing,
            nodes={oid: self._node_view(row) for oid, row in self._nodes.items()},
            clusters=dict(self._active),
            hold=reason,
            hold_nodes=nodes,
            avoided=self._memory.avoided(),
        )

    def node_named(self, name: str) -> NodeRow | None:
        """A node's row by its name."""
        if self._loaded_at is None:
            self.snapshot()
        if self._dirty.nodes:
            self._refresh_nodes()
        return self._nodes.get(self._names.get(name, ""))

    def has_unknown(self, node_oid: str) -> bool:
        """Whether workers on this node were UNKNOWN at the last refresh."""
        return bool(self._unknown) and any(node_oid in nodes for nodes in self._unknown.values())

    # --- reading

    def _is_outdated(self) -> bool:
        return bool(self._reload_due() or self._dirty or self._nodes_changed)

    def _refresh_all(self) -> str | None:
        """Read what changed; returns the stored hold as of the same read transaction."""
        with self._reads.consistent():
            self._refresh()
            return self._reads.meta(BRAKE_KEY)

    def _refresh(self) -> None:
        if self._reload_due() or len(self._dirty.workers) > BULK:
            self._reload()
            self._loaded_at = self._clock.monotonic()
            return
        self._refresh_nodes()
        members_too, self._nodes_changed = self._nodes_changed, False
        self._refresh_workers()
        clusters, self._dirty.clusters = self._dirty.clusters, set()
        groups, self._dirty.groups = self._dirty.groups, set()
        self._refresh_clusters(clusters, groups, members_too)

    def _reload_due(self) -> bool:
        return self._loaded_at is None or self._clock.monotonic() - self._loaded_at >= RELOAD_S

    def _reload(self) -> None:
        self._dirty = Changes()
        self._node_views.clear()
        reads = self._reads
        nodes = reads.nodes()
        for row in nodes:
            self._note_paired(row)
        self._nodes = {row.oid: row for row in nodes}
        self._names = {row.name: row.oid for row in self._nodes.values()}
        self._schemas, self._texts = {}, {}
        self._put_schemas(reads.node_schemas())
        gone = set(self._clusters)
        self._clusters = {row.oid: row for row in reads.clusters()}
        self._workers, self._group_of = {}, {}
        for worker in reads.workers():
            self._put_worker(worker)
        self._members = _by_cluster(reads.all_members())
        groups = _grouped(reads.groups())
        for oid in gone - set(self._clusters):
            self._drop_cluster(oid)
        for oid in self._clusters:
            self._put_groups(oid, groups.get(oid, {}), set(groups.get(oid, ())))

    def _refresh_nodes(self) -> None:
        oids, self._dirty.nodes = self._dirty.nodes, set()
        # Nodes may be refreshed between snapshots, for a message: memberships are still to be read.
        self._nodes_changed |= bool(oids)
        for oid in oids:
            self._schemas.pop(oid, None)
        self._put_schemas(self._reads.node_schemas(oids) if oids else {})
        for row in self._reads.nodes_of_any(oids):
            oids.discard(row.oid)
            self._note_paired(row)
            self._nodes[row.oid] = row
            self._names[row.name] = row.oid
        for oid in oids & set(self._nodes):
            self._names.pop(self._nodes.pop(oid).name, None)
            self._node_views.pop(oid, None)
            self._memory.forget_node(oid)
            for listener in self._on_node_removed:
                listener(oid)

    def _put_schemas(self, found: dict[str, dict[str, str]]) -> None:
        for oid, schemas in found.items():
            self._schemas[oid] = {name: self._texts.setdefault(text, text) for name, text in schemas.items()}
            self._node_views.pop(oid, None)

    def _note_paired(self, row: NodeRow) -> None:
        before = self._nodes.get(row.oid)
        if before is not None and before.status is NodeStatus.UNPAIRED is not row.status:
            self._memory.paired(row.oid)

    def _refresh_workers(self) -> None:
        oids, self._dirty.workers = self._dirty.workers, set()
        for row in self._reads.workers_of_any(oids):
            oids.discard(row.oid)
            self._put_worker(row)
        for oid in oids:
            self._workers.get(self._group_of.pop(oid, ""), {}).pop(oid, None)
            self._memory.forget_worker(oid)

    def _refresh_clusters(self, oids: set[str], dirty: set[str], members_too: bool) -> None:
        reads = self._reads
        rows = {row.oid: row for row in reads.clusters_of_any(oids)}
        for oid in oids - set(rows):
            self._drop_cluster(oid)
        fresh = {oid for oid in rows if members_too or oid not in self._clusters}
        members = _by_cluster(reads.members_of_any(fresh))
        self._members.update({oid: members.get(oid, ()) for oid in fresh})
        groups = _grouped(reads.groups_of_any(rows))
        self._clusters.update(rows)
        for oid in rows:
            self._put_groups(oid, groups.get(oid, {}), dirty)

    # --- rows and views

    def _put_worker(self, row: WorkerRow) -> None:
        self._group_of[row.oid] = row.group_oid
        self._workers.setdefault(row.group_oid, {})[row.oid] = WorkerView(
            oid=row.oid,
            name=row.name,
            ordinal=row.ordinal,
            group_oid=row.group_oid,
            cluster_oid=row.cluster_oid,
            state=row.state,
            node_oid=row.node_oid,
            last_node_oid=row.last_node_oid,
            generation=row.generation,
            reason=row.reason,
            restarts=row.restarts,
            revision=row.revision,
            pid=row.pid,
            failing_since=self._memory.failing_since(row.oid, row.generation, row.state),
            listeners=row.listeners or ({DEFAULT: row.address} if row.address else {}),
            move=row.move,
        )

    def _put_groups(self, cluster_oid: str, groups: dict[str, GroupRow], dirty: set[str]) -> None:
        """Replace a cluster's groups; the views of new ones and of those in `dirty` are rebuilt."""
        for oid in set(self._groups.get(cluster_oid, ())) - set(groups):
            self._drop_group(oid)
        self._groups[cluster_oid] = groups
        for oid, row in groups.items():
            if oid in dirty or oid not in self._views:
                self._build_view(row)
        cluster = self._clusters[cluster_oid]
        view = ClusterView(
            oid=cluster.oid,
            name=cluster.name,
            status=cluster.status,
            since=self._memory.entered(cluster.oid, cluster.status),
            members=self._members.get(cluster.oid, ()),
            groups=tuple(self._views[oid] for oid in groups),
            was_running=cluster.was_running,
        )
        if at_rest(view):
            self._active.pop(cluster_oid, None)
        else:
            self._active[cluster_oid] = view

    def _build_view(self, row: GroupRow) -> None:
        workers = sorted(self._workers.get(row.oid, {}).values(), key=lambda worker: worker.ordinal)
        view = GroupView(
            oid=row.oid,
            name=row.name,
            cluster_oid=row.cluster_oid,
            scale=row.scale,
            status=row.status,
            since=self._memory.entered(row.oid, row.status),
            runtime=row.runtime,
            lost_after=row.lost_after,
            start_deadline=row.start_deadline,
            workers=tuple(workers),
            was_running=row.was_running,
            revision=row.revision,
            settled=row.settled,
            max_unavailable=row.max_unavailable,
            max_surge=row.max_surge,
            held_back=row.held_back,
            stop_ordered=row.stop_ordered,
            mesh=row.mesh,
            placement=row.placement,
            transport=row.transport or self._clusters[row.cluster_oid].transport,
        )
        since = self._memory.none_ready(row.oid, ready_of(view) == 0)
        self._views[row.oid] = view if since is None else replace(view, none_ready_since=since)
        unknown = frozenset(w.node_oid for w in workers if w.state is WorkerState.UNKNOWN and w.node_oid)
        self._unknown.pop(row.oid, None)
        if unknown:
            self._unknown[row.oid] = unknown

    def _drop_cluster(self, oid: str) -> None:
        for group_oid in self._groups.pop(oid, {}):
            self._drop_group(group_oid)
        self._clusters.pop(oid, None)
        self._members.pop(oid, None)
        self._active.pop(oid, None)
        self._memory.forget(oid)

    def _drop_group(self, oid: str) -> None:
        for worker_oid in self._workers.pop(oid, {}):
            self._group_of.pop(worker_oid, None)
            self._memory.forget_worker(worker_oid)
        self._views.pop(oid, None)
        self._unknown.pop(oid, None)
        self._memory.forget(oid)

    # --- nodes

    def _note_lost_before(self) -> None:
        """Remember which nodes were lost when listening began: they are no part of a mass failure now."""
        if self._listening_since != self._memory.listening_since:
            self._listening_since = self._memory.listening_since
            lost = (row.oid for row in self._nodes.values() if row.status is NodeStatus.LOST)
            self._lost_before = frozenset(lost)
            self._node_views.clear()

    def _node_view(self, row: NodeRow) -> NodeView:
        """A node's view, reused while neither its row nor its times have changed."""
        memory, oid = self._memory, row.oid
        packet = self._max_packet()
        told_at = memory.peers_told_at(oid)
        seen = (memory.silent_since(oid), memory.will_at(oid), memory.heard_once(oid), packet, told_at)
        known = self._node_views.get(oid)
        if known is not None and known[0] is row and known[1] == seen:
            return known[2]
        heard_at, will_at, heard_once, _, _ = seen
        view = NodeView(
            oid=oid,
            name=row.name,
            status=row.status,
            heard_at=heard_at,
            runtimes=frozenset(row.runtimes),
            max_workers=max_workers(row.capacity, packet),
            will_at=will_at,
            goodbye=row.goodbye,
            leaves=row.leaves,
            heard_once=heard_once,
            known=row.boot is not None,
            lost_before=oid in self._lost_before and not heard_once,
            draining=row.draining is not None,
            drain_note=row.drain_note,
            cordoned=row.cordoned is not None,
            labels=row.labels or {},
            applied=row.applied_version >= row.assignment_version,
            refuses=row.refuses,
            refuses_since=memory.refuses_since(oid, row.refuses is not None),
            peers=row.peers,
            members=row.members,
            peers_at=told_at,
            schemas=self._schemas.get(oid, {}),
        )
        self._node_views[oid] = (row, seen, view)
        return view


def _by_cluster(rows: Iterable[MemberRow]) -> dict[str, tuple[MemberView, ...]]:
    members: dict[str, list[MemberView]] = {}
    for row in sorted(rows, key=lambda row: row.node_oid):
        members.setdefault(row.cluster_oid, []).append(MemberView(row.node_oid, row.hardlimit, row.softlimit))
    return {oid: tuple(found) for oid, found in members.items()}


def _grouped(rows: Iterable[GroupRow]) -> dict[str, dict[str, GroupRow]]:
    groups: dict[str, dict[str, GroupRow]] = {}
    for row in sorted(rows, key=lambda row: row.name):
        groups.setdefault(row.cluster_oid, {})[row.oid] = row
    return groups
