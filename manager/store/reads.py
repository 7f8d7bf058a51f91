"""All queries, for transactions and for reads outside of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import msgspec
from busbar.bus.decode import encode
from busbar.bus.messages import MeshSeen

from . import sql
from .event_query import EventsWanted
from .rows import (
    AssignedRow,
    AuditRow,
    ClusterRevisionRow,
    ClusterRow,
    GroupRow,
    MemberRow,
    NodeRow,
    NodeSchemaRow,
    OutboxRow,
    PrincipalRow,
    RefusalRow,
    RevisionRow,
    WorkerRow,
)
from .sql import Table
from .sqlite import Database

R = TypeVar("R", bound=msgspec.Struct)


def _least(before: int | None) -> int:
    return 2**63 - 1 if before is None else before


class Queries:
    """Typed queries on one connection. Look-ups return None for what does not exist; lists are sorted by name
    (workers by ordinal within their group)."""

    def __init__(self, db: Database) -> None:
        self.db = db
        # sqlite-utils' own `execute` also looks for transactions that a statement has begun by itself, which
        # there are none of here: a fifth of what a statement costs.
        self._execute = db.conn.execute

    # --- nodes

    def node(self, oid: str) -> NodeRow | None:
        return self._one(sql.NODES, "WHERE oid = ?", oid)

    def node_by_name(self, name: str) -> NodeRow | None:
        return self._one(sql.NODES, "WHERE name = ?", name)

    def nodes(self) -> list[NodeRow]:
        return self._all(sql.NODES, "ORDER BY name")

    def node_keys(self) -> list[tuple[str, str, str]]:
        """(oid, name, status) of every node, by name."""
        return self._rows("SELECT oid, name, status FROM nodes ORDER BY name")

    def schema_digests(self, node_oid: str) -> dict[str, str]:
        """The digests of a node's schemas that are not this version's own, by runtime."""
        return dict(self._rows("SELECT runtime, digest FROM node_schemas WHERE node_oid = ?", node_oid))

    def known_schemas(self, digests: Collection[str]) -> set[str]:
        """Those of these digests whose schema is stored."""
        return {row[0] for row in self._rows(sql.KNOWN_SCHEMAS, sql.to_json(list(digests)))}

    def member_schemas(self, cluster_oid: str, runtime: str) -> list[NodeSchemaRow]:
        """A cluster's nodes, each with its schema of a runtime, by name."""
        return [sql.node_schema(row) for row in self._rows(sql.MEMBER_SCHEMAS, runtime, cluster_oid)]

    def schema_bodies(self, cluster_oid: str, runtime: str) -> dict[str, str]:
        """The schemas of a runtime that nodes of a cluster have, as JSON by digest: each once, and those
        that have arrived."""
        return dict(self._rows(sql.SCHEMA_BODIES, runtime, cluster_oid))

    def node_schemas(self, oids: Collection[str] | None = None) -> dict[str, dict[str, str]]:
        """The schemas of nodes (None: all) that are not this version's own, as JSON by node and runtime.

        One that has not arrived yet is left out.
        """
        where = "" if oids is None else f" {sql.ANY_OF.format('s.node_oid')}"
        values = () if oids is None else (sql.to_json(list(oids)),)
        found: dict[str, dict[str, str]] = {}
        for node_oid, runtime, body in self._rows(sql.NODE_SCHEMAS + where, *values):
            found.setdefault(node_oid, {})[runtime] = body
        return found

    # --- clusters

    def cluster(self, oid: str) -> ClusterRow | None:
        return self._one(sql.CLUSTERS, "WHERE oid = ?", oid)

    def cluster_by_name(self, name: str) -> ClusterRow | None:
        return self._one(sql.CLUSTERS, "WHERE name = ?", name)

    def clusters(self) -> list[ClusterRow]:
        return self._all(sql.CLUSTERS, "ORDER BY name")

    def cluster_keys(self) -> list[tuple[str, str]]:
        """(oid, name) of every cluster, by name."""
        return self._rows("SELECT oid, name FROM clusters ORDER BY name")

    def cluster_owners(self) -> list[tuple[str, str, str]]:
        """(oid, name, oid of the owner) of every cluster, by name."""
        return self._rows("SELECT oid, name, owner_oid FROM clusters ORDER BY name")

    def group_keys(self) -> list[tuple[str, str, str]]:
        """(oid, oid of the cluster, name) of every group, by name."""
        return self._rows("SELECT oid, cluster_oid, name FROM workergroups ORDER BY cluster_oid, name")

    def cluster_scale(self, oid: str) -> tuple[int, int, int]:
        """The number of a cluster's groups, the sum of their scales, and that of those that are not stopped
        by themselves."""
        groups, scale, wanted = self._rows(sql.CLUSTER_SCALE, oid)[0]
        return int(groups), int(scale), int(wanted)

    def cluster_with_scale(self, oid: str) -> tuple[ClusterRow, bool, int] | None:
        """A cluster, whether it has groups, and the sum of the scales of those not stopped by themselves."""
        found = self._execute(sql.CLUSTER_WITH_SCALE, (oid,)).fetchone()
        if found is None:
            return None
        *row, groups, scale = found
        return sql.CLUSTERS.make(row), bool(groups), scale

    def fullest_node(self, cluster_oid: str, above: int, peer: int) -> tuple[str, int]:
        """The node of a cluster with the most bytes of distinct definitions larger than `above` and of peers,
        `peer` bytes each, and how many: those of this cluster and of started ones. An empty name and 0 where
        there are none."""
        found = self._rows(sql.FULLEST_NODE, cluster_oid, above, peer)
        return (str(found[0][0]), int(found[0][1])) if found else ("", 0)

    def cluster_revisions(self, cluster_oid: str, before: int | None, limit: int) -> list[ClusterRevisionRow]:
        """A cluster's revisions before one, the last first."""
        where = "WHERE cluster_oid = ? AND revision < ? ORDER BY revision DESC LIMIT ?"
        return self._all(sql.CLUSTER_REVISIONS, where, cluster_oid, _least(before), limit)

    def cluster_revision(self, cluster_oid: str, revision: int) -> ClusterRevisionRow | None:
        return self._one(
            sql.CLUSTER_REVISIONS, "WHERE cluster_oid = ? AND revision = ?", cluster_oid, revision
        )

    # --- members

    def member(self, cluster_oid: str, node_oid: str) -> MemberRow | None:
        return self._one(sql.MEMBERS, "WHERE cluster_oid = ? AND node_oid = ?", cluster_oid, node_oid)

    def members(self, cluster_oid: str) -> list[MemberRow]:
        return self._all(sql.MEMBERS, "WHERE cluster_oid = ? ORDER BY node_oid", cluster_oid)

    def member_limits(self, cluster_oid: str) -> list[tuple[str, int | None, int | None]]:
        """(node, hardlimit, softlimit) of a cluster's members, by name."""
        return self._rows(sql.MEMBER_LIMITS, cluster_oid)

    def all_members(self) -> list[MemberRow]:
        return self._all(sql.MEMBERS, "ORDER BY cluster_oid, node_oid")

    def memberships(self, node_oid: str) -> list[MemberRow]:
        """A node's memberships."""
        return self._all(sql.MEMBERS, "WHERE node_oid = ? ORDER BY cluster_oid", node_oid)

    # --- worker groups

    def group(self, oid: str) -> GroupRow | None:
        return self._one(sql.GROUPS, "WHERE oid = ?", oid)

    def group_by_name(self, cluster_oid: str, name: str) -> GroupRow | None:
        return self._one(sql.GROUPS, "WHERE cluster_oid = ? AND name = ?", cluster_oid, name)

    def groups_of(self, cluster_oid: str) -> list[GroupRow]:
        return self._all(sql.GROUPS, "WHERE cluster_oid = ? ORDER BY name", cluster_oid)

    def groups(self) -> list[GroupRow]:
        return self._all(sql.GROUPS, "ORDER BY cluster_oid, name")

    def listening(self, cluster_oid: str) -> list[tuple[str, str, dict[str, Any]]]:
        """(name, runtime, transport) of a cluster's started groups whose transport names an interface."""
        found = self._rows(sql.LISTENING, cluster_oid)
        return [(name, runtime, msgspec.json.decode(transport)) for name, runtime, transport in found]

    def revisions(self, group_oid: str) -> list[RevisionRow]:
        """The stored revisions of a group: its present one, and those that workers still run."""
        return self._all(sql.REVISIONS, "WHERE group_oid = ? ORDER BY revision", group_oid)

    def updated(self, group_oid: str) -> int:
        """How many workers within a group's scale are assigned its present revision."""
        return int(self._rows(sql.UPDATED, group_oid)[0][0])

    def surplus(self, group_oid: str, slots: int) -> int:
        """How many workers a group has beyond its slots."""
        return int(self._rows(sql.SURPLUS, group_oid, slots)[0][0])

    # --- workers

    def worker(self, oid: str) -> WorkerRow | None:
        return self._one(sql.WORKERS, "WHERE oid = ?", oid)

    def workers_of(self, group_oid: str) -> list[WorkerRow]:
        return self._all(sql.WORKERS, "WHERE group_oid = ? ORDER BY ordinal", group_oid)

    def workers_in(self, cluster_oid: str) -> list[WorkerRow]:
        return self._all(sql.WORKERS, "WHERE cluster_oid = ? ORDER BY group_oid, ordinal", cluster_oid)

    def workers_on(self, node_oid: str) -> list[WorkerRow]:
        return self._all(sql.WORKERS, "WHERE node_oid = ? ORDER BY group_oid, ordinal", node_oid)

    def workers(self) -> list[WorkerRow]:
        return self._all(sql.WORKERS, "ORDER BY group_oid, ordinal")

    def has_slot(self, group_oid: str, ordinal: int) -> bool:
        """Whether a group has a worker with that ordinal."""
        return bool(self._rows(sql.SLOT, group_oid, ordinal))

    def last_move(self) -> int:
        """The highest order of a worker that is to move; 0 where none is."""
        return int(self._rows(sql.LAST_MOVE)[0][0] or 0)

    def worker_named(self, cluster_oid: str, name: str) -> WorkerRow | None:
        return self._one(sql.WORKERS, "WHERE cluster_oid = ? AND name = ?", cluster_oid, name)

    def worker_count(self, node_oid: str) -> int:
        """How many workers a node has, including those being stopped."""
        return int(self._rows(sql.WORKERS_PER_NODE, node_oid)[0][0])

    def worker_states(self, member: str, oid: str) -> dict[str, int]:
        """Workers per state; `member` is `group_oid` or `cluster_oid`."""
        return dict(self._rows(sql.WORKER_STATES.format(member), oid))

    def endpoints(self, group_oid: str, limit: int) -> list[tuple[str, str, str, str]]:
        """(worker, node, url, listener) of the ready workers of a group."""
        rows = self._rows(sql.ENDPOINTS, group_oid, limit)
        return [found for row in rows for found in sql.endpoints(row)][:limit]

    def placed(self, group_oid: str) -> list[tuple[str, str, Mapping[str, str] | None]]:
        """(worker, node, the node's labels) of the assigned workers of a group."""
        rows = self._rows(sql.PLACED, group_oid)
        return [(name, node, sql.labels(text)) for name, node, text in rows]

    def meshed(self, group_oid: str) -> list[tuple[str, MeshSeen]]:
        """What the running workers of a group say of their connections, by their names."""
        return [(name, sql.mesh(text)) for name, text in self._rows(sql.MESHED, group_oid)]

    def not_ready(self, member: str, oid: str, limit: int) -> list[tuple[str, str, str | None, str | None]]:
        """(worker, state, reason, node) of workers that are wanted and not ready."""
        return self._rows(sql.NOT_READY_WORKERS.format(member), oid, limit)

    def assigned(self, node_oid: str) -> list[AssignedRow]:
        """The workers of a node's assignment."""
        found = self._rows(sql.ASSIGNED, node_oid)
        return [sql.assigned(row) for row in found]

    # --- principals, events, outbox

    def principal(self, name: str) -> PrincipalRow | None:
        return self._one(sql.PRINCIPALS, "WHERE name = ?", name)

    def principals(self) -> list[PrincipalRow]:
        return self._all(sql.PRINCIPALS, "ORDER BY name")

    def former_principals(self, column: Literal["oid", "name"], value: str) -> list[tuple[str, str, int]]:
        """(oid, name, nanoseconds since 1970) of removed principals, the last removed first."""
        return self._rows(sql.FORMER.format(column), value)

    def owned(self, oid: str, kind: str) -> int:
        """How many `clusters`, paired `nodes`, or `groups` in its clusters a principal owns or owned."""
        return int(self._rows(sql.OWNED[kind], oid)[0][0])

    def audit_rows(
        self,
        before: int | None,
        limit: int,
        caller: str | None = None,
        op: str | None = None,
        newer_ns: int | None = None,
    ) -> list[AuditRow]:
        """Changes, the last first, of those with a smaller id than `before`; where given: of a caller, of an
        operation, since a time (nanoseconds since 1970)."""
        return self._all(sql.AUDIT, sql.AUDIT_WANTED, _least(before), caller, op, newer_ns, limit)

    def refusals(
        self,
        before: int | None,
        limit: int,
        caller: str | None = None,
        op: str | None = None,
        newer_ns: int | None = None,
    ) -> list[RefusalRow]:
        """As `audit_rows`, refused requests."""
        return self._all(sql.REFUSALS, sql.REFUSALS_WANTED, _least(before), caller, op, newer_ns, limit)

    def events(self, since: int, limit: int) -> list[bytes]:
        """Stored events (JSON) after a sequence, oldest first."""
        return [row[0] for row in self._rows(sql.EVENTS_SINCE, since, limit)]

    def events_wanted(self, wanted: EventsWanted) -> list[bytes]:
        """Stored events (JSON) that a filter wants, oldest first."""
        statement, *values = wanted.query()
        found = [row[0] for row in self._rows(str(statement), *values)]
        return found[::-1] if wanted.last else found

    def events_on(self, topics: Sequence[str], within: int, each: int) -> list[tuple[int, int, bytes]]:
        """(sequence, nanoseconds since 1970, JSON) of the last events on each topic, oldest first.

        At most `each` per topic, of the last `within` of all."""
        return self._rows(sql.EVENTS_ON, within, sql.to_json(topics), each)

    def events_of_request(self, request_id: str, within: int, limit: int) -> list[tuple[int, int, bytes]]:
        """As `events_on`, those of the last `within` that a request caused, oldest first."""
        member = b'"request_id":' + encode(request_id)
        return self._rows(sql.EVENTS_OF_REQUEST, within, member, limit)

    def changes_of_request(self, request_id: str, within: int, limit: int) -> list[AuditRow]:
        """Those of the last `within` changes that have this id, the last first."""
        return self._all(sql.AUDIT, sql.OF_REQUEST.format("audit"), request_id, within, limit)

    def refusals_of_request(self, request_id: str, within: int, limit: int) -> list[RefusalRow]:
        """As `changes_of_request`, refusals; each row has the id of its last request alone."""
        return self._all(sql.REFUSALS, sql.OF_REQUEST.format("refusals"), request_id, within, limit)

    def reply(self, caller_oid: str, request_id: str) -> bytes | None:
        """The stored reply to a request."""
        found = self._rows(sql.REPLY_GET, caller_oid, request_id)
        return bytes(found[0][1]) if found else None

    def sequence(self) -> int:
        """The sequence of the last event; 0 before the first."""
        return int(self._rows(sql.LAST_SEQUENCE)[0][0])

    def outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """Unpublished rows with an id above `after`, in order."""
        return self._all(sql.OUTBOX, "WHERE id > ? ORDER BY id LIMIT ?", after, limit)

    def outbox_count(self) -> int:
        return int(self._rows(sql.OUTBOX_COUNT)[0][0])

    def count_by(self, column: str, table: str) -> dict[str, int]:
        """The number of rows of a table per value of a column."""
        return dict(self._rows(sql.COUNT_BY.format(column, table)))

    def meta(self, key: str) -> str | None:
        """A value of the table `meta`."""
        found = self._rows(sql.META_GET, key)
        return str(found[0][0]) if found else None

    # --- helpers

    def _one(self, table: Table[R], where: str, *values: object) -> R | None:
        row = self._execute(f"{table.select} {where}", values).fetchone()
        return None if row is None else table.make(row)

    def _all(self, table: Table[R], where: str, *values: object) -> list[R]:
        return [table.make(row) for row in self._execute(f"{table.select} {where}", values).fetchall()]

    def _many(self, table: Table[R], column: str, values: Collection[str]) -> list[R]:
        """The rows whose column has one of these values, in one query: a fifth of the cost of many."""
        if not values:
            return []
        return self._all(table, sql.ANY_OF.format(column), sql.to_json(list(values)))

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self._execute(statement, values).fetchall()


