"""Every state, every legal transition in one table, and the function that refuses all others. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar


class ClusterState(StrEnum):
    """States of a router cluster, and of a worker group (contract, section 5)."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    DEGRADED = "DEGRADED"
    PAUSED = "PAUSED"
    ERROR = "ERROR"
    STOPPING = "STOPPING"


class WorkerState(StrEnum):
    """States of a worker. RUNNING means ready: its readiness probe passed, not merely a live pid."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    UNKNOWN = "UNKNOWN"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"


class NodeStatus(StrEnum):
    """States of a node in the manager's view. The agent of an `offline` node said goodbye."""

    ONLINE = "online"
    LATE = "late"
    LOST = "lost"
    OFFLINE = "offline"
    UNPAIRED = "unpaired"


class NodeBirth(StrEnum):
    """What a node, or its will, publishes on its state topic."""

    READY = "ready"
    DISCONNECTED = "disconnected"
    LOST = "lost"


class Leaves(StrEnum):
    """What becomes of a node's workers when its agent says goodbye. Those of `shutdown` end with the machine,
    the container or the service."""

    RUNNING = "running"
    STOPPED = "stopped"
    SHUTDOWN = "shutdown"


State = TypeVar("State", ClusterState, WorkerState, NodeStatus)

_C, _W, _N = ClusterState, WorkerState, NodeStatus

TRANSITIONS: Final[dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]]] = {
    ClusterState: {
        _C.STOPPED: frozenset({_C.STARTING}),
        _C.STARTING: frozenset({_C.RUNNING, _C.ERROR, _C.STOPPING}),
        _C.RUNNING: frozenset({_C.DEGRADED, _C.ERROR, _C.PAUSED, _C.STOPPING}),
        _C.DEGRADED: frozenset({_C.RUNNING, _C.ERROR, _C.PAUSED, _C.STOPPING}),
        _C.PAUSED: frozenset({_C.STARTING, _C.STOPPING}),
        _C.ERROR: frozenset({_C.RUNNING, _C.DEGRADED, _C.STOPPING}),
        _C.STOPPING: frozenset({_C.STOPPED}),
    },
    # A worker's states are remote observations: reports may be missed, so several steps may show up as one.
    # Never allowed: a stopping worker that is ready or starting again.
    WorkerState: {
        _W.PENDING: frozenset({_W.STARTING, _W.UNKNOWN, _W.STOPPING, _W.STOPPED}),
        _W.STARTING: frozenset({_W.RUNNING, _W.BACKOFF, _W.UNKNOWN, _W.PENDING, _W.STOPPING, _W.STOPPED}),
        _W.RUNNING: frozenset({_W.STARTING, _W.BACKOFF, _W.UNKNOWN, _W.PENDING, _W.STOPPING, _W.STOPPED}),
        _W.BACKOFF: frozenset({_W.STARTING, _W.RUNNING, _W.UNKNOWN, _W.PENDING, _W.STOPPING, _W.STOPPED}),
        _W.UNKNOWN: frozenset({_W.STARTING, _W.RUNNING, _W.BACKOFF, _W.PENDING, _W.STOPPING, _W.STOPPED}),
        _W.STOPPING: frozenset({_W.PENDING, _W.STOPPED}),
        _W.STOPPED: frozenset({_W.PENDING, _W.STARTING}),
    },
    NodeStatus: {
        _N.ONLINE: frozenset({_N.LATE, _N.LOST, _N.OFFLINE, _N.UNPAIRED}),
        _N.LATE: frozenset({_N.ONLINE, _N.LOST, _N.OFFLINE, _N.UNPAIRED}),
        _N.LOST: frozenset({_N.ONLINE, _N.OFFLINE, _N.UNPAIRED}),
        _N.OFFLINE: frozenset({_N.ONLINE, _N.LOST, _N.UNPAIRED}),
        _N.UNPAIRED: frozenset({_N.OFFLINE}),
    },
}
"""Allowed successors of each state, by kind (a cluster's STARTING and a worker's are equal strings)."""

STARTED: Final = frozenset({_C.STARTING, _C.RUNNING, _C.DEGRADED, _C.ERROR})
"""States in which a cluster's workers should run; stop is accepted only in these."""
STARTABLE: Final = frozenset({_C.STOPPED, _C.PAUSED})
"""States in which start is accepted."""
FOLLOWS_ANOTHER: Final = "it follows "
"""How the condition of a node begins that follows another manager, and takes no workers of this one."""
ASSIGNED: Final = frozenset({_W.STARTING, _W.RUNNING, _W.BACKOFF, _W.UNKNOWN})
"""States of a worker that stands in its node's assignment."""


class IllegalTransitionError(Exception):
    """A transition that is not in the table: a defect in the caller, never a client's fault."""


def advance(current: State, new: State) -> State:
    """Return `new` if the table allows it from `current` (staying is always allowed).

    Raises:
        IllegalTransitionError: otherwise.
    """
    if not may_advance(current, new):
        raise IllegalTransitionError(f"{type(current).__name__}: {current} may not become {new}")
    return new


def may_advance(current: State, new: State) -> bool:
    """Tell whether `advance` would allow it."""
    return new is current or new in TRANSITIONS[type(current)][current]
