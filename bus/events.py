"""The table of lifecycle events: what happens to each kind of object. Pure."""

from __future__ import annotations

from typing import Final

EVENTS: Final[dict[str, tuple[str, ...]]] = {
    "routercluster": (
        "created", "deleted", "updated", "starting", "started", "stopping", "stopped", "degraded",
        "recovered", "failed",
    ),
    "routercluster_node": ("added", "removed"),
    "workergroup": ("added", "removed", "scaled", "updating", "updated", "starting", "stopping"),
    "worker": ("pending", "starting", "restarting", "ready", "failed", "stopped", "moved", "unknown"),
    "node": (
        "paired", "unpaired", "online", "late", "lost", "offline", "draining", "drained", "undrained",
        "cordoned", "uncordoned", "labelled", "forgotten",
    ),
    "principal": ("added", "changed", "removed", "transferred"),
    "manager": ("braked", "released", "restored"),
}  # fmt: skip
"""Events: `busbar.on_{subject}_{verb}` for each subject and verb."""

EVENT_KINDS: Final = {subject: subject for subject in EVENTS} | {"routercluster_node": "node"}
"""The kind of object that the events of each subject name."""


def event_type(subject: str, verb: str) -> str:
    """The CloudEvents type of an event.

    Raises:
        KeyError: when the contract has no such event.
    """
    if verb not in EVENTS[subject]:
        raise KeyError(f"on_{subject}_{verb}")
    return f"busbar.on_{subject}_{verb}"
