"""The committed rows, read anew after each commit."""

from __future__ import annotations

from typing import Any

from busbar.manager.store.changes import Changes
from busbar.manager.store.rows import WorkerRow


class Mirror:
    """What the store holds."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self.clusters: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}
        self.workers: dict[str, WorkerRow] = {}
        self.members: set[tuple[str, str]] = set()
        self.by_name: dict[str, Any] = {}

    def load(self, reads: Any) -> None:
        self.nodes = {row.oid: row for row in reads.nodes()}
        self.clusters = {row.oid: row for row in reads.clusters()}
        self.groups = {row.oid: row for row in reads.groups()}
        self.workers = {row.oid: row for row in reads.workers()}
        self._finish(reads)

    def update(self, reads: Any, changes: Changes) -> None:
        _refresh(self.nodes, changes.nodes | changes.assignments, reads.node)
        _refresh(self.clusters, changes.clusters, reads.cluster)
        _refresh(self.groups, changes.groups, reads.group)
        _refresh(self.workers, changes.workers, reads.worker)
        if changes.nodes or changes.clusters or changes.assignments:
            self._finish(reads)

    def _finish(self, reads: Any) -> None:
        self.members = {(row.cluster_oid, row.node_oid) for row in reads.all_members()}
        self.by_name = {row.name: row for row in self.nodes.values()}

    def assigned(self, node_name: str) -> dict[str, int]:
        """oid to generation of what a node is to run."""
        node = self.by_name.get(node_name)
        if node is None:
            return {}
        return {
            row.oid: row.generation
            for row in self.workers.values()
            if row.node_oid == node.oid and row.unassigned_version is None
        }


def _refresh(rows: dict[str, Any], oids: set[str], read: Any) -> None:
    for oid in oids:
        row = read(oid)
        if row is None:
            rows.pop(oid, None)
        else:
            rows[oid] = row
