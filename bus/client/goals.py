"""What can be waited for, as questions to an object's status; and a status in words. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import UNSET, Struct

from ..messages import Status

SHOWN: Final = 5
"""Conditions told when a wait ends in vain."""


class Goal(Struct, frozen=True):
    """What is waited for. Both questions are asked of each status; None stands for a deleted object.

    `version` is the object's after the accepted change: statuses before it are old. `failed` says why the
    goal can no longer be reached, None while it can.
    """

    words: str
    version: int
    reached: Callable[[Status | None], bool]
    failed: Callable[[Status | None], str | None] = lambda _: None


def started(version: int) -> Goal:
    """The cluster runs; `version` is that of the accepted start."""
    return Goal(
        "RUNNING",
        version,
        lambda s: s is not None and s.status == "RUNNING" and s.version >= version,
        lambda s: _lost(s, version, "STOPPED", "STOPPING"),
    )


def stopped(version: int) -> Goal:
    """The cluster is stopped; `version` is that of the accepted stop."""
    return Goal(
        "STOPPED",
        version,
        lambda s: s is not None and s.status == "STOPPED" and s.version >= version,
        lambda s: _lost(s, version, "STARTING"),
    )


def scaled(version: int, scale: int) -> Goal:
    """Every worker that the group asks for is ready and no other is left, or the group is stopped anyway."""

    def reached(s: Status | None) -> bool:
        if s is None or s.version < version or s.scale != scale:
            return False
        return s.status == "STOPPED" or (_complete(s) and s.ready == scale)

    return Goal(f"RUNNING with {scale}", version, reached, lambda s: _lost(s, version))


def updated(version: int, revision: int) -> Goal:
    """Every worker of the group is ready with that revision and no other is left, or the group is stopped
    anyway."""

    def reached(s: Status | None) -> bool:
        if s is None or s.version < version or s.revision != revision:
            return False
        return s.status == "STOPPED" or (_complete(s) and s.updated is UNSET)

    def failed(s: Status | None) -> str | None:
        if s is not None and s.revision is not UNSET and s.revision > revision:
            return f"revision {s.revision} was asked for meanwhile"
        return _lost(s, version)

    return Goal(f"RUNNING with revision {revision}", version, reached, failed)


def _complete(status: Status) -> bool:
    return status.status == "RUNNING" and status.surplus is UNSET


def restarted(generation: int) -> Goal:
    """The worker is ready as that process or a later one."""

    def reached(s: Status | None) -> bool:
        return s is not None and s.status == "RUNNING" and _generation(s) >= generation

    return Goal(f"RUNNING as generation {generation}", 0, reached, lambda s: _lost(s, 0))


def moved(version: int, node: str) -> Goal:
    """The worker is ready on that node; `version` is that of the order."""

    def reached(s: Status | None) -> bool:
        return s is not None and s.moving_to is UNSET and (s.status, s.node) == ("RUNNING", node)

    def failed(s: Status | None) -> str | None:
        if s is not None and s.version > version and s.moving_to is UNSET and s.node not in (None, node):
            return f"it is on {s.node}: the move was given up"
        return _lost(s, version)

    return Goal(f"RUNNING on {node}", version, reached, failed)


def _generation(status: Status) -> int:
    return 0 if status.generation is UNSET else status.generation


def drained(version: int) -> Goal:
    """Nothing is left on the node."""
    return Goal(
        "drained",
        version,
        lambda s: s is not None and s.version >= version and s.drained is True,
        lambda s: _undrained(s, version),
    )


def deleted() -> Goal:
    """The object's status is taken away."""
    return Goal("gone", 0, lambda s: s is None)


def _undrained(status: Status | None, version: int) -> str | None:
    if status is None:
        return "it was unpaired meanwhile"
    if status.version > version and status.draining is UNSET:
        return "somebody else has let it take workers again"
    return None


def _lost(status: Status | None, version: int, *instead: str) -> str | None:
    if status is None:
        return "it was deleted meanwhile"
    if status.version > version and status.status in instead:
        return f"it is {status.status} again, by somebody else's order"
    return None


def describe(status: Status | None) -> str:
    """A status in a few words."""
    if status is None:
        return "no status was published yet"
    if status.draining is not UNSET:
        return f"{status.status}, {'drained' if status.drained is True else 'draining'}"
    if status.scale is UNSET:
        return status.status
    text = f"{status.status}, {0 if status.ready is UNSET else status.ready} of {status.scale} ready"
    if status.updated is not UNSET:
        text = f"{text}, {status.updated} updated"
    return text if status.surplus is UNSET else f"{text}, {status.surplus} more to stop"


def reasons(status: Status | None) -> str:
    """A status with its conditions: the first few, and how many more."""
    conditions = status.conditions if status is not None else []
    more = [f"and {len(conditions) - SHOWN} more"] if len(conditions) > SHOWN else []
    return "; ".join([describe(status), *conditions[:SHOWN], *more])


STATES: Final = {
    "routercluster": {"running": "RUNNING", "stopped": "STOPPED", "failed": "ERROR"},
    "workergroup": {"running": "RUNNING", "stopped": "STOPPED", "failed": "ERROR"},
    "worker": {"running": "RUNNING", "stopped": "STOPPED", "failed": "BACKOFF"},
    "node": {"running": "online", "stopped": "offline", "failed": "lost"},
}
"""By kind: the status that each word stands for. The failed one also ends a wait for another, but for a node,
which may be lost when one begins to wait for it."""


def state(kind: str, wanted: str) -> Goal:
    """The object is `running`, `stopped` or `failed`, whoever made it so. What is gone is stopped."""
    words = STATES[kind]
    status, bad = words[wanted], None if wanted == "failed" or kind == "node" else words["failed"]

    def reached(s: Status | None) -> bool:
        return s.status == status if s is not None else wanted == "stopped"

    def failed(s: Status | None) -> str | None:
        if s is None:
            return "it was deleted meanwhile"
        if s.status != bad or wanted == "stopped":
            return None
        return reasons(s) if s.conditions or s.reason in (UNSET, None) else f"{s.status}: {s.reason}"

    return Goal(status, 0, reached, failed)
