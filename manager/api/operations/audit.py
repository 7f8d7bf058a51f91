"""The audit: changes, and requests that were refused."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.clock import rfc3339

from ...store.rows import AuditRow, RefusalRow
from .base import ChangeHandler, ReadContext, ReadHandler

MAX_PARAMS: Final = 1_024
"""Bytes of a change's parameters: an entry alone must be small enough for any broker's packet limit."""


def list_audit(ctx: ReadContext, params: p.ListAudit) -> list[p.AuditEntry]:
    before = None if params.after is None else int(params.after)
    newer = None if params.within_ms is None else ctx.now_ns - params.within_ms * 1_000_000
    if params.refused:
        rows = ctx.reads.refusals(before, params.limit, params.caller, params.operation, newer)
        return [_refusal(row) for row in rows]
    found = ctx.reads.audit_rows(before, params.limit, params.caller, params.operation, newer)
    return [_change(row) for row in found]


def _change(row: AuditRow) -> p.AuditEntry:
    return p.AuditEntry(
        id=str(row.id),
        time=rfc3339(row.time),
        caller=row.caller,
        operation=row.op,
        outcome=row.outcome,
        caller_oid=row.caller_oid,
        role=row.role,
        request_id=row.request_id,
        object_oid=row.object,
        params=row.params.encode()[:MAX_PARAMS].decode(errors="ignore"),
    )


def _refusal(row: RefusalRow) -> p.AuditEntry:
    return p.AuditEntry(
        id=str(row.id),
        time=rfc3339(row.first),
        caller=row.caller,
        operation=row.op,
        outcome=row.outcome,
        request_id=row.request_id,
        detail=row.detail,
        count=row.count,
        last=rfc3339(row.last),
    )


READS: Final[dict[str, ReadHandler]] = {"list_audit": list_audit}
CHANGES: Final[dict[str, ChangeHandler]] = {}
