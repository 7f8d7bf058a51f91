"""SQL statements by name. They run through `Database.execute`: the table methods of sqlite-utils look the
schema up at each call and cost five times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import NOT_REPLACED, Members, MeshSeen, Peers
from busbar.bus.placement import Placement
from busbar.bus.plans import MoveOrder
from busbar.bus.states import ASSIGNED as ASSIGNED_STATES
from busbar.bus.states import ClusterState, Leaves, NodeStatus, WorkerState
from msgspec.structs import astuple

from . import rows

R = TypeVar("R", bound=msgspec.Struct)
_load = msgspec.json.decode
_load_peers = msgspec.json.Decoder(Peers).decode
_load_members = msgspec.json.Decoder(Members).decode
_load_mesh = msgspec.json.Decoder(MeshSeen).decode
_load_placement = msgspec.json.Decoder(Placement).decode
_load_move = msgspec.json.Decoder(MoveOrder).decode
_JSON = (_load, _load_peers, _load_members, _load_mesh, _load_placement, _load_move)
_dump = msgspec.json.encode


def to_json(value: object) -> str | None:
    """A JSON column's text; None stays NULL."""
    return None if value is None else _dump(value).decode()


class Table(Generic[R]):
    """A table's row type and the statements derived from it."""

    def __init__(self, name: str, row: type[R], decoders: Mapping[str, Callable[[Any], Any]]) -> None:
        self.name = name
        self.columns: tuple[str, ...] = row.__struct_fields__
        self._row = row
        self._decoders = [(self.columns.index(column), decode) for column, decode in decoders.items()]
        self._json = frozenset(column for column, decode in decoders.items() if decode in _JSON)
        self._json_cells = [self.columns.index(column) for column in self._json]
        self._updates: dict[tuple[str, ...], str] = {}
        self.select = f"SELECT {', '.join(self.columns)} FROM {name}"
        marks = ", ".join("?" * len(self.columns))
        self.insert = f"INSERT INTO {name} ({', '.join(self.columns)}) VALUES ({marks})"

    def make(self, values: Sequence[Any]) -> R:
        """A struct from one row of `select`."""
        cells = list(values)
        for index, decode in self._decoders:
            if cells[index] is not None:
                cells[index] = decode(cells[index])
        return self._row(*cells)

    def cells(self, row: R) -> tuple[object, ...]:
        """The parameters of `insert`."""
        cells = list(astuple(row))
        for index in self._json_cells:
            cells[index] = to_json(cells[index])
        return tuple(cells)

    def cell(self, column: str, value: object) -> object:
        """A value as SQLite stores it."""
        return to_json(value) if column in self._json else value

    def update(self, columns: tuple[str, ...], returning: str) -> str:
        """`UPDATE` of these columns of the row with an oid; bumps `version`, sets `changed`.

        Raises:
            KeyError: for a column that the table does not have.
        """
        if columns not in self._updates:
            unknown = set(columns) - set(self.columns) | set(columns) & {"oid", "version", "changed"}
            if unknown:
                raise KeyError(f"{self.name} has no column {', '.join(sorted(unknown))} to set")
            pairs = "".join(f"{column} = ?, " for column in columns)
            self._updates[columns] = (
                f"UPDATE {self.name} SET {pairs}changed = ?, version = version + 1 "
                f"WHERE oid = ? RETURNING {returning}"
            )
        return self._updates[columns]


