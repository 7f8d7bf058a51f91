"""What a node's report changes: its own row, and those of the workers placed on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from busbar.bus.messages import NOT_REPLACED, PASSING_REASONS, Applied, Reported, ReportedWorker
from busbar.bus.placement import MAX_LABELS, label_fault
from busbar.bus.routers.transport_schema import known_schemas
from busbar.bus.states import FOLLOWS_ANOTHER, NodeStatus, WorkerState, may_advance
from msgspec import UNSET, to_builtins

from ..store.rows import NO_PROCESS, NodeRow, WorkerRow

_W = WorkerState
_STATE_OF: Final = {
    "STARTING": _W.STARTING,
    "RUNNING": _W.RUNNING,
    "BACKOFF": _W.BACKOFF,
    # Its assignment says running: the agent is between two processes of this worker.
    "STOPPING": _W.STARTING,
    "STOPPED": _W.STARTING,
}
"""The state of a worker that is to run, by the state that its agent reports."""
FAILED: Final = "its process ended"
MAX_VERSION: Final = 2**53
"""JSON readers count exactly up to here: no epoch or version goes beyond."""


class Origin(NamedTuple):
    """Whose assignments this manager gives: its store's id and its own epoch."""

    store: str
    epoch: int


class NodeUpdate(NamedTuple):
    """What one or several messages of a node amount to, still to be compared with the store.

    `columns` are the node's own, `conditions` come on top of the report's. `live`: `report` proves how things
    are now. `diverged`: the node followed this manager before it followed a later epoch.
    """

    columns: dict[str, Any]
    report: Reported | None = None
    live: bool = False
    conditions: tuple[str, ...] = ()
    diverged: bool = False

    def merge(self, later: NodeUpdate) -> NodeUpdate:
        """Both in one, the later one winning."""
        columns = self.columns | later.columns
        last = later if later.report is not None else self
        return NodeUpdate(columns, last.report, last.live, last.conditions, last.diverged)


class WorkerDiff(NamedTuple):
    """What a report changes about one worker: columns of its row, and events (verb, reason)."""

    columns: dict[str, Any]
    events: tuple[tuple[str, str | None], ...] = ()
    gone: str | None = None
    """Why it is known to be gone, when it is."""


class ReportDiff(NamedTuple):
    """What an update changes in the store."""

    columns: dict[str, Any]
    """Of the node's row."""
    workers: Sequence[tuple[WorkerRow, WorkerDiff]] = ()
    assignment: dict[str, int] | None = None
    """Columns that put the node's assignment above a forged one; None where none is to be superseded."""
    measured: Mapping[str, ReportedWorker] = {}
    """By the oid of its row: reported workers whose figures hold now."""


def diff_report(
    node: NodeRow,
    workers: Sequence[WorkerRow],
    clusters: Mapping[str, str],
    update: NodeUpdate,
    origin: Origin,
) -> ReportDiff:
    """Compare an update with the rows of the node and of the workers on it; `clusters` as in `match`.

    An unpaired node is believed only in what it has applied, and when it says that workers are gone.
    """
    report, columns = update.report, dict(update.columns)
    if report is None:
        return ReportDiff(_changed(node, columns))
    applied = trusted_version(report, origin, node.assignment_epoch)
    if applied >= 0:
        columns |= {"applied_epoch": report.applied.epoch, "applied_version": applied}
    paired = node.status is not NodeStatus.UNPAIRED
    if paired:
        columns |= _facts(node, report, update.conditions, origin)
    live = update.live and paired
    found = match(workers, report.workers, clusters)
    diffs = ((row, diff_worker(row, found.get(row.oid), applied, live)) for row in workers)
    return ReportDiff(
        _changed(node, columns),
        [(row, diff) for row, diff in diffs if diff is not None],
        supersede_forged(node, report, update.diverged, origin),
        found if live else {},
    )


