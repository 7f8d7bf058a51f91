"""What meshed groups' workers are told of each other: at rest, and at every moment (H, K, C)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from busbar.agent.planner.lifecycle import WorkerTiming
from busbar.agent.planner.peers import peers_digest
from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import Peer
from busbar.bus.states import WorkerState

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch
    from tests.simulation.machines import Machine, SimProcess
    from tests.simulation.mirror import Mirror

MESHED = ("c2", "g1")
"""Cluster and name of the groups that are made with `mesh`."""
RELOAD_S = WorkerTiming().peers_every


def expected(mirror: Mirror, group_oid: str) -> list[Peer]:
    """Every worker of the group that runs, by ordinal."""
    rows = sorted(mirror.workers.values(), key=lambda row: row.ordinal)
    mine = (row for row in rows if row.group_oid == group_oid and row.state is WorkerState.RUNNING)
    return [
        Peer(row.name, mirror.nodes[row.node_oid or ""].name, {DEFAULT: row.address or ""}) for row in mine
    ]


def untold(watch: Watch) -> str | None:
    """Who does not know yet what it should, once all run; None when everybody does."""
    mirror = watch.mirror
    for group in mirror.groups.values():
        peers = expected(mirror, group.oid) if group.mesh else []
        for row in mirror.workers.values():
            node = mirror.nodes.get(row.node_oid or "")
            if not group.mesh or row.group_oid != group.oid or node is None:
                continue
            key = f"{mirror.clusters[group.cluster_oid].name}/{group.name}"
            if (node.peers or {}).get(key) != peers:
                return f"{node.name} is told of {(node.peers or {}).get(key)}, not of {peers}"
            agent = watch.world.agents[node.name].agent
            known = agent.supervisor.registry[row.oid].worker.known_peers if agent is not None else None
            if known != peers_digest(tuple(peer for peer in peers if peer.worker != row.name)):
                return f"{row.name} on {node.name} does not know its peers"
    return None


def reloading(watch: Watch, machine: Machine, process: SimProcess) -> None:
    """K: a signal never ends a worker, and an agent sends one a second at most."""
    now, worker = machine.loop.now, process.record.worker
    if now < process.ready_at:
        watch._violation("K", f"{worker} was signalled before it was set up")
    began = watch.world.agents[machine.name].started_at
    since = [at for at in process.reloads if at >= began]
    if since and now - since[-1] < RELOAD_S - 0.001:
        watch._violation("K", f"{worker} was signalled twice within {now - since[-1]:.3f} s")