NODES: Final = Table(
    "nodes",
    rows.NodeRow,
    {
        "labels": _load,
        "status": NodeStatus,
        "goodbye": bool,
        "heard": bool,
        "runtimes": _load,
        "capacity": _load,
        "conditions": _load,
        "leaves": Leaves,
        "peers": _load_peers,
        "members": _load_members,
        "runtime_details": _load,
    },
)
CLUSTERS: Final = Table(
    "clusters",
    rows.ClusterRow,
    {"tags": _load, "transport": _load, "status": ClusterState, "was_running": bool, "who": _load},
)
MEMBERS: Final = Table("members", rows.MemberRow, {})
GROUPS: Final = Table(
    "workergroups",
    rows.GroupRow,
    {
        "tags": _load,
        "transport": _load,
        "status": ClusterState,
        "was_running": bool,
        "stop_ordered": bool,
        "mesh": bool,
        "placement": _load_placement,
    },
)
WORKERS: Final = Table(
    "workers",
    rows.WorkerRow,
    {"state": WorkerState, "listeners": _load, "mesh": _load_mesh, "move": _load_move},
)
PRINCIPALS: Final = Table("principals", rows.PrincipalRow, {"reused": bool})
REVISIONS: Final = Table("group_revisions", rows.RevisionRow, {"transport": _load})
AUDIT: Final = Table("audit", rows.AuditRow, {})
REFUSALS: Final = Table("refusals", rows.RefusalRow, {})
CLUSTER_REVISIONS: Final = Table("cluster_revisions", rows.ClusterRevisionRow, {})
OUTBOX: Final = Table("outbox", rows.OutboxRow, {"retain": bool})


def assigned(values: tuple[Any, ...]) -> rows.AssignedRow:
    """A struct from one row of `ASSIGNED`."""
    worker, oid, cluster, group, generation, runtime, transport = values
    return rows.AssignedRow(
        worker, oid, cluster, group, generation, runtime, _load(transport) if transport else None
    )


ASSIGNED: Final = """
SELECT w.name, w.oid, c.name, g.name, w.generation, r.runtime, r.transport
FROM workers w JOIN workergroups g ON g.oid = w.group_oid JOIN clusters c ON c.oid = w.cluster_oid
JOIN group_revisions r ON r.group_oid = w.group_oid AND r.revision = w.revision
WHERE w.node_oid = ? AND w.unassigned_version IS NULL ORDER BY c.name, g.name, w.ordinal
"""


def node_schema(values: tuple[Any, ...]) -> rows.NodeSchemaRow:
    """A struct from one row of `MEMBER_SCHEMAS`."""
    node, status, runtimes, digest = values
    return rows.NodeSchemaRow(node, NodeStatus(status), _load(runtimes), digest)