def supersede_forged(
    node: NodeRow, report: Reported, diverged: bool, origin: Origin
) -> dict[str, int] | None:
    """Columns for an assignment above one that this manager never gave the node; None where it gave it.

    An agent that follows a forgery refuses ours until ours is newer. A later epoch might be a newer
    manager's: it is superseded only where the node had followed this manager until then, for a newer manager
    would have fenced this one before (`manager/{id}/state` comes first). The epoch is raised for that node
    alone: one that lies about what it follows moves nobody else.
    """
    held = (report.applied.epoch, report.applied.version)
    ours = max(origin.epoch, node.assignment_epoch)
    if report.store != origin.store or held <= (ours, node.assignment_version):
        return None
    if held[0] == ours and held[1] < MAX_VERSION:
        return {"assignment_version": held[1]}
    if (held[0] == ours or diverged) and held[0] < MAX_VERSION:
        return {"assignment_epoch": held[0] + 1}
    return None  # A newer manager's, or a lie: an agent never takes over an epoch that high.


def _changed(node: NodeRow, columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if getattr(node, name) != value}


def _facts(node: NodeRow, report: Reported, conditions: tuple[str, ...], origin: Origin) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "runtimes": sorted(set(report.runtimes)),
        "capacity": report.capacity,
        "refuses": refuses(report, origin, node.assignment_epoch),
        "conditions": [*conditions_of(report, origin, node.assignment_epoch), *conditions],
    }
    if report.details is not None:
        details = None if report.details is UNSET else report.details
        facts["runtime_details"] = None if details is None else to_builtins(details)
    if node.labels is None and report.labels:
        facts["labels"] = _fitting(report.labels)
    return facts


