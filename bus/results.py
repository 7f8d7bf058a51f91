"""Results of every operation, as typed messages: the members of the ancestor, and more. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .messages import Endpoint, MeshSeen, RuntimeDetail, Traffic, Who


class Cluster(Struct, frozen=True):
    """A router cluster. `changed` is nanoseconds since 1970: compare `version` instead."""

    oid: str
    name: str
    label: str | None
    description: str | None
    tags: list[str] | None
    status: str
    owner_oid: str
    changed: int
    version: int
    transport: dict[str, Any] | None = None
    left_out: list[str] | UnsetType = UNSET
    """Members that a brief answer is without, or which are shortened in it."""


class Revision(Struct, frozen=True):
    """What a cluster was to be from `time` on; `changed` names members that differ from the one before."""

    revision: int
    time: str
    caller: str
    operation: str
    request_id: str | None = None
    changed: list[str] = msgspec.field(default_factory=list)


class RevisionDetail(Struct, frozen=True):
    """A revision with its definition, as a cluster in the document of `get_definitions`."""

    revision: int
    time: str
    caller: str
    operation: str
    definition: dict[str, Any]
    request_id: str | None = None


class Accepted(Struct, frozen=True):
    """start and stop: accepted, not done. Watch the status."""

    changed: int
    oid: str
    status: str
    who: Who
    version: int


class Membership(Struct, frozen=True):
    """A node in a cluster; limits are numbers of this cluster's workers there."""

    cluster_oid: str
    node_oid: str
    hardlimit: int | None
    softlimit: int | None


class Group(Struct, frozen=True):
    """A worker group. `lost_after` and `start_deadline` are seconds.

    `revision` counts the definitions of what its workers run; `updated` of them are assigned the present one.
    `refused_by` names the nodes of its cluster whose schema of the runtime refuses its transport.
    """

    changed: int
    cluster_oid: str
    description: str | None
    label: str | None
    name: str
    oid: str
    scale: int
    status: str
    tags: list[str] | None
    runtime: str
    transport: dict[str, Any] | None
    lost_after: float
    start_deadline: float
    version: int
    revision: int = 1
    updated: int = 0
    max_unavailable: int = 1
    max_surge: int = 0
    stop_ordered: bool = False
    """Whether it is to be stopped, or to stay so, whatever its cluster does."""
    mesh: bool = False
    """Whether its workers are told of each other."""
    refused_by: list[str] = msgspec.field(default_factory=list)
    placement: dict[str, Any] | None = None
    """Which nodes may have its workers (`require`, `spread`); null: any node of the cluster."""
    left_out: list[str] | UnsetType = UNSET
    """Members that a brief answer is without, or which are shortened in it."""


class Node(Struct, frozen=True):
    """`heard_ms_ago` is on the manager's clock; null until it was heard since the manager's start.

    `cordoned` says why it takes no new workers, null when it does.
    `draining` why its workers are to go, null when they are not; `drained` that none is left.
    `owner_oid` is who paired it. `runtime_details` are by the runtime's name, as last reported; null: its
    agent knows none.
    """

    oid: str
    name: str
    labels: dict[str, str] | None
    status: str
    changed: int
    version: int
    boot: str | None = None
    runtimes: list[str] = msgspec.field(default_factory=list)
    capacity: dict[str, Any] | None = None
    assignment_version: int = 0
    applied: dict[str, int] | None = None
    workers: int = 0
    conditions: list[str] = msgspec.field(default_factory=list)
    heard_ms_ago: int | None = None
    draining: str | None = None
    cordoned: str | None = None
    drained: bool = False
    owner_oid: str | None = None
    runtime_details: dict[str, RuntimeDetail] | None = None
    left_out: list[str] | UnsetType = UNSET
    """Members that a brief answer is without, or which are shortened in it."""


