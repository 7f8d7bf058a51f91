"""Writes what a node said: one transaction that changes only what differs, and records the events."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from busbar.bus.assignments import shares
from busbar.bus.decode import digest, encode
from busbar.bus.json_schema import MAX_SCHEMA
from busbar.bus.messages import Reported
from busbar.bus.states import NodeStatus

from ..state.node_memory import WorkerStat
from ..store.lifecycle_events import EventRecorder, record_stopped
from ..store.rows import WorkerRow
from ..store.tx import Tx
from .report_diff import NodeUpdate, Origin, WorkerDiff, diff_report, foreign_schemas

log = logging.getLogger("busbar.manager")


def write_report(tx: Tx, node_oid: str, update: NodeUpdate, origin: Origin) -> Mapping[str, WorkerStat]:
    """Write an update; returns the figures of the node's workers by oid."""
    node = tx.node(node_oid)
    if node is None:
        return {}
    tell, report = EventRecorder(tx), update.report
    workers = tx.workers_on(node_oid) if report is not None else []
    diff = diff_report(node, workers, _names(tell, workers, report), update, origin)
    if diff.columns:
        tx.update_node(node_oid, **diff.columns)
    if report is not None and report.details is not None and node.status is not NodeStatus.UNPAIRED:
        tx.set_schemas(node_oid, foreign_schemas(report), _bodies(report))
    if diff.assignment is not None and report is not None:
        held = report.applied
        text = "node '%s' follows assignment %d/%d that was never given: forged"
        log.warning(text, node.name, held.epoch, held.version)
        tx.update_node(node_oid, **diff.assignment)
        tx.bump_assignment(node_oid)
    elif workers and "capacity" in diff.columns and shares(diff.columns["capacity"]) != shares(node.capacity):
        tx.bump_assignment(node_oid)  # another agent version: it needs the other form
    for row, change in diff.workers:
        _write_worker(tx, tell, row, change)
    return {
        oid: WorkerStat(seen.uptime_ms, seen.cpu_s, seen.rss, seen.traffic or None)
        for oid, seen in diff.measured.items()
        if (seen.uptime_ms, seen.cpu_s, seen.rss) != (None, None, None)
    }


def _names(tell: EventRecorder, workers: list[WorkerRow], report: Reported | None) -> dict[str, str]:
    """Names of the workers' clusters by oid, where the report does without oids (our own agents say them)."""
    if report is None or all(worker.oid is not None for worker in report.workers):
        return {}
    return {row.cluster_oid: tell.cluster(row.cluster_oid) for row in workers}


def _bodies(report: Reported) -> dict[str, str]:
    """The reported schemas as JSON, each by its digest: not the one that the node says."""
    schemas = report.schemas or {}
    texts = {digest(schema): encode(schema).decode() for schema in schemas.values()}
    return {key: text for key, text in texts.items() if len(text) <= MAX_SCHEMA}


def _write_worker(tx: Tx, tell: EventRecorder, row: WorkerRow, change: WorkerDiff) -> None:
    if change.gone:
        record_stopped(tx, tell, row, change.gone)
        return
    tx.update_worker(row.oid, **change.columns)
    facts = {name: change.columns.get(name, getattr(row, name)) for name in ("address", "pid", "restarts")}
    for verb, reason in change.events:
        tell.worker(row, verb, reason, **facts)