def _fitting(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that an operation could have set: what is exported has to be accepted again."""
    return dict(islice((each for each in sorted(labels.items()) if not label_fault(*each)), MAX_LABELS))


def foreign_schemas(report: Reported) -> dict[str, str]:
    """The digests of a node's schemas that are not this version's own, by runtime."""
    known = known_schemas()
    return {
        name: detail.schema
        for name, detail in (report.details or {}).items()
        if detail.schema is not None and known.get(name) != detail.schema
    }


def match(
    rows: Sequence[WorkerRow], seen: Iterable[ReportedWorker], clusters: Mapping[str, str]
) -> dict[str, ReportedWorker]:
    """Reported workers by the oid of their row; those without a row on this node are left out.

    Matched by oid when given, else by (cluster, name), else by name where it is unique among the rows.
    `clusters` are the names of the rows' clusters by oid.
    """
    by_oid = {row.oid: row for row in rows}
    by_cluster = {(clusters.get(row.cluster_oid), row.name): row for row in rows}
    by_name: dict[str, WorkerRow | None] = {}
    for row in rows:
        by_name[row.name] = None if row.name in by_name else row
    found: dict[str, ReportedWorker] = {}
    for worker in seen:
        if worker.oid is not None:
            of = by_oid.get(worker.oid)
        elif worker.cluster is not None:
            of = by_cluster.get((worker.cluster, worker.worker))
        else:
            of = by_name.get(worker.worker)
        if of is not None:
            found[of.oid] = worker
    return found


def is_ahead(applied: Applied, epoch: int, least: int) -> bool:
    """Whether the node follows an epoch that this manager never gave it; `least` as in `trusted_version`."""
    return applied.epoch > epoch and applied.epoch != least


def trusted_version(report: Reported, origin: Origin, least: int) -> int:
    """The assignment version that the node has applied; -1 when it follows another store or manager.

    `least` is the epoch of the node's own assignment.
    """
    if report.store not in (None, origin.store) or is_ahead(report.applied, origin.epoch, least):
        return -1
    return report.applied.version


def refuses(report: Reported, origin: Origin, least: int) -> str | None:
    """Whom the node follows instead of this manager, as a predicate; None when it applies our assignments."""
    if report.store not in (None, origin.store):
        return f"follows another manager's store ({(report.store or '')[:64]})"
    if is_ahead(report.applied, origin.epoch, least):
        return f"follows epoch {report.applied.epoch}, newer than this manager's {origin.epoch}"
    return None


def conditions_of(report: Reported, origin: Origin, least: int) -> list[str]:
    """The node's conditions, from its report."""
    found = list(report.conditions)
    if report.refused:
        found.append(f"it refused the assignment: {report.refused}")
    if report.store not in (None, origin.store):
        found.append(f"{FOLLOWS_ANOTHER}another manager's store ({report.store}, not {origin.store})")
    elif is_ahead(report.applied, origin.epoch, least):
        of = report.applied.epoch
        found.append(
            f"{FOLLOWS_ANOTHER}epoch {of}, newer than this manager's {origin.epoch}: of a newer manager, or"
            f" forged; if there is no other: busbar manager take-over --epoch {of}"
        )
    return found


def diff_worker(row: WorkerRow, seen: ReportedWorker | None, applied: int, live: bool) -> WorkerDiff | None:
    """What a report changes about an assigned worker; None when nothing.

    `applied` is the version from `trusted_version`. A report that is not `live` (retained, or of an unpaired
    node) proves only that a stopped worker is gone, not that one runs now.
    """
    if row.state is _W.STOPPING:
        return _stopping(row, seen, applied)
    if not live:
        return None
    if seen is not None and 0 < seen.generation < row.generation:
        return _former(row, seen) or _absent(row)
    return _wanted(row, seen) if seen is not None else _absent(row)


def _stopping(row: WorkerRow, seen: ReportedWorker | None, applied: int) -> WorkerDiff | None:
    if row.unassigned_version is not None and applied < row.unassigned_version:
        return None
    if seen is None or seen.state.upper() == _W.STOPPED:
        return WorkerDiff({}, gone="reported gone by its node")
    return None


def _former(row: WorkerRow, seen: ReportedWorker) -> WorkerDiff | None:
    """The node has the worker's former process still: for good, where it found the next definition bad.

    Where that one serves, clients find it; it counts as not ready, as it is not what its group asks for.
    """
    kept = (seen.reason or "").startswith(NOT_REPLACED)
    if row.state is not _W.STARTING or not (kept or (row.reason or "").startswith(NOT_REPLACED)):
        return None
    serves = kept and seen.state.upper() == _W.RUNNING
    process = {
        "address": seen.address,
        "listeners": seen.listeners or None,
        "mesh": seen.mesh or None,
        "pid": seen.pid,
    }
    reported = {"reason": seen.reason if kept else None, **(process if serves else NO_PROCESS)}
    columns = {name: value for name, value in reported.items() if getattr(row, name) != value}
    return WorkerDiff(columns) if columns else None


def _absent(row: WorkerRow) -> WorkerDiff | None:
    """The node does not run it (yet), so it is not ready."""
    if row.state is _W.STARTING or not may_advance(row.state, _W.STARTING):
        return None
    reason = "its node has not started it yet"
    columns = {"state": _W.STARTING, "reason": reason, **NO_PROCESS}
    return WorkerDiff(columns, (("starting", reason),))


def _wanted(row: WorkerRow, seen: ReportedWorker) -> WorkerDiff | None:
    state = _STATE_OF.get(seen.state.upper())
    if state is None or not may_advance(row.state, state):
        return None
    reason = _reason(row, seen, state)
    reported = {
        "state": state,
        "reason": reason,
        "address": seen.address,
        "listeners": seen.listeners or None,
        "mesh": seen.mesh or None,
        "pid": seen.pid,
        "restarts": seen.restarts,
    }
    columns = {name: value for name, value in reported.items() if getattr(row, name) != value}
    if not columns:
        return None
    return WorkerDiff(columns, _events(row, seen, state, reason))


def _reason(row: WorkerRow, seen: ReportedWorker, state: WorkerState) -> str | None:
    if seen.reason:
        return seen.reason
    if state is _W.BACKOFF:
        return FAILED
    # What this manager said when it placed the worker holds for the whole start; everything else is over.
    kept = row.reason or ""
    placed = state is row.state is _W.STARTING and not kept.startswith(PASSING_REASONS)
    return row.reason if placed else None


def _events(
    row: WorkerRow, seen: ReportedWorker, state: WorkerState, reason: str | None
) -> tuple[tuple[str, str | None], ...]:
    """BACKOFF, or an increased restart counter, is a failure; a report may skip several steps.

    The counter increases at the start after a BACKOFF, whose failure has its event already.
    """
    again = seen.restarts > row.restarts
    entered = state is not row.state
    unreported = seen.restarts - row.restarts - (row.state is _W.BACKOFF)
    events: list[tuple[str, str | None]] = []
    if unreported > 0 or (state is _W.BACKOFF and (entered or again)):
        events.append(("failed", reason or FAILED))
    if state is _W.RUNNING and (entered or again):
        events.append(("ready", seen.reason))
    elif state is _W.STARTING and entered:
        events.append(("starting", reason))
    return tuple(events)
