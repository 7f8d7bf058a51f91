"""Liveness of nodes, and the mass failure hold (the contract's brake, section 7). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from busbar.bus.states import Leaves, NodeStatus, may_advance
from msgspec import Struct, field

from .model import Action, LivenessTiming, MassFailureHold, NodeView, SetNode, Snapshot

_N = NodeStatus
_LEAVES = {
    Leaves.RUNNING: "; its workers run on",
    Leaves.STOPPED: "; none of its workers runs on",
    Leaves.SHUTDOWN: "; its machine is shutting down",
}
_RANK = {_N.ONLINE: 0, _N.LATE: 1, _N.LOST: 2}


class Fleet(Struct, frozen=True):
    """The nodes and their statuses as judged now, for the rest of a plan."""

    nodes: Mapping[str, NodeView]
    status: Mapping[str, NodeStatus]
    timing: LivenessTiming
    now: float
    hold: str | None = None
    avoided: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def avoids(self, group_oid: str, node_oid: str) -> bool:
        """Whether workers of that group go to that node only where no other has room."""
        return self.now < self.avoided.get((group_oid, node_oid), self.now)

    def name(self, node_oid: str | None) -> str:
        """The node's name, for people."""
        node = self.nodes.get(node_oid or "")
        return node.name if node else "a node that is no longer known"

    def silence(self, node_oid: str) -> float:
        """Seconds since the last sign of life."""
        return self.now - self.nodes[node_oid].heard_at

    def hears(self, node_oid: str | None) -> bool:
        """Whether the node can be expected to stop a worker when told, and to report it."""
        node = self.nodes.get(node_oid or "")
        if node is None:
            return False
        if self.status[node.oid] is _N.UNPAIRED:
            return not node.goodbye and self.silence(node.oid) < lost_limit(self.timing, self.now)
        return self.status[node.oid] in (_N.ONLINE, _N.LATE)

    def refuses(self, node_oid: str | None, least: float = 0.0) -> bool:
        """Whether the node has followed another manager for so long that its word is believed.

        One report is no evidence: it may be forged, or late. Never below the lost threshold, nor `least`.
        """
        node = self.nodes.get(node_oid or "")
        if node is None or node.refuses_since is None or self.status[node.oid] is not _N.ONLINE:
            return False
        return self.now - node.refuses_since >= max(least, lost_limit(self.timing, self.now))

    def gave_up(self, node_oid: str | None, *, member: bool = True) -> bool:
        """Whether the node can no longer be expected to report a worker that it was told to stop.

        `member`: whether it is still a node of the worker's cluster.
        """
        node = self.nodes.get(node_oid or "")
        if node is None or self.status[node.oid] is _N.LOST or self.refuses(node_oid):
            return True
        # After a goodbye its workers may still run.
        away = self.status[node.oid] in (_N.OFFLINE, _N.UNPAIRED)
        limit = lost_limit(self.timing, self.now)
        if member and left_running(node):
            limit = max(limit, self.timing.offline_after)
        return away and self.silence(node.oid) >= limit


def late_limit(timing: LivenessTiming, now: float) -> float:
    """Seconds of silence that make a node late."""
    return timing.late_after * timing.heartbeat * (2 if now < timing.grace_until else 1)


def lost_limit(timing: LivenessTiming, now: float) -> float:
    """Seconds of silence that make a node lost."""
    return timing.lost_after * timing.heartbeat * (2 if now < timing.grace_until else 1)


def left_running(node: NodeView) -> bool:
    """Whether its agent exited and left workers running, which are to stay where they are.

    Started elsewhere they would run twice. The operator's drain or unpairing says to move them all the same.
    """
    stays = not node.draining and node.status is not _N.UNPAIRED
    return node.goodbye and node.leaves is Leaves.RUNNING and stays


def move_limit(node: NodeView, lost_after: float, timing: LivenessTiming, *, member: bool = True) -> float:
    """Seconds of silence after which a node's workers may be evicted; `member`: of their cluster.

    Never below the lost threshold, unless it said goodbye: after a restart a stored LOST would otherwise
    evict workers at once.
    """
    if member and left_running(node):
        return max(lost_after, timing.offline_after)
    return lost_after if node.goodbye else max(lost_after, timing.lost_after * timing.heartbeat)


