"""One handler per operation, one file per noun: validate, write in one transaction, return the result."""

from __future__ import annotations

from typing import Final

from busbar.bus.contract import PLANNER

from . import (
    audit,
    clusters,
    declared,
    documents,
    events,
    explain,
    group_orders,
    history,
    manager,
    members,
    nodes,
    principals,
    rebalance,
    rehearsed,
    stats,
    worker_orders,
    workergroups,
    workers,
)
from .base import ChangeHandler, PlanHandler, ReadHandler

_NOUNS: Final = (
    clusters,
    members,
    workergroups,
    group_orders,
    worker_orders,
    stats,
    nodes,
    workers,
    events,
    explain,
    documents,
    declared,
    rebalance,
    history,
    audit,
    manager,
    principals,
)

CHANGES: Final[dict[str, ChangeHandler]] = {name: fn for noun in _NOUNS for name, fn in noun.CHANGES.items()}
READS: Final[dict[str, ReadHandler]] = {name: fn for noun in _NOUNS for name, fn in noun.READS.items()}
PLANS: Final[dict[str, PlanHandler]] = {
    **{name: fn for noun in (declared, rebalance, history) for name, fn in noun.PLANS.items()},
    PLANNER: rehearsed.planner(CHANGES),
}
