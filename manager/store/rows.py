"""One frozen struct per table, its fields in the order of the columns read. Pure.

They hold plain values only, never each other: the collector of cycles need not look at them.
"""

from __future__ import annotations

from typing import Any

from busbar.bus.states import ClusterState, NodeStatus, WorkerState
from msgspec import Struct


class NodeRow(Struct, frozen=True, gc=False):
    """A paired (or once paired) node, as the manager judges it and as it last reported itself.

    `draining` says why its workers are to leave (None: they are not), `drain_note` how far that is.
    """

    oid: str
    name: str
    labels: dict[str, str] | None
    status: NodeStatus
    reason: str | None
    boot: str | None
    conn: int | None
    goodbye: bool
    runtimes: list[str]
    capacity: dict[str, Any] | None
    conditions: list[str]
    assignment_version: int
    applied_epoch: int
    applied_version: int
    changed: int
    version: int
    assignment_epoch: int = 0
    """The least epoch of its assignment: above that of a forged one which its agent had taken over."""
    draining: str | None = None
    drain_note: str | None = None


class ClusterRow(Struct, frozen=True, gc=False):
    """A router cluster. `who` and `request_id` are those of the last start or stop."""

    oid: str
    name: str
    label: str | None
    description: str | None
    tags: list[str] | None
    transport: dict[str, Any] | None
    owner_oid: str
    status: ClusterState
    reason: str | None
    was_running: bool
    who: dict[str, str] | None
    request_id: str | None
    changed: int
    version: int


class MemberRow(Struct, frozen=True, gc=False):
    """A node's membership in a cluster."""

    cluster_oid: str
    node_oid: str
    hardlimit: int | None
    softlimit: int | None
    changed: int


class GroupRow(Struct, frozen=True, gc=False):
    """A worker group. `lost_after` and `start_deadline` are seconds.

    `settled` is the last revision that all its workers have been ready with; `held_back` says why no more of
    them can be replaced.
    """

    oid: str
    cluster_oid: str
    name: str
    label: str | None
    description: str | None
    tags: list[str] | None
    transport: dict[str, Any] | None
    scale: int
    runtime: str
    lost_after: float
    start_deadline: float
    status: ClusterState
    reason: str | None
    was_running: bool
    changed: int
    version: int
    revision: int = 1
    settled: int = 1
    max_unavailable: int = 1
    max_surge: int = 0
    held_back: str | None = None


class WorkerRow(Struct, frozen=True, gc=False):
    """A numbered slot of a group. It stands in its node's assignment while `unassigned_version` is None;
    otherwise that is the first assignment version that no longer holds it. `revision` is that of its group
    when it was last placed or replaced."""

    oid: str
    group_oid: str
    cluster_oid: str
    name: str
    ordinal: int
    state: WorkerState
    reason: str | None
    node_oid: str | None
    last_node_oid: str | None
    generation: int
    unassigned_version: int | None
    address: str | None
    pid: int | None
    restarts: int
    changed: int
    version: int
    revision: int = 1


class PrincipalRow(Struct, frozen=True, gc=False):
    """A user of the bus and its role: owner, operator or viewer."""

    oid: str
    name: str
    role: str
    changed: int


class OutboxRow(Struct, frozen=True, gc=False):
    """A message that the broker has not acknowledged. `properties` is JSON (see `bus.connection.link`)."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    properties: str | None = None


class AssignedRow(Struct, frozen=True, gc=False):
    """A worker as its node's assignment holds it."""

    worker: str
    oid: str
    cluster: str
    workergroup: str
    generation: int
    runtime: str
    transport: dict[str, Any] | None


class RevisionRow(Struct, frozen=True, gc=False):
    """What the workers of one revision of a group run; the transport is resolved."""

    group_oid: str
    revision: int
    runtime: str
    transport: dict[str, Any] | None


class SeenRow(Struct, frozen=True, gc=False):
    """A request that was answered before."""

    digest: str
    reply: bytes