MEMBER_SCHEMAS: Final = """
SELECT n.name, n.status, n.runtimes, s.digest FROM members m JOIN nodes n ON n.oid = m.node_oid
LEFT JOIN node_schemas s ON s.node_oid = n.oid AND s.runtime = ?
WHERE m.cluster_oid = ? ORDER BY n.name
"""
SCHEMA_BODIES: Final = """
SELECT digest, body FROM runtime_schemas WHERE digest IN (
  SELECT s.digest FROM members m JOIN node_schemas s ON s.node_oid = m.node_oid AND s.runtime = ?
  WHERE m.cluster_oid = ?
) ORDER BY digest
"""
NODE_SCHEMAS: Final = (
    "SELECT s.node_oid, s.runtime, b.body FROM node_schemas s JOIN runtime_schemas b ON b.digest = s.digest"
)
DROP_SCHEMAS: Final = "DELETE FROM runtime_schemas WHERE digest NOT IN (SELECT digest FROM node_schemas)"
KNOWN_SCHEMAS: Final = "SELECT digest FROM runtime_schemas WHERE digest IN (SELECT value FROM json_each(?))"
LISTENING: Final = """
SELECT g.name, g.runtime, coalesce(g.transport, c.transport)
FROM workergroups g JOIN clusters c ON c.oid = g.cluster_oid
WHERE g.cluster_oid = ? AND g.status <> 'STOPPED'
AND coalesce(g.transport, c.transport) LIKE '%"interface"%' ORDER BY g.name
"""
"""Without an interface workers listen on loopback: those transports are not worth decoding."""
REVISION_ADD: Final = """
INSERT INTO group_revisions (group_oid, revision, runtime, transport)
SELECT g.oid, g.revision, g.runtime, coalesce(g.transport, c.transport)
FROM workergroups g JOIN clusters c ON c.oid = g.cluster_oid WHERE g.oid = ?
"""
"""Stores what the group's row runs now as its present revision."""
REVISIONS_DROP: Final = """
DELETE FROM group_revisions WHERE group_oid = ?1
AND revision <> (SELECT revision FROM workergroups WHERE oid = ?1)
AND revision NOT IN (SELECT revision FROM workers WHERE group_oid = ?1)
"""
UPDATED: Final = f"""
SELECT count(*) FROM workers w JOIN workergroups g ON g.oid = w.group_oid
WHERE g.oid = ? AND w.revision = g.revision AND w.ordinal <= g.scale
AND w.state IN ({", ".join(f"'{state}'" for state in sorted(ASSIGNED_STATES))})
"""
FULLEST_NODE: Final = """
SELECT name, sum(size) FROM (
SELECT DISTINCT n.name AS name, r.runtime, r.transport, length(CAST(r.transport AS BLOB)) AS size
FROM members mine JOIN members m ON m.node_oid = mine.node_oid JOIN nodes n ON n.oid = m.node_oid
JOIN workergroups g ON g.cluster_oid = m.cluster_oid
AND (g.cluster_oid = mine.cluster_oid OR g.status NOT IN ('STOPPED', 'PAUSED'))
JOIN group_revisions r ON r.group_oid = g.oid
WHERE mine.cluster_oid = ?1 AND length(CAST(r.transport AS BLOB)) > ?2
 UNION ALL
SELECT n.name, 'peers', g.oid, g.scale * ?3
FROM members mine JOIN members m ON m.node_oid = mine.node_oid JOIN nodes n ON n.oid = m.node_oid
JOIN workergroups g ON g.cluster_oid = m.cluster_oid
AND (g.cluster_oid = mine.cluster_oid OR g.status NOT IN ('STOPPED', 'PAUSED'))
WHERE mine.cluster_oid = ?1 AND g.mesh
) GROUP BY name ORDER BY 2 DESC, 1 LIMIT 1
"""
MEMBER_LIMITS: Final = """
SELECT n.name, m.hardlimit, m.softlimit FROM members m JOIN nodes n ON n.oid = m.node_oid
WHERE m.cluster_oid = ? ORDER BY n.name
"""
CLUSTER_REVISIONS_DROP: Final = "DELETE FROM cluster_revisions WHERE cluster_oid = ? AND revision <= ?"
CLUSTER_SCALE: Final = """
SELECT count(*), coalesce(sum(scale), 0), coalesce(sum(scale) FILTER (WHERE NOT stop_ordered), 0)
FROM workergroups WHERE cluster_oid = ?
"""
CLUSTER_WITH_SCALE: Final = f"""
SELECT {", ".join(CLUSTERS.columns)}, EXISTS (SELECT 1 FROM workergroups WHERE cluster_oid = clusters.oid),
(SELECT coalesce(sum(scale), 0) FROM workergroups WHERE cluster_oid = clusters.oid AND NOT stop_ordered)
FROM clusters WHERE oid = ?
"""
SLOT: Final = "SELECT 1 FROM workers WHERE group_oid = ? AND ordinal = ?"
SURPLUS: Final = "SELECT count(*) FROM workers WHERE group_oid = ? AND ordinal > ?"
WORKERS_PER_NODE: Final = "SELECT count(*) FROM workers WHERE node_oid = ?"
WORKER_STATES: Final = "SELECT state, count(*) FROM workers WHERE {} = ? GROUP BY state"
ENDPOINTS: Final = f"""
SELECT w.name, coalesce(n.name, ''), w.address, w.listeners
FROM workers w LEFT JOIN nodes n ON n.oid = w.node_oid
WHERE w.group_oid = ? AND w.address IS NOT NULL
AND (w.state = 'RUNNING' OR w.state = 'STARTING' AND w.reason GLOB '{NOT_REPLACED}*')
ORDER BY w.ordinal LIMIT ?
"""
"""As `serves` of `bus.messages` says it."""


def endpoints(values: tuple[str, str, str, str | None]) -> list[tuple[str, str, str, str]]:
    """The endpoints (worker, node, url, listener) of one row of `ENDPOINTS`."""
    worker, node, address, listeners = values
    named = _load(listeners) if listeners else {DEFAULT: address}
    return [(worker, node, url, name) for name, url in named.items()]


