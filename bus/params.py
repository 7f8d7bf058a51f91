"""Parameters and results of every operation, as typed messages. Pure.

Parameters refuse unknown members. Results carry the ancestor's members and may have more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .messages import Count, Endpoint, Name, Who
from .roles import Role

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![\s\S])"
Oid = Annotated[str, Meta(pattern=UUID_PATTERN, description="object id: a UUID in lower case")]
Label = Annotated[str, Meta(max_length=256)]
Description = Annotated[str, Meta(max_length=4096)]
Tag = Annotated[str, Meta(min_length=1, max_length=64)]
Tags = Annotated[list[Tag], Meta(max_length=64)]
Scale = Annotated[int, Meta(ge=0, le=10_000)]
Limit = Annotated[int, Meta(ge=0, le=10_000)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Deadline = Annotated[float, Meta(gt=0, le=86_400)]
PageSize = Annotated[int, Meta(ge=1, le=10_000)] | None
Entry = Annotated[str, Meta(max_length=128)] | None
"""A page of a list: at most `limit` entries, those behind the entry `after` of the page before."""
ClusterStatus = Literal["STOPPED", "STARTING", "RUNNING", "DEGRADED", "PAUSED", "ERROR", "STOPPING"]
WorkerStatus = Literal["PENDING", "STARTING", "RUNNING", "BACKOFF", "UNKNOWN", "STOPPING", "STOPPED"]
NodeStatusName = Literal["online", "late", "lost", "offline", "unpaired"]
Labels = Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=64)]


class Params(Struct, forbid_unknown_fields=True):
    """Base of all parameters: strict."""


# --- definitions inside parameters -------------------------------------------------------------------------


class ClusterDefinition(Params):
    """What a new cluster is to be."""

    name: Name
    label: Label | None = None
    description: Description | None = None
    tags: Tags | None = None
    transport: dict[str, Any] | None = None


class GroupDefinition(Params):
    """`lost_after` and `start_deadline` are seconds; `runtime` follows from the transport when left out."""

    scale: Scale
    name: Name | None = None
    runtime: Name | None = None
    transport: dict[str, Any] | None = None
    label: Label | None = None
    description: Description | None = None
    tags: Tags | None = None
    lost_after: Seconds | None = None
    start_deadline: Deadline | None = None


class GroupUpdate(Params):
    """What is left out stays as it is; null takes it away (the transport is then that of the cluster)."""

    runtime: Name | UnsetType = UNSET
    transport: dict[str, Any] | None | UnsetType = UNSET
    label: Label | None | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    tags: Tags | None | UnsetType = UNSET
    lost_after: Seconds | UnsetType = UNSET
    start_deadline: Deadline | UnsetType = UNSET


class MembershipConfig(Params):
    """Limits are numbers of workers of this cluster on this node."""

    hardlimit: Limit | None = None
    softlimit: Limit | None = None


class NodeDefinition(Params):
    """A node to be paired."""

    name: Name
    labels: Labels | None = None


# --- parameters --------------------------------------------------------------------------------------------


class NoParams(Params):
    pass


class ListClusters(Params):
    return_names: bool | None = None
    limit: PageSize = None
    after: Entry = None


class ListPrincipals(Params):
    limit: PageSize = None
    after: Entry = None


class ClusterRef(Params):
    routercluster_oid: Oid


class StatCluster(ClusterRef):
    """`limit` and `after` (an oid) page the workers; the figures count all of them. No more conditions
    than `limit` are told."""

    limit: PageSize = None
    after: Entry = None


class ClusterByName(Params):
    routercluster_name: Name


class CreateCluster(Params):
    routercluster: ClusterDefinition


class AddNode(Params):
    routercluster_oid: Oid
    node_oid: Oid
    config: MembershipConfig | None = None


class MembershipRef(Params):
    routercluster_oid: Oid
    node_oid: Oid


class ListMembers(Params):
    routercluster_oid: Oid
    return_names: bool | None = None
    filter_by_status: NodeStatusName | None = None
    limit: PageSize = None
    after: Entry = None


class AddGroup(Params):
    routercluster_oid: Oid
    workergroup: GroupDefinition


class GroupRef(Params):
    routercluster_oid: Oid
    workergroup_oid: Oid


class StatGroup(GroupRef):
    """`limit` and `after` (an oid) page the workers; the figures count all of them. No more conditions
    than `limit` are told."""

    limit: PageSize = None
    after: Entry = None


class ScaleGroup(Params):
    routercluster_oid: Oid
    workergroup_oid: Oid
    scale: Scale


class UpdateGroup(Params):
    """At most `max_unavailable` workers below the scale are ready, at most `max_surge` above it are there.

    Left out, they are 1 and 0 where what the workers run changes, and stay as they are otherwise.
    """

    routercluster_oid: Oid
    workergroup_oid: Oid
    workergroup: GroupUpdate
    max_unavailable: Limit | None = None
    max_surge: Limit | None = None


class GroupByName(Params):
    routercluster_name: Name
    workergroup_name: Name


class ListGroups(Params):
    routercluster_oid: Oid
    return_names: bool | None = None
    filter_by_status: ClusterStatus | None = None
    limit: PageSize = None
    after: Entry = None


class ListNodes(Params):
    return_names: bool | None = None
    filter_by_status: NodeStatusName | None = None
    limit: PageSize = None
    after: Entry = None


class NodeRef(Params):
    node_oid: Oid


class UnpairNode(NodeRef):
    keep_account: bool = False
    """Leave the node its account at the embedded broker, so that it can come back and learn of it."""


class DrainNode(Params):
    """`reason` is for people: it stands in the node's status while it is drained."""

    node_oid: Oid
    reason: Label | None = None


class NodeByName(Params):
    node_name: Name


class PairNode(Params):
    node: NodeDefinition


class ListWorkers(Params):
    """All filters given must hold."""

    routercluster_oid: Oid | None = None
    workergroup_oid: Oid | None = None
    node_oid: Oid | None = None
    return_names: bool | None = None
    filter_by_status: WorkerStatus | None = None
    limit: PageSize = None
    after: Entry = None


class WorkerRef(Params):
    worker_oid: Oid


class FollowWorker(Params):
    """`lines` of past output to begin with; the node publishes new output for `lease_ms` milliseconds."""

    worker_oid: Oid
    lines: Annotated[int, Meta(ge=0, le=10_000)] = 100
    lease_ms: Annotated[int, Meta(ge=1000, le=600_000)] = 30_000


class GetEvents(Params):
    """`since` is a sequence (number or its text form), excluded; `limit` counts events."""

    since: Count | Annotated[str, Meta(pattern=r"^[0-9]{1,16}(?![\s\S])")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class PrincipalDefinition(Params):
    name: Name
    role: Role


class AddPrincipal(Params):
    principal: PrincipalDefinition


class PrincipalByName(Params):
    principal_name: Name


class SetRole(Params):
    principal_name: Name
    role: Role


# --- results -----------------------------------------------------------------------------------------------


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


class Node(Struct, frozen=True):
    """`heard_ms_ago` is on the manager's clock; null until it was heard since the manager's start.

    `draining` says why its workers are to go, null when they are not; `drained` that none is left.
    `owner_oid` is who paired it.
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
    drained: bool = False
    owner_oid: str | None = None


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
    """Status and statistics of a cluster or of one worker group."""

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