class Worker(Struct, frozen=True):
    """`cpu_s` is CPU seconds, `rss` bytes, as the agent last reported them for the whole process tree."""

    oid: str
    name: str
    cluster_oid: str
    cluster: str
    workergroup_oid: str
    workergroup: str
    node_oid: str | None
    node: str | None
    state: str
    status: str
    generation: int
    address: str | None
    pid: int | None
    restarts: int
    reason: str | None
    since_ms: int
    uptime_ms: int | None = None
    cpu_s: float | None = None
    rss: int | None = None
    revision: int = 1
    listeners: dict[str, str] = {}
    """The URL of each named listener, the primary's (`address`) included; empty where none has a name."""
    mesh: MeshSeen | None = None
    traffic: Traffic | None = None
    """As last reported; null where its runtime does not tell it."""
    moving_to: str | None = None
    """The node that it was ordered to by a rebalance; null: it stays."""
    left_out: list[str] | UnsetType = UNSET
    """Members that a brief answer is without, or which are shortened in it."""


class GroupStat(Struct, frozen=True):
    """A worker group in the statistics of its cluster."""

    oid: str
    name: str
    status: str
    scale: int
    ready: int
    runtime: str
    revision: int


class Stat(Struct, frozen=True):
    """Status and statistics of a cluster or of one worker group.

    `traffic` has the sums over those workers that tell theirs; null: none does.
    """

    oid: str
    name: str
    status: str
    scale: int
    ready: int
    starting: int
    backoff: int
    pending: int
    unknown: int
    stopping: int
    restarts: int
    cpu_s: float
    rss: int
    since_ms: int
    conditions: list[str]
    endpoints: list[Endpoint]
    workers: list[Worker]
    workergroups: list[GroupStat] = msgspec.field(default_factory=list)
    version: int = 0
    changed: int = 0
    traffic: Traffic | None = None


class ManagerInfo(Struct, frozen=True):
    """The manager as it sees itself. `brake` says why nothing is moved; null when it is off."""

    manager: str
    state: str
    store: str
    epoch: int
    realm: str
    version: str
    uptime_ms: int
    sequence: int
    nodes: dict[str, int]
    clusters: dict[str, int]
    workers: dict[str, int]
    outbox: int
    brake: str | None
    limits: dict[str, int]
    conditions: list[str] = msgspec.field(default_factory=list)
    time: str = ""
    """Its wall clock (RFC 3339)."""
    commit: str | None = None
    """What it was built from; with `-modified` at the end where it runs from a clone that was changed."""


class WorkerRestart(Struct, frozen=True):
    """A worker that is restarted: it is new once it is RUNNING with `generation` or a later one.

    `status` is its present one, `reason` says what it waits for.
    """

    oid: str
    name: str
    cluster_oid: str
    cluster: str
    workergroup_oid: str
    workergroup: str
    node: str | None
    status: str
    generation: int
    reason: str


class Following(Struct, frozen=True):
    """Where a worker's output is published while the lease lasts."""

    worker_oid: str
    node: str
    topic: str
    lease_ms: int


class Principal(Struct, frozen=True):
    """A user of the bus and its role."""

    oid: str
    name: str
    role: str
    changed: int


class Transferred(Struct, frozen=True):
    """The new owner, and how many clusters and nodes it was given."""

    oid: str
    name: str
    clusters: int
    nodes: int


class RemovedPrincipal(Principal, frozen=True):
    """A removed user, and how many clusters and nodes it still owns (see `transfer_principal`)."""

    clusters: int = 0
    nodes: int = 0


class AuditEntry(Struct, frozen=True):
    """Who asked for what, and what came of it: `ok` or an error code.

    A change has its `params` (JSON text, at most 1,024 characters of it) and the oid of its object. Refused
    requests stand for `count` of one caller, operation and error within an hour, the last of them at `last`.
    """

    id: str
    time: str
    caller: str
    operation: str
    outcome: str
    caller_oid: str | None = None
    role: str | None = None
    request_id: str | None = None
    object_oid: str | None = None
    params: str | None = None
    detail: str | None = None
    count: int = 1
    last: str | None = None


class Statement(Struct, frozen=True):
    """One sentence of an explanation. `code` is one of `bus.causes`.

    `event` is the sequence of the event that it is about, `at_ms` when that was (milliseconds since 1970),
    `object` what it is about where that is another object than the explained one.
    """

    code: str
    text: str
    event: str | None = None
    at_ms: int | None = None
    object: str | None = None


class Explanation(Struct, frozen=True):
    """Why an object is as it is: statements from the cause to now, at most 64.

    `object` is its name, with its cluster's where it has one. `well`: none of the statements is a cause.
    """

    kind: str
    object: str
    oid: str | None
    status: str
    well: bool
    time: str
    statements: list[Statement]