MESHED: Final = "SELECT name, mesh FROM workers WHERE group_oid = ? AND mesh IS NOT NULL ORDER BY ordinal"
mesh: Final = _load_mesh
"""The value of such a column."""
LAST_MOVE: Final = "SELECT max(json_extract(move, '$.order')) FROM workers WHERE move IS NOT NULL"
PLACED: Final = """
SELECT w.name, n.name, n.labels FROM workers w JOIN nodes n ON n.oid = w.node_oid
WHERE w.group_oid = ? AND w.state NOT IN ('STOPPED', 'STOPPING') ORDER BY w.ordinal
"""


def labels(text: str | None) -> dict[str, str] | None:
    """The value of such a column."""
    found: dict[str, str] | None = _load(text) if text else None
    return found


NOT_READY_WORKERS: Final = """
SELECT w.name, w.state, w.reason, n.name FROM workers w LEFT JOIN nodes n ON n.oid = w.node_oid
WHERE w.{} = ? AND w.state NOT IN ('RUNNING', 'STOPPED', 'STOPPING') ORDER BY w.name, w.ordinal LIMIT ?
"""
ANY_OF: Final = "WHERE {} IN (SELECT value FROM json_each(?))"
COUNT_BY: Final = "SELECT {}, count(*) FROM {} GROUP BY 1"

META_GET: Final = "SELECT value FROM meta WHERE key = ?"
META_SET: Final = (
    "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
META_DROP: Final = "DELETE FROM meta WHERE key = ?"
EPOCH_FLOOR: Final = (
    "INSERT INTO meta (key, value) VALUES ('epoch', ?1)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    " WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER)"
)
LAST_SEQUENCE: Final = "SELECT coalesce(max(sequence), 0) FROM events"
EVENTS_SINCE: Final = "SELECT payload FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
NEWER_THAN: Final = "coalesce((SELECT {0} FROM {1} WHERE {2} < {3} ORDER BY {0} DESC LIMIT 1), 0)"
"""The number of the last row before a time: only what is newer is looked at."""
_ASKED: Final = "id < ?1 AND (?2 IS NULL OR caller = ?2) AND (?3 IS NULL OR op = ?3)"
AUDIT_WANTED: Final = (
    f"WHERE {_ASKED} AND (?4 IS NULL OR id > {NEWER_THAN.format('id', 'audit', 'time', '?4')})"
    " ORDER BY id DESC LIMIT ?5"
)
REFUSALS_WANTED: Final = f"WHERE {_ASKED} AND (?4 IS NULL OR last >= ?4) ORDER BY id DESC LIMIT ?5"


