"""Typed, versioned writes. What they change is recorded and published after the commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from busbar.bus.clock import rfc3339
from busbar.bus.decode import encode
from busbar.bus.events import EVENT_KINDS, event_type
from busbar.bus.messages import Event
from busbar.bus.options import MAX_PACKET
from busbar.bus.states import WorkerState
from busbar.bus.topics import NO_CLUSTER, Topics
from msgspec import Struct, field
from msgspec.structs import replace

from . import sql
from .append_buffer import AppendBuffer
from .changes import MONITOR, Cause, Changes
from .reads import Queries
from .rows import (
    ClusterRevisionRow,
    ClusterRow,
    GroupRow,
    MemberRow,
    NodeRow,
    PrincipalRow,
    RefusalRow,
    StoredReply,
    WorkerRow,
)
from .sqlite import Database

T = TypeVar("T")
SAVEPOINT: Final = "job"
"""The savepoint that the engine opens for each transaction."""
PACKET_OVERHEAD: Final = 64
"""Bytes of an event's packet besides topic and payload."""
SHORT: Final = 160
"""Characters of a text in an event that must be small."""
LARGE: Final = 512
"""Bytes of an object that such an event leaves out."""


def _shortened(data: Mapping[str, object]) -> dict[str, object]:
    """An event's data where the broker does not take it as it is: without objects that are large."""
    return {
        name: each[:SHORT] if isinstance(each, str) else each
        for name, each in data.items()
        if not isinstance(each, (dict, list)) or len(encode(each)) <= LARGE
    }


class StoreContext(Struct):
    """Shared by all transactions of a store."""

    store: str
    epoch: int
    topics: Topics
    new_oid: Callable[[], str]
    appends: AppendBuffer = field(default_factory=AppendBuffer)
    max_packet: Callable[[], int] = lambda: MAX_PACKET
    """Bytes of the largest packet that the broker takes: what no message may exceed."""


