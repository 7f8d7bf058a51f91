"""When the next decision falls due that depends on time alone. Pure.

The monitor sleeps until then, so that a node is late at its limit and not at the next pass after it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

from busbar.bus.states import STARTED, ClusterState, NodeStatus

from .failing import TRY_S
from .liveness import late_limit, left_running, lost_limit, move_limit
from .model import ClusterView, GroupView, LivenessTiming, NodeView, Snapshot
from .peers import peers_due
from .rolling import ready_of
from .status import deadline_from

_N = NodeStatus
_GONE = frozenset({_N.LOST, _N.OFFLINE, _N.UNPAIRED})


def next_due(snapshot: Snapshot, now: float) -> float:
    """When a plan that is empty at `now` may have actions again, if nothing is heard meanwhile.

    In seconds on the clock of `now`, and later than it; infinity when no limit is pending. Looks at each node
    once, and at workers only in groups with a limit of their own still pending.
    """
    nodes, timing = snapshot.nodes.values(), snapshot.timing
    late, lost = late_limit(timing, now), lost_limit(timing, now)
    online = (node.heard_at for node in nodes if node.status is _N.ONLINE)
    others = (node.heard_at for node in nodes if node.status not in (_N.ONLINE, _N.LOST))
    soonest = min(
        _limit(online, now - late, timing.late_after, timing),
        _limit(others, now - lost, timing.lost_after, timing),
        min((at for at in _left(nodes, timing) if at > now), default=math.inf),
        min((at for at in snapshot.avoided.values() if at > now), default=math.inf),
        peers_due(snapshot, now),
    )
    silent = {node.oid: node for node in nodes if node.status in _GONE}
    for cluster in snapshot.clusters.values():
        if cluster.status in STARTED:
            soonest = min(soonest, min(_of_cluster(cluster, nodes, silent, timing, now), default=math.inf))
    return soonest


def _left(nodes: Iterable[NodeView], timing: LivenessTiming) -> Iterator[float]:
    """When nodes whose agents left workers running are given up."""
    return (node.heard_at + timing.offline_after for node in nodes if left_running(node))


def _limit(heard: Iterable[float], passed: float, intervals: int, timing: LivenessTiming) -> float:
    """When the first node reaches so many intervals of silence, of those that have not reached them yet."""
    oldest = min((at for at in heard if at > passed), default=math.inf)
    plain = intervals * timing.heartbeat
    doubled = oldest + 2 * plain
    return doubled if doubled < timing.grace_until else max(oldest + plain, timing.grace_until)


def _of_cluster(
    cluster: ClusterView,
    nodes: Collection[NodeView],
    silent: dict[str, NodeView],
    timing: LivenessTiming,
    now: float,
) -> Iterator[float]:
    refusing = [node.refuses_since for node in nodes if node.refuses_since is not None]
    members = {member.node_oid for member in cluster.members}
    for group in cluster.groups:
        if group.stop_ordered:
            continue
        deadline = deadline_from(group) + group.start_deadline
        if deadline > now and group.status is not ClusterState.ERROR and ready_of(group) == 0:
            yield deadline
        limits = (since + max(group.lost_after, lost_limit(timing, now)) for since in refusing)
        yield from (at for at in limits if at > now)
        tried = (w.failing_since + TRY_S for w in group.workers if w.failing_since is not None)
        yield from (at for at in tried if at > now)
        yield from _moves(group, silent, members, timing, now)


def _moves(
    group: GroupView, silent: dict[str, NodeView], members: set[str], timing: LivenessTiming, now: float
) -> Iterator[float]:
    """When workers of silent nodes may be evicted."""
    limits = {
        oid: node.heard_at + move_limit(node, group.lost_after, timing, member=oid in members)
        for oid, node in silent.items()
    }
    waiting = {oid: at for oid, at in limits.items() if at > now}
    if waiting:
        yield from (waiting[worker.node_oid] for worker in group.workers if worker.node_oid in waiting)