class Reads(Queries):
    """Queries on a read-only connection, for the event loop's thread.

    `…_of_any` return the rows of many objects, unordered; objects that do not exist are left out.
    """

    def nodes_of_any(self, oids: Collection[str]) -> list[NodeRow]:
        return self._many(sql.NODES, "oid", oids)

    def workers_of_any(self, oids: Collection[str]) -> list[WorkerRow]:
        return self._many(sql.WORKERS, "oid", oids)

    def clusters_of_any(self, oids: Collection[str]) -> list[ClusterRow]:
        return self._many(sql.CLUSTERS, "oid", oids)

    def groups_of_any(self, cluster_oids: Collection[str]) -> list[GroupRow]:
        return self._many(sql.GROUPS, "cluster_oid", cluster_oids)

    def members_of_any(self, cluster_oids: Collection[str]) -> list[MemberRow]:
        return self._many(sql.MEMBERS, "cluster_oid", cluster_oids)

    def generations(self) -> dict[str, int]:
        """Of each worker, by oid."""
        return dict(self._rows("SELECT oid, generation FROM workers"))

    @property
    def file(self) -> str:
        """The database's path."""
        return str(self.db.execute("PRAGMA database_list").fetchall()[0][2])

    @contextmanager
    def consistent(self) -> Iterator[Reads]:
        """Several queries on one snapshot: none sees a later commit. Never hold it across an `await`."""
        self.db.execute("BEGIN")
        try:
            yield self
        finally:
            self.db.execute("ROLLBACK")
