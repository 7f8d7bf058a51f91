"""Builds statuses and assignments: reads their rows, renders them, and returns topic and payload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from busbar.bus.decode import encode
from busbar.bus.errors import MessageTooLargeError, MissingRightError
from busbar.bus.messages import Status
from busbar.bus.states import NodeStatus
from busbar.bus.topics import NO_CLUSTER, StatusKind, Topics

from ..planner.acceptance import NodeRefusal, Voter, condition, node_refusals
from ..planner.rolling import max_slots, updating
from ..store import Store
from ..store.reads import Queries
from ..store.rows import GroupRow
from . import render

ObjectKey = tuple[StatusKind, str]
"""An object: its kind and oid."""
TopicPayload = tuple[str, bytes]


def unaccepting(reads: Queries, row: GroupRow, transport: Mapping[str, Any] | None) -> list[NodeRefusal]:
    """The nodes of a group's cluster that do not accept its transport, by the schemas that they reported."""
    bodies = reads.schema_bodies(row.cluster_oid, row.runtime)
    if not node_refusals([Voter(key, body) for key, body in bodies.items()], transport):
        return []  # mostly: without a look at each node
    nodes = reads.member_schemas(row.cluster_oid, row.runtime)
    return node_refusals([Voter(n.node, bodies.get(n.digest or "")) for n in nodes], transport)


def unaccepted_condition(reads: Queries, row: GroupRow, transport: Mapping[str, Any] | None) -> str | None:
    """The condition of a group that not all of its nodes accept."""
    return condition(unaccepting(reads, row, transport))


def placed_workers(reads: Queries, row: GroupRow) -> list[render.PlacedWorker]:
    """Where a group's workers are, if its placement requires labels."""
    return reads.placed(row.oid) if row.placement and row.placement.require else []


class StatusBuilder:
    """Present statuses and assignments; None for an object that has none (any more)."""

    def __init__(self, store: Store, heartbeat_ms: int) -> None:
        self._store = store
        self._reads = store.reads
        self._topics: Topics = store.topics
        self._heartbeat_ms = heartbeat_ms
        self.held_back: dict[str, MessageTooLargeError | MissingRightError] = {}
        """By topic: what the publisher could not send, as it is too large."""

    def stamp(self) -> render.Stamp:
        """Epoch and last sequence, shared by statuses rendered together."""
        return render.Stamp(self._store.epoch, self._reads.sequence())

    def keys(self) -> list[ObjectKey]:
        """Every object that has a status, parents first."""
        reads = self._reads
        found: list[ObjectKey] = [("node", row.oid) for row in reads.nodes()]
        found += [("routercluster", oid) for oid, _ in reads.cluster_keys()]
        found += [("workergroup", row.oid) for row in reads.groups()]
        found += [("worker", row.oid) for row in reads.workers()]
        return found

    def node_oids(self) -> list[str]:
        """Every node that has an assignment, including unpaired ones: theirs is empty."""
        return [row.oid for row in self._reads.nodes()]

    def status(self, key: ObjectKey, stamp: render.Stamp) -> TopicPayload | None:
        """An object's retained status."""
        kind, oid = key
        if kind == "worker":
            return self._worker(oid, stamp)
        if kind == "workergroup":
            return self._group(oid, stamp)
        if kind == "routercluster":
            return self._cluster(oid, stamp)
        return self._node(oid, stamp)

    def assignment(self, node_oid: str) -> TopicPayload | None:
        """A node's whole desired state."""
        node = self._reads.node(node_oid)
        if node is None:
            return None
        store = self._store
        rows = self._reads.assigned(node_oid)
        wanted = render.assignment(node, rows, store.id, store.epoch, self._heartbeat_ms)
        return self._topics.node(node.name, "assignment"), encode(wanted)

    def assigned_node(self, topic: str) -> str | None:
        """The oid of the node whose assignment has this topic; None for another topic."""
        name = topic.rsplit("/", 2)[-2]
        if topic != self._topics.node(name, "assignment"):
            return None
        row = self._reads.node_by_name(name)
        return row.oid if row else None

    def _node(self, oid: str, stamp: render.Stamp) -> TopicPayload | None:
        row = self._reads.node(oid)
        if row is None or row.status is NodeStatus.UNPAIRED:
            return None
        held = self.held_back.get(self._topics.node(row.name, "assignment"))
        return self._publication(NO_CLUSTER, "node", render.node_status(row, stamp, held))

    def _cluster(self, oid: str, stamp: render.Stamp) -> TopicPayload | None:
        reads = self._reads
        found = reads.cluster_with_scale(oid)
        if found is None:
            return None
        row, groups, scale = found
        states = reads.worker_states("cluster_oid", oid) if groups else {}
        not_ready = self._not_ready("cluster_oid", oid, states)
        listening = reads.listening(oid) if groups else []
        status = render.cluster_status(row, scale, states, not_ready, stamp, listening)
        return self._publication(row.name, "routercluster", status)

    def _group(self, oid: str, stamp: render.Stamp) -> TopicPayload | None:
        reads = self._reads
        row = reads.group(oid)
        cluster = reads.cluster(row.cluster_oid) if row else None
        if row is None or cluster is None:
            return None
        states = reads.worker_states("group_oid", oid)
        not_ready = self._not_ready("group_oid", oid, states)
        endpoints = reads.endpoints(oid, render.MAX_ENDPOINTS)
        updated = reads.updated(oid) if updating(row) else None
        # No query where there are no more workers than the scale.
        surplus = reads.surplus(oid, max_slots(row)) if sum(states.values()) > row.scale else 0
        transport = row.transport or cluster.transport
        unaccepted = unaccepted_condition(reads, row, transport)
        meshed = reads.meshed(oid) if row.mesh else []
        placed = placed_workers(reads, row)
        status = render.group_status(
            row,
            cluster.name,
            states,
            not_ready,
            endpoints,
            stamp,
            updated,
            surplus,
            transport,
            unaccepted,
            meshed,
            placed,
        )
        return self._publication(cluster.name, "workergroup", status)

    def _worker(self, oid: str, stamp: render.Stamp) -> TopicPayload | None:
        reads = self._reads
        row = reads.worker(oid)
        group = reads.group(row.group_oid) if row else None
        cluster = reads.cluster(row.cluster_oid) if row else None
        if row is None or group is None or cluster is None:
            return None
        node = reads.node(row.node_oid) if row.node_oid else None
        target = reads.node(row.move.node) if row.move else None
        at, to = (found.name if found else None for found in (node, target))
        status = render.worker_status(row, cluster.name, group.name, at, stamp, to)
        return self._publication(cluster.name, "worker", status)

    def _not_ready(self, member: str, oid: str, states: Mapping[str, int]) -> list[render.NotReadyWorker]:
        """The workers that conditions name; no query where none is in such a state."""
        if render.NOT_READY.isdisjoint(states):
            return []
        return self._reads.not_ready(member, oid, render.MAX_CONDITIONS + 1)

    def _publication(self, cluster: str, kind: StatusKind, status: Status) -> TopicPayload:
        topic = self._topics.status(cluster, kind, status.name)
        payload = encode(status)
        room = self._store.max_packet - len(topic) - render.PACKET_OVERHEAD
        while len(payload) > room and (less := render.shortened(status)) is not None:
            status, payload = less, encode(less)
        return topic, payload