def judge(node: NodeView, timing: LivenessTiming, now: float) -> NodeStatus:
    """A node's status from its signs of life; the present one where the transition is not allowed.

    A node that this process has not heard yet is never judged better than its stored status.
    """
    if node.status is _N.UNPAIRED:
        return _N.UNPAIRED
    target = _target(node, timing, now)
    return target if may_advance(node.status, target) else node.status


def judge_nodes(snapshot: Snapshot, now: float) -> tuple[Fleet, list[Action]]:
    """Judge all nodes and the mass failure hold; returns the fleet as it is now, and actions for changes."""
    timing = snapshot.timing
    status = {oid: judge(node, timing, now) for oid, node in snapshot.nodes.items()}
    actions: list[Action] = [
        SetNode(node.oid, status[node.oid], _why(node, status[node.oid], timing, now))
        for node in sorted(snapshot.nodes.values(), key=lambda node: node.name)
        if status[node.oid] is not node.status
    ]
    found = judge_mass_failure(snapshot, status)
    if (found.reason, found.nodes) != (snapshot.hold, snapshot.hold_nodes):
        actions.append(found)
    # The pass that lifts the hold evicts nothing yet: nodes that are still silent get their full limit again.
    hold = found.reason or snapshot.hold
    return Fleet(snapshot.nodes, status, timing, now, hold, snapshot.avoided), actions


def judge_mass_failure(snapshot: Snapshot, status: Mapping[str, NodeStatus]) -> MassFailureHold:
    """Whether most nodes fell silent at once: the cause is then more likely here or in the network.

    Counts the nodes that fell silent within twice the lost threshold of each other, against those and all
    that are still heard. At least one must be lost; late ones count with it, since they only differ by the
    phase of their heartbeats. Nodes that were lost before, or said goodbye, do not count.
    """
    window = 2.0 * snapshot.timing.lost_after * snapshot.timing.heartbeat
    marked = snapshot.hold_nodes
    silent = [node for node in snapshot.nodes.values() if _counts(node, status[node.oid], marked)]
    together = _together(silent, window)
    lost = sum(1 for node in together if status[node.oid] is _N.LOST)
    oids = frozenset(node.oid for node in together)
    heard = sum(1 for oid, of in status.items() if of in (_N.ONLINE, _N.LATE) and oid not in oids)
    if not lost or len(together) < 2 or 2 * len(together) <= len(together) + heard:
        return MassFailureHold(None)
    word = "lost" if lost == len(together) else "lost or late"
    total = len(together) + heard
    reason = f"{len(together)} of {total} nodes {word} within {window:g} s: nothing is moved"
    return MassFailureHold(reason, oids)


def _target(node: NodeView, timing: LivenessTiming, now: float) -> NodeStatus:
    if node.goodbye:
        return _N.OFFLINE
    silence = now - node.heard_at
    target = _N.ONLINE
    if silence >= lost_limit(timing, now):
        target = _N.LOST
    elif silence >= late_limit(timing, now) or node.will_at is not None:
        target = _N.LATE
    if node.heard_once:
        return target
    if node.status not in _RANK:
        return node.status
    return max(target, node.status, key=_RANK.__getitem__)


def _why(node: NodeView, status: NodeStatus, timing: LivenessTiming, now: float) -> str:
    silence = now - node.heard_at
    if status is _N.OFFLINE:
        return "it said goodbye" + (_LEAVES[node.leaves] if node.leaves else "")
    if status is _N.ONLINE:
        return "it was heard again" if node.known else "it was heard"
    if status is _N.LATE and silence < late_limit(timing, now):
        return "its connection broke without a goodbye"
    return f"silent for {silence:.0f} s (a heartbeat is due every {timing.heartbeat:g} s)"


def _counts(node: NodeView, status: NodeStatus, hold_nodes: frozenset[str]) -> bool:
    if status not in (_N.LATE, _N.LOST) or not (node.known or node.heard_once):
        return False
    return not node.lost_before or node.oid in hold_nodes


def _together(nodes: Iterable[NodeView], window: float) -> list[NodeView]:
    """The largest set of nodes whose last signs of life are within `window` seconds; of equals the latest."""
    ordered = sorted(nodes, key=lambda node: (node.heard_at, node.name))
    best, first = (0, 0), 0
    for last, node in enumerate(ordered):
        while node.heard_at - ordered[first].heard_at > window:
            first += 1
        if last + 1 - first >= best[1] - best[0]:
            best = (first, last + 1)
    return ordered[best[0] : best[1]]
