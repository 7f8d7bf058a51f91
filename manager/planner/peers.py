"""What the workers of meshed groups are told of each other. Pure.

A worker is offered to its peers from the moment its node reports an address of it until its node is silent,
its process is gone, or it is to go. Being told of others starts, stops and restarts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Final

from busbar.bus.messages import Members, Peer, Peers
from busbar.bus.states import ASSIGNED, STARTED, NodeStatus, WorkerState

from . import rolling
from .model import GroupView, NodeView, SetPeers, Snapshot, WorkerView

INTERVAL_S: Final = 1.0
"""A node is told at most once in so many seconds: where many workers start, one message tells of them all."""
MAX_MESH: Final = 64
"""Workers of a meshed group: each has a connection to every other, and each node a list of them all."""
_OFFERED: Final = frozenset({WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF})


def wanted_peers(snapshot: Snapshot) -> dict[str, Peers]:
    """By node (oid): the workers of each meshed group that has one assigned there."""
    found: dict[str, Peers] = {}
    for cluster in snapshot.clusters.values():
        for group in cluster.groups:
            if group.mesh:
                offered = list(_offered(group, snapshot))
                for node_oid in _told(group, ASSIGNED):
                    found.setdefault(node_oid, {})[f"{cluster.name}/{group.name}"] = offered
    return found


def wanted_members(snapshot: Snapshot) -> dict[str, Members]:
    """By node (oid): the workers that each meshed group of a started cluster is to have, if one of the group
    is there, or still on its way out."""
    found: dict[str, Members] = {}
    for cluster in snapshot.clusters.values():
        for group in cluster.groups:
            if group.mesh and cluster.status in STARTED and not group.stop_ordered:
                slots = rolling.slots(group)
                members = [worker.oid for worker in group.workers if worker.ordinal <= slots]
                for node_oid in _told(group, ASSIGNED | {WorkerState.STOPPING}):
                    found.setdefault(node_oid, {})[f"{cluster.name}/{group.name}"] = members
    return found


def plan_peers(snapshot: Snapshot, now: float) -> list[SetPeers]:
    """One action for each node that is online, was told something else, and may be told again.

    Who is a member is told at once: with the assignment that lacks a worker its node has to know whether it
    is gone for good.
    """
    return [
        SetPeers(node.oid, peers, "the workers of a meshed group have changed", members)
        for node, peers, members in _outdated(snapshot)
        if now >= node.peers_at + INTERVAL_S or members != (node.members or {})
    ]


def peers_due(snapshot: Snapshot, now: float) -> float:
    """When the next node may be told; infinity when none waits for that."""
    times = (node.peers_at + INTERVAL_S for node, _, _ in _outdated(snapshot))
    return min((at for at in times if at > now), default=math.inf)


def _outdated(snapshot: Snapshot) -> Iterator[tuple[NodeView, Peers, Members]]:
    every, all_members = wanted_peers(snapshot), wanted_members(snapshot)
    for node in snapshot.nodes.values():
        peers, members = every.get(node.oid, {}), all_members.get(node.oid, {})
        told = (node.peers or {}, node.members or {})
        if node.status is NodeStatus.ONLINE and told != (peers, members):
            yield node, peers, members


def _offered(group: GroupView, snapshot: Snapshot) -> Iterator[Peer]:
    for worker in group.workers:
        node = snapshot.nodes.get(worker.node_oid or "")
        if node is not None and node.status is NodeStatus.ONLINE and _is_offered(worker):
            yield Peer(worker.name, node.name, dict(worker.listeners))


def _is_offered(worker: WorkerView) -> bool:
    return worker.state in _OFFERED and bool(worker.listeners)


def _told(group: GroupView, states: Collection[WorkerState]) -> set[str]:
    return {worker.node_oid for worker in group.workers if worker.node_oid and worker.state in states}
