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
from .base import ChangeHandler, ReadHandler

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
READS: Final[dict[str, ReadHandler]] = {
    **{name: fn for noun in _NOUNS for name, fn in noun.READS.items()},
    PLANNER: rehearsed.planner(CHANGES),
}
