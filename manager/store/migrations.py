"""Numbered schema steps. A step that has been released is never changed: add another."""

from __future__ import annotations

from .sqlite import Database, Migrations

migrations = Migrations("busbar")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE principals (
  oid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK (role IN ('owner','operator','viewer')), changed INTEGER NOT NULL
) STRICT;
CREATE TABLE nodes (
  oid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, labels TEXT, status TEXT NOT NULL, reason TEXT,
  boot TEXT, conn INTEGER, goodbye INTEGER NOT NULL DEFAULT 0, runtimes TEXT NOT NULL DEFAULT '[]',
  capacity TEXT, conditions TEXT NOT NULL DEFAULT '[]',
  assignment_version INTEGER NOT NULL DEFAULT 0, applied_epoch INTEGER NOT NULL DEFAULT 0,
  applied_version INTEGER NOT NULL DEFAULT 0,
  changed INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE clusters (
  oid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, label TEXT, description TEXT, tags TEXT, transport TEXT,
  owner_oid TEXT NOT NULL, status TEXT NOT NULL, reason TEXT, was_running INTEGER NOT NULL DEFAULT 0,
  who TEXT, request_id TEXT,
  changed INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE members (
  cluster_oid TEXT NOT NULL REFERENCES clusters(oid) ON DELETE CASCADE,
  node_oid TEXT NOT NULL REFERENCES nodes(oid), hardlimit INTEGER, softlimit INTEGER,
  changed INTEGER NOT NULL, PRIMARY KEY (cluster_oid, node_oid)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_node ON members(node_oid);
CREATE TABLE workergroups (
  oid TEXT PRIMARY KEY, cluster_oid TEXT NOT NULL REFERENCES clusters(oid) ON DELETE CASCADE,
  name TEXT NOT NULL, label TEXT, description TEXT, tags TEXT, transport TEXT, scale INTEGER NOT NULL,
  runtime TEXT NOT NULL, lost_after REAL NOT NULL, start_deadline REAL NOT NULL,
  status TEXT NOT NULL, reason TEXT, was_running INTEGER NOT NULL DEFAULT 0,
  changed INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1, UNIQUE (cluster_oid, name)
) STRICT;
CREATE TABLE workers (
  oid TEXT PRIMARY KEY, group_oid TEXT NOT NULL REFERENCES workergroups(oid) ON DELETE CASCADE,
  cluster_oid TEXT NOT NULL, name TEXT NOT NULL, ordinal INTEGER NOT NULL,
  state TEXT NOT NULL, reason TEXT, node_oid TEXT REFERENCES nodes(oid), last_node_oid TEXT,
  generation INTEGER NOT NULL DEFAULT 0, unassigned_version INTEGER,
  address TEXT, pid INTEGER, restarts INTEGER NOT NULL DEFAULT 0,
  changed INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1, UNIQUE (group_oid, ordinal)
) STRICT;
CREATE INDEX workers_node ON workers(node_oid);
CREATE INDEX workers_cluster ON workers(cluster_oid);
CREATE TABLE requests (
  caller TEXT NOT NULL, id TEXT NOT NULL, digest TEXT NOT NULL, reply BLOB NOT NULL, created INTEGER NOT NULL,
  PRIMARY KEY (caller, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_created ON requests(created);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY, time INTEGER NOT NULL, caller TEXT NOT NULL, role TEXT NOT NULL, op TEXT NOT NULL,
  request_id TEXT, object TEXT, outcome TEXT NOT NULL, params TEXT NOT NULL
) STRICT;
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, retain INTEGER NOT NULL,
  properties TEXT
) STRICT;
"""


_REVISIONS = """
ALTER TABLE workergroups ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE workergroups ADD COLUMN settled INTEGER NOT NULL DEFAULT 1;
ALTER TABLE workergroups ADD COLUMN max_unavailable INTEGER NOT NULL DEFAULT 1;
ALTER TABLE workergroups ADD COLUMN max_surge INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workergroups ADD COLUMN held_back TEXT;
ALTER TABLE workers ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
CREATE TABLE group_revisions (
  group_oid TEXT NOT NULL REFERENCES workergroups(oid) ON DELETE CASCADE,
  revision INTEGER NOT NULL, runtime TEXT NOT NULL, transport TEXT, PRIMARY KEY (group_oid, revision)
) STRICT, WITHOUT ROWID;
INSERT INTO group_revisions
  SELECT g.oid, 1, g.runtime, coalesce(g.transport, c.transport)
  FROM workergroups g JOIN clusters c ON c.oid = g.cluster_oid;
"""


_DRAINING = """
ALTER TABLE nodes ADD COLUMN draining TEXT;
ALTER TABLE nodes ADD COLUMN drain_note TEXT;
"""


_NODE_OWNER = """
ALTER TABLE nodes ADD COLUMN owner_oid TEXT;
"""


_PRINCIPAL_IDENTITY = """
DELETE FROM requests WHERE NOT EXISTS
  (SELECT 1 FROM principals p WHERE p.name = requests.caller AND p.changed <= requests.created);
UPDATE requests SET caller = (SELECT p.oid FROM principals p WHERE p.name = requests.caller);
ALTER TABLE principals ADD COLUMN reused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN caller_oid TEXT;
CREATE TABLE former_principals (oid TEXT PRIMARY KEY, name TEXT NOT NULL, removed INTEGER NOT NULL) STRICT;
CREATE INDEX former_principals_name ON former_principals(name);
INSERT OR IGNORE INTO former_principals
  SELECT json_extract(body, '$.data.oid'), json_extract(body, '$.data.name'), time
  FROM (SELECT time, CAST(payload AS TEXT) AS body FROM events
    WHERE topic GLOB '*/event/_/principal/*/removed')
  WHERE json_extract(body, '$.data.oid') IS NOT NULL;
"""


_REFUSALS = """
CREATE TABLE refusals (
  id INTEGER PRIMARY KEY, period INTEGER NOT NULL, caller TEXT NOT NULL, op TEXT NOT NULL,
  outcome TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL,
  request_id TEXT, detail TEXT NOT NULL, UNIQUE (period, caller, op, outcome)
) STRICT;
"""


_NODE_HEARD = """
ALTER TABLE nodes ADD COLUMN heard INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET heard = 1
  WHERE boot IS NOT NULL OR applied_epoch > 0 OR applied_version > 0 OR assignment_version > 2;
"""


_RUNTIME_DETAILS = """
ALTER TABLE nodes ADD COLUMN runtime_details TEXT;
CREATE TABLE runtime_schemas (digest TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE node_schemas (
  node_oid TEXT NOT NULL REFERENCES nodes(oid) ON DELETE CASCADE,
  runtime TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (node_oid, runtime)
) STRICT, WITHOUT ROWID;
"""


_MANAGED_BY = """
ALTER TABLE clusters ADD COLUMN managed_by TEXT;
ALTER TABLE members ADD COLUMN managed_by TEXT;
ALTER TABLE workergroups ADD COLUMN managed_by TEXT;
ALTER TABLE principals ADD COLUMN managed_by TEXT;
"""


_HISTORY = """
CREATE TABLE cluster_revisions (
  cluster_oid TEXT NOT NULL REFERENCES clusters(oid) ON DELETE CASCADE, revision INTEGER NOT NULL,
  time INTEGER NOT NULL, caller TEXT NOT NULL, caller_oid TEXT, op TEXT NOT NULL, request_id TEXT,
  definition TEXT NOT NULL, PRIMARY KEY (cluster_oid, revision)
) STRICT, WITHOUT ROWID;
"""


def _run(db: Database, script: str) -> None:
    for statement in script.split(";"):
        if statement.strip():
            db.execute(statement)


@migrations()
def first_schema(db: Database) -> None:
    """Objects, stored replies, audit, events and the outbox."""
    _run(db, _SCHEMA)


@migrations()
def assignment_epoch(db: Database) -> None:
    """The least epoch of a node's assignments, above that of a forged one it has applied."""
    db.execute("ALTER TABLE nodes ADD COLUMN assignment_epoch INTEGER NOT NULL DEFAULT 0")


@migrations()
def group_revisions(db: Database) -> None:
    """What each revision of a group runs; existing groups become revision 1."""
    _run(db, _REVISIONS)


@migrations()
def node_draining(db: Database) -> None:
    """Why a node is drained, and the progress."""
    _run(db, _DRAINING)


@migrations()
def node_owner(db: Database) -> None:
    """Who paired a node."""
    _run(db, _NODE_OWNER)


@migrations()
def realm_claim(db: Database) -> None:
    """A store that has served keeps its realm, whichever that is; see `backup.ANY_REALM`."""
    db.execute("INSERT INTO meta (key, value) SELECT 'realm', '*' FROM meta WHERE key = 'epoch'")


@migrations()
def node_leaves(db: Database) -> None:
    """What became of a node's workers at its goodbye."""
    db.execute("ALTER TABLE nodes ADD COLUMN leaves TEXT")


@migrations()
def node_refuses(db: Database) -> None:
    """Whom a node follows instead of this manager."""
    db.execute("ALTER TABLE nodes ADD COLUMN refuses TEXT")


@migrations()
def principal_identity(db: Database) -> None:
    """Stored replies belong to an oid, not to a name, and former principals are remembered."""
    _run(db, _PRINCIPAL_IDENTITY)


@migrations()
def refused_requests(db: Database) -> None:
    """Requests that were refused before they could change anything, folded."""
    _run(db, _REFUSALS)


@migrations()
def node_heard(db: Database) -> None:
    """Whether a node was ever heard; in doubt (it was paired more than once) it was."""
    _run(db, _NODE_HEARD)


@migrations()
def group_stop(db: Database) -> None:
    """Whether a group is to be stopped while its cluster runs."""
    db.execute("ALTER TABLE workergroups ADD COLUMN stop_ordered INTEGER NOT NULL DEFAULT 0")


@migrations()
def worker_listeners(db: Database) -> None:
    """The URLs of a worker's named listeners."""
    db.execute("ALTER TABLE workers ADD COLUMN listeners TEXT")


@migrations()
def runtime_details(db: Database) -> None:
    """What nodes report of their runtimes, and the schemas that are not this version's own."""
    _run(db, _RUNTIME_DETAILS)


@migrations()
def group_mesh(db: Database) -> None:
    """Whether a group's workers are told of each other, and what each node was told."""
    db.execute("ALTER TABLE workergroups ADD COLUMN mesh INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE nodes ADD COLUMN peers TEXT")


@migrations()
def worker_mesh(db: Database) -> None:
    """To how many of its peers a worker is connected."""
    db.execute("ALTER TABLE workers ADD COLUMN mesh TEXT")


@migrations()
def node_members(db: Database) -> None:
    """Whom each node was told of as the workers of meshed groups."""
    db.execute("ALTER TABLE nodes ADD COLUMN members TEXT")


@migrations()
def managed_by(db: Database) -> None:
    """Which file has created an object."""
    _run(db, _MANAGED_BY)


@migrations()
def cluster_history(db: Database) -> None:
    """What clusters were to be, revision by revision."""
    _run(db, _HISTORY)


@migrations()
def node_cordoned(db: Database) -> None:
    """Why a node takes no new workers."""
    db.execute("ALTER TABLE nodes ADD COLUMN cordoned TEXT")


@migrations()
def group_placement(db: Database) -> None:
    """Which nodes may have a group's workers, by their labels."""
    db.execute("ALTER TABLE workergroups ADD COLUMN placement TEXT")


@migrations()
def worker_move(db: Database) -> None:
    """Where a worker was ordered to be."""
    db.execute("ALTER TABLE workers ADD COLUMN move TEXT")
