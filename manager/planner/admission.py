"""Whether a node may take one more worker of a group. Pure.

The one rule for it: a plan asks it of its snapshot, and applying asks it again of the transaction's rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from busbar.bus.routers.runtimes import BUILT_IN
from busbar.bus.states import NodeStatus, WorkerState
from msgspec import Struct

from .sizes import workers_limit

_WEIGHTLESS: Final = frozenset({WorkerState.PENDING, WorkerState.STOPPED})


class Obstacle(Enum):
    """The kind of thing that keeps a worker off a node."""

    UNKNOWN = auto()
    MEMBERSHIP = auto()
    STATUS = auto()
    REFUSES = auto()
    DRAINING = auto()
    CORDONED = auto()
    LABELS = auto()
    RUNTIME = auto()
    TRANSPORT = auto()
    HARDLIMIT = auto()
    CAPACITY = auto()


class Refusal(NamedTuple):
    """Why a node takes no worker: `text` is a predicate (`is full (4/4 workers)`), `figures` its numbers."""

    obstacle: Obstacle
    text: str
    figures: str = ""


class Target(Struct, frozen=True, gc=False):
    """A node as a place for one more worker of one cluster. A limit of None is no limit."""

    status: NodeStatus
    refuses: str | None
    """Whom it follows instead of this manager, as a predicate."""
    draining: bool
    cordoned: bool
    runtimes: Collection[str]
    max_workers: int | None
    """The node's own limit, for workers of all clusters together."""
    member: bool
    hardlimit: int | None
    """The membership's limit, for workers of that cluster."""
    in_cluster: int
    """Workers of that cluster that occupy the node now."""
    total: int
    """Workers of all clusters that occupy it now."""
    unmet: str | None = None
    """What it lacks of the labels that the group requires, as a predicate (`bus.placement.unmet`)."""
    rejects: str | None = None
    """What its schema of the runtime has against the transport (`acceptance.rejection`)."""


def refusal(target: Target | None, runtime: str) -> Refusal | None:
    """Why this node takes no more workers of that runtime; None when it takes one. A target of None is a
    node that is not known."""
    if target is None:
        return Refusal(Obstacle.UNKNOWN, "is not known")
    if not target.member:
        return Refusal(Obstacle.MEMBERSHIP, "is not a node of the cluster")
    if target.status is not NodeStatus.ONLINE:
        return Refusal(Obstacle.STATUS, f"is {target.status}")
    if target.refuses is not None:
        return Refusal(Obstacle.REFUSES, target.refuses)
    if target.draining:
        return Refusal(Obstacle.DRAINING, "is draining")
    if target.cordoned:
        return Refusal(Obstacle.CORDONED, "is cordoned")
    if target.unmet is not None:
        return Refusal(Obstacle.LABELS, target.unmet)
    if runtime not in target.runtimes:
        return Refusal(Obstacle.RUNTIME, f"does not offer runtime '{runtime}'")
    if target.rejects is not None:
        return Refusal(Obstacle.TRANSPORT, f"does not accept its transport ({target.rejects})")
    if target.hardlimit is not None and target.in_cluster >= target.hardlimit:
        figures = f"{target.in_cluster}/{target.hardlimit}"
        return Refusal(Obstacle.HARDLIMIT, f"is at its hardlimit ({figures})", figures)
    if target.max_workers is not None and target.total >= target.max_workers:
        figures = f"{target.total}/{target.max_workers}"
        return Refusal(Obstacle.CAPACITY, f"is full ({figures} workers)", figures)
    return None


def occupies(state: WorkerState) -> bool:
    """Whether a worker in this state counts as load of the node it is on.

    One that is being stopped does: it holds its memory and its port until it is gone.
    """
    return state not in _WEIGHTLESS


def max_workers(capacity: Mapping[str, Any] | None, max_packet: int | None = None) -> int | None:
    """A node's own limit, as its agent reports it, or less: as many as its messages can hold.

    None when it has no limit (and `max_packet`, the broker's limit in bytes, is not given).
    """
    own = (capacity or {}).get("max_workers")
    limits = [own] if isinstance(own, int) and not isinstance(own, bool) and own >= 0 else []
    if max_packet is not None:
        limits.append(workers_limit(max_packet))
    return min(limits, default=None)


def unoffered(runtime: str, offered: Collection[str]) -> str | None:
    """Why a group's runtime is most likely a slip: nodes have reported theirs, and none has this one."""
    if runtime in BUILT_IN or runtime in offered or not offered:
        return None
    return f"no node offers runtime '{runtime}' (known: {', '.join(sorted({*offered, *BUILT_IN}))})"
