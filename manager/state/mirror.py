"""The snapshot that a plan looks at: the store's rows, mirrored in memory, and what was observed.

The mirror re-reads only what a commit names. As a safety net it is read whole every 60 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.states import NodeStatus, WorkerState

from ..planner.admission import max_workers
from ..planner.model import ClusterView, GroupView, MemberView, NodeView, Snapshot, WorkerView
from ..planner.plan import at_rest
from ..planner.rolling import ready_of
from ..store import Reads
from ..store.changes import Changes
from ..store.meta import BRAKE_KEY, read_brake
from ..store.rows import ClusterRow, GroupRow, MemberRow, NodeRow, WorkerRow
from .node_memory import Observed

RELOAD_S: Final = 60.0
"""The mirror is read anew this often, whatever the commits said."""
BULK: Final = 500
"""From so many changed workers on, reading everything is cheaper than reading them one by one."""
_Seen = tuple[float, float | None, bool]
"""What memory knows of a node: silent since, will at, heard once."""


class World:
    """The mirror. All methods belong to the event loop's thread; pass `note` to `Store.on_commit`."""

    def __init__(self, reads: Reads, observed: Observed, clock: Clock) -> None:
        self._reads, self._observed, self._clock = reads, observed, clock
        self._nodes: dict[str, NodeRow] = {}
        self._names: dict[str, str] = {}
        self._node_views: dict[str, tuple[NodeRow, _Seen, NodeView]] = {}
        self._clusters: dict[str, ClusterRow] = {}
        self._members: dict[str, tuple[MemberView, ...]] = {}
        self._nodes_moved = False
        self._groups: dict[str, dict[str, GroupRow]] = {}
        self._workers: dict[str, dict[str, WorkerView]] = {}
        self._group_of: dict[str, str] = {}
        self._views: dict[str, GroupView] = {}
        self._unknown: dict[str, frozenset[str]] = {}
        self._awake: dict[str, ClusterView] = {}
        self._dirty = Changes()
        self._loaded_at: float | None = None
        self._listening_since: float | None = None
        self._gone_before: frozenset[str] = frozenset()
        self._on_node_removed: list[Callable[[str], None]] = []

    def on_node_removed(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the oid of every node whose row is gone."""
        self._on_node_removed.append(listener)

    def note(self, changes: Changes) -> None:
        """A commit changed these: they are read when they are next asked for."""
        dirty = self._dirty
        dirty.nodes |= changes.nodes
        dirty.clusters |= changes.clusters
        dirty.groups |= changes.groups
        dirty.workers |= changes.workers

    def snapshot(self) -> Snapshot:
        """What is known now; clusters at rest are left out, so that a thousand of them cost nothing."""
        try:
            brake = self._catch_up() if self._behind() else self._reads.meta(BRAKE_KEY)
        except BaseException:
            self._loaded_at = None  # half refreshed: read everything next time
            raise
        reason, nodes = read_brake(brake)
        self._observed.brake = reason
        self._note_listening()
        return Snapshot(
            timing=self._observed.timing,
            nodes={oid: self._node_view(row) for oid, row in self._nodes.items()},
            clusters=dict(self._awake),
            braked=reason,
            brake_nodes=nodes,
        )

    def node_named(self, name: str) -> NodeRow | None:
        """A node's row by its name."""
        if self._loaded_at is None:
            self.snapshot()
        if self._dirty.nodes:
            self._refresh_nodes()
        return self._nodes.get(self._names.get(name, ""))

    def has_unknown(self, node_oid: str) -> bool:
        """Whether workers on this node were UNKNOWN when the mirror was last refreshed."""
        return bool(self._unknown) and any(node_oid in nodes for nodes in self._unknown.values())

    # --- reading

    def _behind(self) -> bool:
        return bool(self._stale() or self._dirty or self._nodes_moved)

    def _catch_up(self) -> str | None:
        """Read what changed; returns the brake of the same moment."""
        with self._reads.consistent():
            self._refresh()
            return self._reads.meta(BRAKE_KEY)

    def _refresh(self) -> None:
        if self._stale() or len(self._dirty.workers) > BULK:
            self._load()
            self._loaded_at = self._clock.monotonic()
            return
        self._refresh_nodes()
        members_too, self._nodes_moved = self._nodes_moved, False
        self._refresh_workers()
        clusters, self._dirty.clusters = self._dirty.clusters, set()
        groups, self._dirty.groups = self._dirty.groups, set()
        self._refresh_clusters(clusters, groups, members_too)

    def _stale(self) -> bool:
        return self._loaded_at is None or self._clock.monotonic() - self._loaded_at >= RELOAD_S

    def _load(self) -> None:
        self._dirty = Changes()
        self._node_views.clear()
        reads = self._reads
        self._nodes = {row.oid: row for row in reads.nodes()}
        self._names = {row.name: row.oid for row in self._nodes.values()}
        gone = set(self._clusters)
        self._clusters = {row.oid: row for row in reads.clusters()}
        self._workers, self._group_of = {}, {}
        for worker in reads.workers():
            self._keep_worker(worker)
        self._members = _by_cluster(reads.all_members())
        groups = _grouped(reads.groups())
        for oid in gone - set(self._clusters):
            self._drop_cluster(oid)
        for oid in self._clusters:
            self._set_groups(oid, groups.get(oid, {}), set(groups.get(oid, ())))

    def _refresh_nodes(self) -> None:
        oids, self._dirty.nodes = self._dirty.nodes, set()
        # A message may have had the nodes refreshed before the next look: memberships are still to be read.
        self._nodes_moved |= bool(oids)
        for row in self._reads.nodes_of_any(oids):
            oids.discard(row.oid)
            self._nodes[row.oid] = row
            self._names[row.name] = row.oid
        for oid in oids & set(self._nodes):
            self._names.pop(self._nodes.pop(oid).name, None)
            self._node_views.pop(oid, None)
            self._observed.forget_node(oid)
            for listener in self._on_node_removed:
                listener(oid)

    def _refresh_workers(self) -> None:
        oids, self._dirty.workers = self._dirty.workers, set()
        for row in self._reads.workers_of_any(oids):
            oids.discard(row.oid)
            self._keep_worker(row)
        for oid in oids:
            self._workers.get(self._group_of.pop(oid, ""), {}).pop(oid, None)
            self._observed.forget_worker(oid)

    def _refresh_clusters(self, oids: set[str], dirty: set[str], members_too: bool) -> None:
        reads = self._reads
        rows = {row.oid: row for row in reads.clusters_of_any(oids)}
        for oid in oids - set(rows):
            self._drop_cluster(oid)
        fresh = set(rows) if members_too else set(rows) - set(self._clusters)
        members = _by_cluster(reads.members_of_any(fresh))
        self._members.update({oid: members.get(oid, ()) for oid in fresh})
        groups = _grouped(reads.groups_of_any(rows))
        self._clusters.update(rows)
        for oid in rows:
            self._set_groups(oid, groups.get(oid, {}), dirty)

    # --- keeping

    def _keep_worker(self, row: WorkerRow) -> None:
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
        )

    def _set_groups(self, cluster_oid: str, groups: dict[str, GroupRow], dirty: set[str]) -> None:
        """Take over a cluster's groups; those in `dirty` (or new) are viewed anew."""
        for oid in set(self._groups.get(cluster_oid, ())) - set(groups):
            self._drop_group(oid)
        self._groups[cluster_oid] = groups
        for oid, row in groups.items():
            if oid in dirty or oid not in self._views:
                self._view_group(row)
        cluster = self._clusters[cluster_oid]
        view = ClusterView(
            oid=cluster.oid,
            name=cluster.name,
            status=cluster.status,
            since=self._observed.entered(cluster.oid, cluster.status),
            members=self._members.get(cluster.oid, ()),
            groups=tuple(self._views[oid] for oid in groups),
            was_running=cluster.was_running,
        )
        if at_rest(view):
            self._awake.pop(cluster_oid, None)
        else:
            self._awake[cluster_oid] = view

    def _view_group(self, row: GroupRow) -> None:
        workers = sorted(self._workers.get(row.oid, {}).values(), key=lambda worker: worker.ordinal)
        view = GroupView(
            oid=row.oid,
            name=row.name,
            cluster_oid=row.cluster_oid,
            scale=row.scale,
            status=row.status,
            since=self._observed.entered(row.oid, row.status),
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
        )
        since = self._observed.none_ready(row.oid, ready_of(view) == 0)
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
        self._awake.pop(oid, None)
        self._observed.forget(oid)

    def _drop_group(self, oid: str) -> None:
        for worker_oid in self._workers.pop(oid, {}):
            self._group_of.pop(worker_oid, None)
            self._observed.forget_worker(worker_oid)
        self._views.pop(oid, None)
        self._unknown.pop(oid, None)
        self._observed.forget(oid)

    # --- nodes

    def _note_listening(self) -> None:
        """Remember who was lost already when listening began: those did not vanish now."""
        if self._listening_since != self._observed.listening_since:
            self._listening_since = self._observed.listening_since
            lost = (row.oid for row in self._nodes.values() if row.status is NodeStatus.LOST)
            self._gone_before = frozenset(lost)
            self._node_views.clear()

    def _node_view(self, row: NodeRow) -> NodeView:
        """A node as it is; the view of the last time, where nothing of it has changed."""
        observed, oid = self._observed, row.oid
        seen = (observed.silent_since(oid), observed.will_at(oid), observed.heard_once(oid))
        known = self._node_views.get(oid)
        if known is not None and known[0] is row and known[1] == seen:
            return known[2]
        heard_at, will_at, heard_once = seen
        view = NodeView(
            oid=oid,
            name=row.name,
            status=row.status,
            heard_at=heard_at,
            runtimes=frozenset(row.runtimes),
            max_workers=max_workers(row.capacity),
            will_at=will_at,
            goodbye=row.goodbye,
            heard_once=heard_once,
            known=row.boot is not None,
            gone_before=oid in self._gone_before and not heard_once,
            draining=row.draining is not None,
            drain_note=row.drain_note,
            applied=row.applied_version >= row.assignment_version,
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
