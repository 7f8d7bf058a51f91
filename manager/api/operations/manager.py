"""The manager's own state."""

from __future__ import annotations

from typing import Final

from busbar.bus import params as p

from .base import ChangeHandler, ReadHandler, View


def get_manager(view: View, params: p.NoParams) -> p.ManagerInfo:
    reads, office = view.reads, view.office
    return p.ManagerInfo(
        manager=office.manager,
        state="online",
        store=office.store,
        epoch=office.epoch,
        realm=office.realm,
        version=office.version,
        uptime_ms=int((view.now - office.started) * 1000),
        sequence=reads.sequence(),
        nodes=reads.count_by("status", "nodes"),
        clusters=reads.count_by("status", "clusters"),
        workers=reads.count_by("state", "workers"),
        outbox=reads.outbox_count(),
        brake=view.observed.hold,
        limits=dict(office.limits),
        conditions=office.conditions(),
    )


READS: Final[dict[str, ReadHandler]] = {"get_manager": get_manager}
CHANGES: Final[dict[str, ChangeHandler]] = {}
