"""Writes what a node said: one transaction that changes only what differs, and tells of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from busbar.bus.messages import Reported, ReportedWorker
from busbar.bus.states import NodeStatus

from ..state.node_memory import WorkerStat
from ..store.lifecycle_events import EventRecorder, record_stopped
from ..store.rows import NodeRow, WorkerRow
from ..store.tx import Tx
from .report_diff import conditions_of, match, see, trusted_version

log = logging.getLogger("busbar.manager")

MAX_VERSION: Final = 2**53
"""JSON's readers count exactly up to here: no epoch or version goes beyond."""


class Sighting(NamedTuple):
    """What one or several messages of a node amount to.

    `columns` are the node's own; `live` says whether `report` is a proof of how things are now; `conditions`
    come on top of the report's. `strayed`: this manager has led the node before it followed a later epoch.
    """

    columns: dict[str, Any]
    report: Reported | None = None
    live: bool = False
    conditions: tuple[str, ...] = ()
    strayed: bool = False

    def then(self, later: Sighting) -> Sighting:
        """Both, the later one winning."""
        columns = self.columns | later.columns
        last = later if later.report is not None else self
        return Sighting(columns, last.report, last.live, last.conditions, last.strayed)


def write_sighting(
    tx: Tx, node_oid: str, sighting: Sighting, store: str, epoch: int
) -> Mapping[str, WorkerStat]:
    """Take a sighting in; returns the figures of the node's workers by oid.

    An unpaired node is believed only in what it has applied, and when it says that workers are gone.
    """
    node = tx.node(node_oid)
    if node is None:
        return {}
    paired = node.status is not NodeStatus.UNPAIRED
    columns = dict(sighting.columns)
    if sighting.report is not None:
        columns |= _applied(node, sighting.report, store, epoch)
    if sighting.report is not None and paired:
        columns |= _facts(node, sighting.report, sighting.conditions, store, epoch)
    changed = {name: value for name, value in columns.items() if getattr(node, name) != value}
    if changed:
        tx.update_node(node_oid, **changed)
    if sighting.report is None:
        return {}
    _outbid(tx, node, sighting, store, epoch)
    return _workers(tx, node, sighting.report, sighting.live and paired, store, epoch)


def _applied(node: NodeRow, report: Reported, store: str, epoch: int) -> dict[str, Any]:
    if trusted_version(report, store, epoch, node.assignment_epoch) < 0:
        return {}
    return {"applied_epoch": report.applied.epoch, "applied_version": report.applied.version}


def _facts(
    node: NodeRow, report: Reported, conditions: tuple[str, ...], store: str, epoch: int
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "runtimes": sorted(set(report.runtimes)),
        "capacity": report.capacity,
        "conditions": [*conditions_of(report, store, epoch, node.assignment_epoch), *conditions],
    }
    if node.labels is None and report.labels:
        facts["labels"] = dict(report.labels)
    return facts


def _outbid(tx: Tx, node: NodeRow, sighting: Sighting, store: str, epoch: int) -> None:
    """An agent that is ahead of what we gave it follows a forgery, and refuses ours: give it a newer one.

    A later epoch might be a newer manager's: it is outbid only where this one had led the node until then,
    for a newer manager would have fenced it before (`manager/{id}/state` comes first). The epoch is raised
    for that node alone: one that lies about what it follows moves nobody else.
    """
    report, ours = sighting.report, max(epoch, node.assignment_epoch)
    if report is None or report.store != store:
        return
    held = (report.applied.epoch, report.applied.version)
    if held <= (ours, node.assignment_version) or not (held[0] == ours or sighting.strayed):
        return
    if held[0] == ours and held[1] < MAX_VERSION:
        tx.update_node(node.oid, assignment_version=held[1])
    elif held[0] < MAX_VERSION:
        tx.update_node(node.oid, assignment_epoch=held[0] + 1)
    else:
        return  # An agent does not leap so far: this one lies, or was new when it was deceived.
    log.warning("node '%s' follows assignment %d/%d that was never given: forged", node.name, *held)
    tx.bump_assignment(node.oid)


def _workers(
    tx: Tx, node: NodeRow, report: Reported, live: bool, store: str, epoch: int
) -> dict[str, WorkerStat]:
    rows = tx.workers_on(node.oid)
    tell = EventRecorder(tx)
    by_name = any(worker.oid is None for worker in report.workers)  # our own agents say the oid
    clusters = {row.cluster_oid: tell.cluster(row.cluster_oid) for row in rows} if by_name else {}
    found = match(rows, report.workers, clusters)
    applied = trusted_version(report, store, epoch, node.assignment_epoch)
    for row in rows:
        _worker(tx, tell, row, found.get(row.oid), applied, live)
    return {
        oid: WorkerStat(worker.uptime_ms, worker.cpu_s, worker.rss)
        for oid, worker in found.items()
        if live and (worker.uptime_ms, worker.cpu_s, worker.rss) != (None, None, None)
    }


def _worker(
    tx: Tx, tell: EventRecorder, row: WorkerRow, seen: ReportedWorker | None, applied: int, live: bool
) -> None:
    sight = see(row, seen, applied, live)
    if sight is None:
        return
    if sight.gone:
        record_stopped(tx, tell, row, sight.gone)
        return
    tx.update_worker(row.oid, **sight.columns)
    facts = {name: sight.columns.get(name, getattr(row, name)) for name in ("address", "pid", "restarts")}
    for verb, reason in sight.events:
        tell.worker(row, verb, reason, **facts)
