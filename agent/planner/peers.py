"""Which peers each assigned worker is to know. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from busbar.bus.decode import digest
from busbar.bus.messages import Assignment, Peer
from msgspec import UnsetType, to_builtins

PeersOf = Mapping[str, tuple[Peer, ...]]
"""By worker (oid): the other workers of its group; those of groups that are not meshed are missing."""
NONE: Final = ""
"""The digest of no peers, those of a worker alone in its group included."""


def peers_by_worker(assignment: Assignment) -> dict[str, tuple[Peer, ...]]:
    """What an assignment says of the peers of its workers."""
    told = assignment.peers
    if isinstance(told, UnsetType):
        return {}
    return {
        worker.oid: tuple(peer for peer in told[group] if peer.worker != worker.worker)
        for worker in assignment.workers
        if (group := f"{worker.cluster}/{worker.workergroup}") in told
    }


def peers_digest(peers: tuple[Peer, ...]) -> str:
    """Equal for the same peers in any order."""
    return digest(to_builtins(sorted(peers, key=lambda peer: peer.worker))) if peers else NONE
