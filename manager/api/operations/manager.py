"""The manager's own state."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p
from busbar.bus.clock import rfc3339

from .base import ChangeHandler, ReadContext, ReadHandler


def get_manager(ctx: ReadContext, params: p.NoParams) -> p.ManagerInfo:
    reads, identity = ctx.reads, ctx.identity
    return p.ManagerInfo(
        manager=identity.manager,
        state="online",
        store=identity.store,
        epoch=identity.epoch,
        realm=identity.realm,
        version=identity.version,
        uptime_ms=int((ctx.now - identity.started) * 1000),
        sequence=reads.sequence(),
        nodes=reads.count_by("status", "nodes"),
        clusters=reads.count_by("status", "clusters"),
        workers=reads.count_by("state", "workers"),
        outbox=reads.outbox_count(),
        brake=ctx.observed.hold,
        limits=dict(identity.limits),
        conditions=identity.conditions(),
        time=rfc3339(ctx.now_ns),
        commit=identity.commit,
    )


READS: Final[dict[str, ReadHandler]] = {"get_manager": get_manager}
CHANGES: Final[dict[str, ChangeHandler]] = {}
