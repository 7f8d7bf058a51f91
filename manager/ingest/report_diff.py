"""What a node's report says about the workers placed on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from busbar.bus.messages import Applied, Reported, ReportedWorker
from busbar.bus.states import WorkerState, may_advance

from ..store.rows import WorkerRow

_W = WorkerState
_SEEN_AS: Final = {
    "STARTING": _W.STARTING,
    "RUNNING": _W.RUNNING,
    "BACKOFF": _W.BACKOFF,
    # Not what the assignment asks for: the agent is between two processes of this worker.
    "STOPPING": _W.STARTING,
    "STOPPED": _W.STARTING,
}
"""A worker that is to run, as its agent sees it."""
FAILED: Final = "its process ended"


class Sight(NamedTuple):
    """What a report changes about one worker: columns of its row, and events (verb, reason)."""

    columns: dict[str, Any]
    events: tuple[tuple[str, str | None], ...] = ()
    gone: str | None = None
    """Why it is known to be gone, when it is."""


def match(
    rows: Sequence[WorkerRow], seen: Iterable[ReportedWorker], clusters: Mapping[str, str]
) -> dict[str, ReportedWorker]:
    """Reported workers by the oid of the row they speak of; those that are not placed there are left out.

    By oid when given, else by (cluster, name), else by name where that is unique among the rows. `clusters`
    are the names of the rows' clusters by oid.
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
    """Whether the node follows an epoch that this manager never gave it; `least` is its assignment's own."""
    return applied.epoch > epoch and applied.epoch != least


def trusted_version(report: Reported, store: str, epoch: int, least: int) -> int:
    """The assignment version that the node has applied; -1 when it follows another store or manager."""
    if report.store not in (None, store) or is_ahead(report.applied, epoch, least):
        return -1
    return report.applied.version


def conditions_of(report: Reported, store: str, epoch: int, least: int) -> list[str]:
    """What a person should know about this node, from its report."""
    found = list(report.conditions)
    if report.refused:
        found.append(f"it refused the assignment: {report.refused}")
    if report.store not in (None, store):
        found.append(f"it follows another manager's store ({report.store}, not {store})")
    elif is_ahead(report.applied, epoch, least):
        of = report.applied.epoch
        found.append(
            f"it follows epoch {of}, newer than this manager's {epoch}: of a newer manager, or forged;"
            f" if there is no other: busbar manager take-over --epoch {of}"
        )
    return found


def see(row: WorkerRow, seen: ReportedWorker | None, applied: int, live: bool) -> Sight | None:
    """What follows for a placed worker; None when nothing does.

    `applied` is the version from `trusted_version`. A report that is not `live` (stored by the broker, or of
    a node that can't be heard) proves only that a stopped worker was gone, not that one runs now.
    """
    if row.state is _W.STOPPING:
        return _stopping(row, seen, applied)
    if not live:
        return None
    if seen is not None and 0 < seen.generation < row.generation:
        seen = None
    return _wanted(row, seen) if seen is not None else _absent(row)


def _stopping(row: WorkerRow, seen: ReportedWorker | None, applied: int) -> Sight | None:
    if row.unassigned_version is not None and applied < row.unassigned_version:
        return None
    if seen is None or seen.state.upper() == _W.STOPPED:
        return Sight({}, gone="its node says that it is gone")
    return None


def _absent(row: WorkerRow) -> Sight | None:
    """Its node is heard and does not run it (yet): whatever it was, it is not ready."""
    if row.state is _W.STARTING or not may_advance(row.state, _W.STARTING):
        return None
    reason = "its node has not started it yet"
    columns = {"state": _W.STARTING, "reason": reason, "address": None, "pid": None}
    return Sight(columns, (("starting", reason),))


def _wanted(row: WorkerRow, seen: ReportedWorker) -> Sight | None:
    state = _SEEN_AS.get(seen.state.upper())
    if state is None or not may_advance(row.state, state):
        return None
    reason = _reason(row, seen, state)
    reported = {
        "state": state,
        "reason": reason,
        "address": seen.address,
        "pid": seen.pid,
        "restarts": seen.restarts,
    }
    columns = {name: value for name, value in reported.items() if getattr(row, name) != value}
    if not columns:
        return None
    return Sight(columns, _events(row, seen, state, reason))


def _reason(row: WorkerRow, seen: ReportedWorker, state: WorkerState) -> str | None:
    if seen.reason:
        return seen.reason
    if state is _W.BACKOFF:
        return FAILED
    return row.reason if state is row.state else None


def _events(
    row: WorkerRow, seen: ReportedWorker, state: WorkerState, reason: str | None
) -> tuple[tuple[str, str | None], ...]:
    """BACKOFF, or a risen counter of restarts, is a failure; several steps may show up as one.

    The counter rises at the start after a BACKOFF: that failure has been told already.
    """
    again = seen.restarts > row.restarts
    entered = state is not row.state
    untold = seen.restarts - row.restarts - (row.state is _W.BACKOFF)
    events: list[tuple[str, str | None]] = []
    if untold > 0 or (state is _W.BACKOFF and (entered or again)):
        events.append(("failed", reason or FAILED))
    if state is _W.RUNNING and (entered or again):
        events.append(("ready", seen.reason))
    elif state is _W.STARTING and entered:
        events.append(("starting", reason))
    return tuple(events)