class Tx(Queries):
    """One savepoint of a group commit: all of it is committed, or nothing.

    Every `update_*` bumps the row's `version`, sets `changed` and marks the object's status for publishing (a
    worker's group and cluster too); it returns False when the row is gone. `cause` is named by its events.
    """

    def __init__(self, db: Database, context: StoreContext, now_ns: int, cause: Cause = MONITOR) -> None:
        super().__init__(db)
        self.context = context
        self.now_ns = now_ns
        self.cause = cause
        self.changes = Changes()
        self._changes_at_start = db.conn.total_changes

    def attempt(self, fn: Callable[[], T]) -> T:
        """Run `fn`; when it raises, roll back what it did and re-raise."""
        outer, start = self.changes, self.context.appends.position()
        self.changes = Changes()
        # While no row has been changed, the engine's savepoint serves as well.
        own = self.db.conn.total_changes != self._changes_at_start
        savepoint = "attempt" if own else SAVEPOINT
        if own:
            self._execute(f"SAVEPOINT {savepoint}")
        try:
            result = fn()
        except BaseException:
            self.changes = outer
            self.context.appends.truncate(start)
            if self.db.conn.in_transaction:
                self._execute(f"ROLLBACK TO {savepoint}")
                if own:
                    self._execute(f"RELEASE {savepoint}")
            raise
        if own:
            self._execute(f"RELEASE {savepoint}")
        outer.merge(self.changes)
        self.changes = outer
        return result

    # --- nodes

    def insert_node(self, row: NodeRow) -> None:
        self._execute(sql.NODES.insert, sql.NODES.cells(row))
        self.changes.nodes.add(row.oid)

    def update_node(self, oid: str, **columns: object) -> bool:
        found = self._update(sql.NODES, oid, columns, "oid")
        self.changes.nodes.update(row[0] for row in found)
        if found and "labels" in columns:
            self._touch_groups(oid)
        return bool(found)

    def delete_node(self, node: NodeRow) -> None:
        """Delete a node that no worker and no cluster has any more; what is retained of it is cleared."""
        self._execute("DELETE FROM nodes WHERE oid = ?", (node.oid,))
        self.changes.nodes.add(node.oid)
        self.send(self.context.topics.node(node.name, "assignment"), b"", retain=True)
        self.clear_status(None, "node", node.name)

    def set_schemas(self, node_oid: str, digests: Mapping[str, str], bodies: Mapping[str, str]) -> None:
        """Store which schemas a node has, by runtime, and those of them that are new, by digest.

        The statuses of groups that it may have to do with are published again.
        """
        before = self.schema_digests(node_oid)
        named = {key: body for key, body in bodies.items() if key in digests.values()}
        new = named.keys() - self.known_schemas(named) if named else set[str]()
        if before == digests and not new:
            return
        if before != digests:
            self._execute("DELETE FROM node_schemas WHERE node_oid = ?", (node_oid,))
            for runtime, key in digests.items():
                self._execute("INSERT INTO node_schemas VALUES (?, ?, ?)", (node_oid, runtime, key))
        for key in new:
            self._execute("INSERT INTO runtime_schemas VALUES (?, ?)", (key, named[key]))
        self._execute(sql.DROP_SCHEMAS)
        self.changes.nodes.add(node_oid)
        self._touch_groups(node_oid)

    def bump_assignment(self, node_oid: str) -> int:
        """Raise the node's assignment version and return it; it is published after the commit.

        Raises:
            LookupError: there is no such node.
        """
        found = self._execute(sql.BUMP_ASSIGNMENT, (node_oid,)).fetchall()
        if not found:
            raise LookupError(f"no node with oid {node_oid}")
        self.changes.assignments.add(node_oid)
        return int(found[0][0])

    # --- clusters and members

    def insert_cluster(self, row: ClusterRow) -> None:
        self._execute(sql.CLUSTERS.insert, sql.CLUSTERS.cells(row))
        self.changes.clusters.add(row.oid)
        self.changes.bare[row.oid] = row

    def update_cluster(self, oid: str, **columns: object) -> bool:
        found = self._update(sql.CLUSTERS, oid, columns, "oid")
        self.changes.touch_clusters(row[0] for row in found)
        return bool(found)

    def delete_cluster(self, cluster: ClusterRow) -> None:
        """Delete a cluster with its groups, workers and memberships; their statuses are cleared."""
        for group in self.groups_of(cluster.oid):
            self.delete_group(group, cluster.name)
        self._execute("DELETE FROM members WHERE cluster_oid = ?", (cluster.oid,))
        self._execute("DELETE FROM clusters WHERE oid = ?", (cluster.oid,))
        self.changes.touch_clusters((cluster.oid,))
        self.clear_status(cluster.name, "routercluster", cluster.name)

    def add_cluster_revision(self, row: ClusterRevisionRow, kept: int) -> None:
        """Add a cluster's next revision, and delete all but the last so many."""
        self._execute(sql.CLUSTER_REVISIONS.insert, sql.CLUSTER_REVISIONS.cells(row))
        if row.revision > kept:
            self._execute(sql.CLUSTER_REVISIONS_DROP, (row.cluster_oid, row.revision - kept))

    def insert_member(self, row: MemberRow) -> None:
        self._execute(sql.MEMBERS.insert, sql.MEMBERS.cells(row))
        self._touch_member(row)

    def delete_member(self, row: MemberRow) -> None:
        keys = (row.cluster_oid, row.node_oid)
        self._execute("DELETE FROM members WHERE cluster_oid = ? AND node_oid = ?", keys)
        self._touch_member(row)

    # --- worker groups

    def insert_group(self, row: GroupRow) -> None:
        self._execute(sql.GROUPS.insert, sql.GROUPS.cells(row))
        self._execute(sql.REVISION_ADD, (row.oid,))
        self.changes.groups.add(row.oid)
        self.changes.touch_clusters((row.cluster_oid,))

    def update_group(self, oid: str, **columns: object) -> bool:
        found = self._update(sql.GROUPS, oid, columns, "cluster_oid")
        if found:
            self.changes.groups.add(oid)
            self.changes.touch_clusters(row[0] for row in found)
        return bool(found)

    def add_revision(self, group_oid: str) -> None:
        """Store what the group's row runs now as its (new) revision; delete unused revisions."""
        self._execute(sql.REVISION_ADD, (group_oid,))
        self.drop_revisions(group_oid)

    def drop_revisions(self, group_oid: str) -> None:
        """Delete the revisions that neither the group nor any of its workers has."""
        self._execute(sql.REVISIONS_DROP, (group_oid,))

    def delete_group(self, group: GroupRow, cluster_name: str) -> None:
        """Delete a group with its workers; their statuses are cleared."""
        for worker in self.workers_of(group.oid):
            self._delete_worker(worker, cluster_name)
        self._execute("DELETE FROM workergroups WHERE oid = ?", (group.oid,))
        self.clear_status(cluster_name, "workergroup", group.name)
        self.changes.groups.add(group.oid)
        self.changes.touch_clusters((group.cluster_oid,))

    # --- workers

    def insert_worker(
        self, group: GroupRow, ordinal: int, reason: str | None, node_oid: str | None = None
    ) -> WorkerRow:
        """A new worker named after its group and ordinal: STARTING on a node, or PENDING without one."""
        row = WorkerRow(
            oid=self.context.new_oid(),
            group_oid=group.oid,
            cluster_oid=group.cluster_oid,
            name=f"{group.name}-{ordinal}",
            ordinal=ordinal,
            state=WorkerState.STARTING if node_oid else WorkerState.PENDING,
            reason=reason,
            node_oid=node_oid,
            last_node_oid=None,
            generation=1 if node_oid else 0,
            unassigned_version=None,
            address=None,
            pid=None,
            restarts=0,
            changed=self.now_ns,
            version=1,
            revision=group.revision,
        )
        self._execute(sql.WORKERS.insert, sql.WORKERS.cells(row))
        self._touch_worker(row.oid, row.group_oid, row.cluster_oid)
        return row

    def update_worker(self, oid: str, **columns: object) -> bool:
        found = self._update(sql.WORKERS, oid, columns, "group_oid, cluster_oid")
        for group_oid, cluster_oid in found:
            self._touch_worker(oid, group_oid, cluster_oid)
        return bool(found)

    def delete_worker(self, oid: str) -> bool:
        """Delete a worker and clear its status; False when it is gone already."""
        worker = self.worker(oid)
        if worker is None:
            return False
        cluster = self.cluster(worker.cluster_oid)
        self._delete_worker(worker, cluster.name if cluster else NO_CLUSTER)
        return True

    # --- principals

    def insert_principal(self, row: PrincipalRow) -> None:
        self._execute(sql.PRINCIPALS.insert, sql.PRINCIPALS.cells(row))
        self.changes.principals.add(row.oid)

    def set_role(self, oid: str, role: str) -> None:
        self._execute("UPDATE principals SET role = ?, changed = ? WHERE oid = ?", (role, self.now_ns, oid))
        self.changes.principals.add(oid)

    def delete_principal(self, row: PrincipalRow) -> None:
        """Replies that it has not received yet are withdrawn: the name's next holder must not get them."""
        self._execute("DELETE FROM principals WHERE oid = ?", (row.oid,))
        self._execute(sql.FORMER_ADD, (row.oid, row.name, self.now_ns))
        prefix = self.context.topics.response(row.name, "")
        self.changes.withdrawn.add((prefix, self.context.appends.outbox_id))
        self.changes.principals.add(row.oid)

    def transfer(self, old_oid: str, new_oid: str) -> tuple[int, int]:
        """Give all clusters and nodes of one principal to another; returns how many of each."""
        values = (new_oid, self.now_ns, old_oid)
        clusters = self._rows(sql.TRANSFER.format("clusters"), *values)
        nodes = self._rows(sql.TRANSFER.format("nodes"), *values)
        self.changes.touch_clusters(row[0] for row in clusters)
        self.changes.nodes.update(row[0] for row in nodes)
        return len(clusters), len(nodes)

    def set_managed_by(
        self, table: Literal["clusters", "workergroups", "principals"], oid: str, owner: str
    ) -> None:
        """Note which file has created an object."""
        self._execute(f"UPDATE {table} SET managed_by = ? WHERE oid = ?", (owner, oid))

    def set_member_managed_by(self, cluster_oid: str, node_oid: str, owner: str) -> None:
        """As `set_managed_by`, of a membership."""
        statement = "UPDATE members SET managed_by = ? WHERE cluster_oid = ? AND node_oid = ?"
        self._execute(statement, (owner, cluster_oid, node_oid))

    # --- events and messages

    def event(
        self, subject: str, verb: str, *, cluster: str | None, name: str, data: Mapping[str, object]
    ) -> int:
        """Record a lifecycle event (`bus.events.EVENTS`) and return its sequence.

        Name, epoch, request id and cause are added to `data` unless it has them.

        Raises:
            KeyError: when the contract has no such event.
        """
        context, appends = self.context, self.context.appends
        kind = EVENT_KINDS[subject]
        appends.sequence = sequence = appends.sequence + 1
        facts: dict[str, object] = {"name": name, "epoch": context.epoch, "who": self.cause.who}
        if self.cause.request_id is not None:
            facts["request_id"] = self.cause.request_id
        event = Event(
            id=f"{context.store}-{sequence:010d}",
            source=f"/busbar/{context.topics.realm}/{context.store}",
            sequence=f"{sequence:010d}",
            type=event_type(subject, verb),
            subject=f"{kind}/{name}",
            time=rfc3339(self.now_ns),
            data={**facts, **data},
        )
        topic = context.topics.event(cluster or NO_CLUSTER, kind, name, verb)
        payload = encode(event)
        if len(payload) > context.max_packet() - len(topic) - PACKET_OVERHEAD:
            payload = encode(replace(event, data=_shortened(event.data)))
        appends.add_event(self.now_ns, topic, payload)
        self.send(topic, payload)
        return sequence

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: str | None = None
    ) -> None:
        """Publish a message after the commit, and again after a crash, until the broker acknowledges it."""
        self.changes.outbox.append(self.context.appends.add_message(topic, payload, retain, properties))

    def clear_status(self, cluster: str | None, kind: str, name: str) -> None:
        """Delete the retained status of a deleted object."""
        self.send(self.context.topics.status(cluster or NO_CLUSTER, kind, name), b"", retain=True)

    # --- requests

    def stored_reply(self, caller: str, request_id: str) -> StoredReply | None:
        """The reply to a request that was answered before; `caller` is the principal's oid."""
        buffered = self.context.appends.replies.get((caller, request_id))
        if buffered is not None:
            return buffered
        row = self._execute(sql.REPLY_GET, (caller, request_id)).fetchone()
        return None if row is None else StoredReply(*row)

    def store_reply(self, caller: str, request_id: str, digest: str, reply: bytes) -> None:
        """Store the reply to a request, so that a repeated request has one effect."""
        self.context.appends.add_reply(caller, request_id, digest, reply, self.now_ns)

    def audit(
        self,
        role: str,
        op: str,
        request_id: str | None,
        oid: str | None,
        outcome: str,
        params: str,
        caller_oid: str | None = None,
    ) -> None:
        """Record who requested what, and the outcome (`ok` or an error code)."""
        caller = self.cause.who.get("authid", "")
        values = (self.now_ns, caller, caller_oid, role, op, request_id, oid, outcome, params)
        self.context.appends.audit.append(values)

    def add_refusal(self, row: RefusalRow) -> None:
        """Count refused requests, with others of the same hour, caller, operation and error."""
        self._execute(sql.REFUSAL_ADD, sql.REFUSALS.cells(row))

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the table `meta`."""
        self._execute(sql.META_SET, (key, value))

    def prune(self, name: str, bound: int, step: int) -> int:
        """Delete at most `step` rows beyond a bound (see `sql.PRUNE`); returns the number of deleted rows."""
        return int(self._execute(sql.PRUNE[name], (bound, step)).rowcount)

    def prune_replies(self, bound: int, step: int) -> int:
        """Delete at most `step` of the oldest replies beyond `bound` bytes; returns how many rows it deleted.

        They are counted only where new ones may have gone beyond the bound; then a tenth is freed at once.
        """
        appends = self.context.appends
        if appends.reply_bytes is None or appends.reply_bytes > bound:
            appends.reply_bytes = int(self._rows(sql.REPLY_BYTES)[0][0])
        if appends.reply_bytes <= bound:
            return 0
        gone = self._rows(sql.REPLIES_DROP, bound - bound // 10, step)
        appends.reply_bytes -= sum(row[0] for row in gone)
        return len(gone)

    # --- helpers

    def _update(
        self, table: sql.Table[Any], oid: str, columns: dict[str, object], returning: str
    ) -> Sequence[tuple[str, ...]]:
        statement = table.update(tuple(columns), returning)
        cells = [table.cell(column, value) for column, value in columns.items()]
        found: Sequence[tuple[str, ...]] = self._execute(statement, [*cells, self.now_ns, oid]).fetchall()
        return found

    def _delete_worker(self, worker: WorkerRow, cluster_name: str) -> None:
        self._execute("DELETE FROM workers WHERE oid = ?", (worker.oid,))
        self._touch_worker(worker.oid, worker.group_oid, worker.cluster_oid)
        self.clear_status(cluster_name, "worker", worker.name)

    def _touch_worker(self, oid: str, group_oid: str, cluster_oid: str) -> None:
        self.changes.workers.add(oid)
        self.changes.groups.add(group_oid)
        self.changes.touch_clusters((cluster_oid,))

    def _touch_groups(self, node_oid: str) -> None:
        """The groups that a node may have workers of: their statuses tell of it."""
        for member in self.memberships(node_oid):
            self.changes.groups.update(group.oid for group in self.groups_of(member.cluster_oid))

    def _touch_member(self, row: MemberRow) -> None:
        self.changes.touch_clusters((row.cluster_oid,))
        self.changes.nodes.add(row.node_oid)