EVENTS_ON: Final = """
SELECT sequence, time, payload FROM events WHERE sequence IN (
 SELECT sequence FROM (
  SELECT sequence, row_number() OVER (PARTITION BY topic ORDER BY sequence DESC) AS nth FROM events
  WHERE sequence > (SELECT max(sequence) FROM events) - ?1 AND topic IN (SELECT value FROM json_each(?2))
 ) WHERE nth <= ?3
) ORDER BY sequence
"""
EVENTS_OF_REQUEST: Final = """
SELECT sequence, time, payload FROM events
WHERE sequence > (SELECT max(sequence) FROM events) - ?1 AND instr(payload, ?2) ORDER BY sequence LIMIT ?3
"""
OF_REQUEST: Final = "WHERE request_id = ? AND id > (SELECT max(id) FROM {}) - ? ORDER BY id DESC LIMIT ?"
EVENT_ADD: Final = "INSERT INTO events (sequence, time, topic, payload) VALUES (?, ?, ?, ?)"
OUTBOX_ADD: Final = "INSERT INTO outbox (id, topic, payload, retain, properties) VALUES (?, ?, ?, ?, ?)"
OUTBOX_LAST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'"
"""The highest id ever used (AUTOINCREMENT keeps it): none is reused."""
OUTBOX_COUNT: Final = "SELECT count(*) FROM outbox"
OUTBOX_WITHDRAW: Final = "DELETE FROM outbox WHERE topic > ?1 AND topic < ?1 || '~' AND id <= ?2"
"""The rows of topics with a prefix, up to an id; `~` sorts behind whatever a topic's name has."""
OUTBOX_DROP: Final = "DELETE FROM outbox WHERE id = ?"
REPLY_GET: Final = "SELECT digest, reply FROM requests WHERE caller = ? AND id = ?"
REPLY_ADD: Final = "INSERT INTO requests (caller, id, digest, reply, created) VALUES (?, ?, ?, ?, ?)"
AUDIT_ADD: Final = (
    "INSERT INTO audit (time, caller, caller_oid, role, op, request_id, object, outcome, params)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
REFUSAL_ADD: Final = (
    REFUSALS.insert
    + " ON CONFLICT (period, caller, op, outcome) DO UPDATE SET count = count + excluded.count,"
    " last = excluded.last, request_id = excluded.request_id, detail = excluded.detail"
)
FORMER_ADD: Final = "INSERT INTO former_principals (oid, name, removed) VALUES (?, ?, ?)"
FORMER: Final = "SELECT oid, name, removed FROM former_principals WHERE {} = ? ORDER BY removed DESC"
OWNED: Final[dict[str, str]] = {
    "clusters": "SELECT count(*) FROM clusters WHERE owner_oid = ?",
    "nodes": "SELECT count(*) FROM nodes WHERE owner_oid = ? AND status <> 'unpaired'",
    "groups": "SELECT count(*) FROM workergroups WHERE cluster_oid IN"
    " (SELECT oid FROM clusters WHERE owner_oid = ?)",
}
TRANSFER: Final = (
    "UPDATE {} SET owner_oid = ?, changed = ?, version = version + 1 WHERE owner_oid = ? RETURNING oid"
)
BUMP_ASSIGNMENT: Final = (
    "UPDATE nodes SET assignment_version = assignment_version + 1 WHERE oid = ? RETURNING assignment_version"
)

REPLY_BYTES: Final = "SELECT coalesce(sum(length(reply)), 0) FROM requests"
REPLIES_DROP: Final = (
    "DELETE FROM requests WHERE (caller, id) IN"
    " (SELECT caller, id FROM (SELECT caller, id, created,"
    " sum(length(reply)) OVER (ORDER BY created DESC, caller, id) AS total FROM requests)"
    " WHERE total > ?1 ORDER BY created LIMIT ?2) RETURNING length(reply)"
)
"""Keeps the newest replies, as many as fit into so many bytes."""

PRUNE: Final[dict[str, str]] = {
    "requests_age": "DELETE FROM requests WHERE (caller, id) IN"
    " (SELECT caller, id FROM requests WHERE created < ? ORDER BY created LIMIT ?)",
    "requests_rows": "DELETE FROM requests WHERE (caller, id) IN"
    " (SELECT caller, id FROM requests ORDER BY created"
    " LIMIT min(?2, max(0, (SELECT count(*) FROM requests) - ?1)))",
    # By number of rows: a take-over leaves a gap in the sequence.
    "events": "DELETE FROM events WHERE sequence IN"
    " (SELECT sequence FROM events WHERE sequence <="
    " (SELECT sequence FROM events ORDER BY 1 DESC LIMIT 1 OFFSET ?) ORDER BY 1 LIMIT ?)",
    "audit": "DELETE FROM audit WHERE id IN"
    " (SELECT id FROM audit WHERE id <= (SELECT max(id) FROM audit) - ? ORDER BY 1 LIMIT ?)",
    "refusals": "DELETE FROM refusals WHERE id IN"
    " (SELECT id FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ? ORDER BY 1 LIMIT ?)",
    "outbox": "DELETE FROM outbox WHERE id IN"
    " (SELECT id FROM outbox WHERE id <= (SELECT max(id) FROM outbox) - ? ORDER BY 1 LIMIT ?)",
}
"""Each takes a bound (nanoseconds since 1970, or rows to keep) and the most rows to delete."""
