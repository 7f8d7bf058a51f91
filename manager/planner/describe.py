"""Actions as log lines: what was done to which object, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from . import model as m

_DONE: Final[dict[type[m.Action], str]] = {
    m.DropWorker: "slot closed",
    m.MarkPending: "PENDING",
    m.Unassign: "told to stop",
    m.Relocate: "told to stop, to be tried elsewhere",
    m.CancelMove: "not to be moved any more",
    m.Evict: "given up on its node, to be placed again",
    m.Explain: "not started yet",
    m.MarkUnknown: "UNKNOWN",
    m.MarkStopped: "taken for STOPPED",
    m.Replace: "replaced",
}


class Describer:
    """Describes the actions of one snapshot; names are looked up only once there are actions."""

    def __init__(self, snapshot: m.Snapshot) -> None:
        self._snapshot = snapshot
        self._names: dict[str, str] | None = None

    def lines(self, actions: Iterable[m.Action]) -> list[str]:
        """One line per action."""
        return [f"{self._what(action)}: {action.reason or 'it is over'}" for action in actions]

    def _what(self, action: m.Action) -> str:
        match action:
            case m.SetNode():
                return f"node {self._name(action.node_oid)}: {action.status}"
            case m.SetPeers():
                return f"node {self._name(action.node_oid)}: told of peers"
            case m.NoteDrain():
                return f"node {self._name(action.node_oid)}: drain"
            case m.CreateWorker():
                where = f"placed on {self._name(action.node_oid)}" if action.node_oid else "PENDING"
                return f"worker {self._name(action.group_oid)}-{action.ordinal}: {where}"
            case m.Place():
                return f"worker {self._name(action.worker_oid)}: placed on {self._name(action.node_oid)}"
            case m.BlockRollout():
                what = "goes on" if action.why is None else "held back"
                return f"group {self._name(action.group_oid)}: update {what}"
            case m.CompleteRollout():
                return f"group {self._name(action.group_oid)}: update complete"
            case m.SetGroup():
                return f"group {self._name(action.group_oid)}: {action.status}"
            case m.SetCluster():
                return f"cluster {self._name(action.cluster_oid)}: {action.status}"
            case m.MassFailureHold():
                return "mass failure hold"
            case _:
                return f"worker {self._name(action.worker_oid)}: {_DONE[type(action)]}"

    def _name(self, oid: str) -> str:
        if self._names is None:
            self._names = self._all_names()
        return self._names.get(oid, oid)

    def _all_names(self) -> dict[str, str]:
        names = {oid: node.name for oid, node in self._snapshot.nodes.items()}
        for cluster in self._snapshot.clusters.values():
            names[cluster.oid] = cluster.name
            for group in cluster.groups:
                names[group.oid] = f"{cluster.name}/{group.name}"
                names |= {worker.oid: f"{cluster.name}/{worker.name}" for worker in group.workers}
        return names
