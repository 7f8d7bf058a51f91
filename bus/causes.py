"""The codes of an explanation's statements. Pure."""

from __future__ import annotations

from typing import Final

CAUSES: Final[dict[str, str]] = {
    "stopped": "the cluster is stopped, or is being stopped",
    "group_stopped": "the worker group is stopped by itself",
    "paused": "the cluster is paused",
    "surplus": "the group asks for fewer workers",
    "brake": "the mass failure hold is on: nothing is moved",
    "node_late": "the node is late: its heartbeats stopped",
    "node_lost": "the node is lost",
    "node_offline": "the node's agent has said goodbye",
    "node_unpaired": "the node is unpaired",
    "node_gone": "the node is not known any more",
    "node_follows_another": "the node follows another manager",
    "node_draining": "the node is drained",
    "node_cordoned": "the node is cordoned: it takes no new workers",
    "node_condition": "the node's agent reports a condition",
    "never_heard": "the node's agent was never heard",
    "not_member": "the node is not one of the cluster",
    "misplaced": "the worker is on a node without the labels that its group requires now",
    "not_applied": "the node has not confirmed its present assignment",
    "no_members": "the cluster has no nodes",
    "node_refused": "a node takes no more workers of the group, and why",
    "no_place": "no node takes the worker",
    "to_be_placed": "the worker is placed with the next pass of the manager",
    "failing": "the worker's process can't be started, or fails",
    "starting": "the worker's process is not ready yet",
    "stopping": "the worker is being stopped",
    "unknown": "nothing is heard of the worker",
    "not_moved": "why a worker is not moved off its node",
    "unhealthy": "the worker runs, and its agent reports a problem",
    "outdated": "the worker runs an earlier revision than its group's",
    "rollout_halted": "the rollout can't go on",
    "rollout_waits": "the rollout waits: the disruption budget is spent",
    "not_meshed": "the worker is not connected to all of its peers",
    "not_accepted": "nodes do not accept the group's transport",
    "worker_not_ready": "a worker that is wanted is not ready",
    "group_not_running": "a worker group is not RUNNING",
    "refused": "the request was refused",
}
"""What can be wrong, by code."""

FACTS: Final[dict[str, str]] = {
    "history": "an earlier event",
    "request": "the request",
    "output": "a line of the worker's last output",
    "restarts": "how often the worker was restarted",
    "lost_after": "when the workers of a silent node are moved",
    "deadline": "when a group without a ready worker becomes ERROR",
    "node_outside": "a node that would take the worker, but is not one of the cluster",
    "next": "what happens next",
    "no_runtime": "a runtime that the node does not offer, and why",
    "no_cluster": "the node belongs to no cluster",
    "more": "what was left out",
    "nothing_wrong": "nothing is wrong",
}
"""What else is said, by code."""

MAX_STATEMENTS: Final = 64
"""Statements of one explanation."""
MAX_TEXT: Final = 1_000
"""Characters of one of them."""
