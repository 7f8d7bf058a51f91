"""Parameters of every operation, as typed messages that refuse unknown members; its results too. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .messages import Count, Name
from .placement import MAX_LABELS, Value
from .placement import Placement as Placement
from .plans import Applied as Applied
from .plans import OperationPlan as OperationPlan
from .plans import Plan as Plan
from .plans import Rebalanced as Rebalanced
from .plans import RebalancePlan as RebalancePlan
from .results import Accepted as Accepted
from .results import AuditEntry as AuditEntry
from .results import Cluster as Cluster
from .results import Explanation as Explanation
from .results import Following as Following
from .results import Group as Group
from .results import GroupStat as GroupStat
from .results import ManagerInfo as ManagerInfo
from .results import Membership as Membership
from .results import Node as Node
from .results import Principal as Principal
from .results import RemovedPrincipal as RemovedPrincipal
from .results import Revision as Revision
from .results import RevisionDetail as RevisionDetail
from .results import Stat as Stat
from .results import Statement as Statement
from .results import Transferred as Transferred
from .results import Worker as Worker
from .results import WorkerRestart as WorkerRestart
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
Age = Annotated[int, Meta(ge=0, le=100 * 365 * 86_400_000)]
"""Milliseconds before now, on the manager's clock."""
Fence = Annotated[dict[Annotated[str, Meta(max_length=256)], Count], Meta(max_length=5000)]
"""By pointer the version of an object, 0 where there is none."""
EventNumber = Count | Annotated[str, Meta(pattern=r"^[0-9]{1,16}(?![\s\S])")]
PageSize = Annotated[int, Meta(ge=1, le=10_000)] | None
Entry = Annotated[str, Meta(max_length=128)] | None
"""A page of a list: at most `limit` entries, those behind the entry `after` of the page before."""
Brief = Annotated[bool, Meta(description="without what is large, which left_out of the result names")]
ClusterStatus = Literal["STOPPED", "STARTING", "RUNNING", "DEGRADED", "PAUSED", "ERROR", "STOPPING"]
WorkerStatus = Literal["PENDING", "STARTING", "RUNNING", "BACKOFF", "UNKNOWN", "STOPPING", "STOPPED"]
ExplainedKind = Literal["routercluster", "workergroup", "worker", "node", "request"]
NodeStatusName = Literal["online", "late", "lost", "offline", "unpaired"]
Labels = Annotated[dict[Name, Value], Meta(max_length=MAX_LABELS)]


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
    mesh: bool | None = None
    """Whether its workers are told of each other; left out: as its runtime is meant to be."""
    placement: Placement | None = None
    """Which nodes may have its workers; left out: any node of the cluster."""


class ClusterUpdate(Params):
    """What is left out stays as it is; null takes it away."""

    transport: dict[str, Any] | None | UnsetType = UNSET
    label: Label | None | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    tags: Tags | None | UnsetType = UNSET


class GroupUpdate(Params):
    """What is left out stays as it is; null takes it away (the transport is then that of the cluster)."""

    runtime: Name | UnsetType = UNSET
    transport: dict[str, Any] | None | UnsetType = UNSET
    label: Label | None | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    tags: Tags | None | UnsetType = UNSET
    lost_after: Seconds | UnsetType = UNSET
    start_deadline: Deadline | UnsetType = UNSET
    mesh: bool | UnsetType = UNSET
    placement: Placement | None | UnsetType = UNSET


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
    """`limit` and `after` (an oid) page the workers and, behind a group's oid, the groups; the figures count
    all of them. No more conditions than `limit` are told."""

    limit: PageSize = None
    after: Entry = None


class ListRevisions(ClusterRef):
    """`after`: the number of the last entry of the page before; the newest come first."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: Annotated[int, Meta(ge=1, le=2**53)] | None = None


class RevisionRef(ClusterRef):
    """One revision of a cluster."""

    revision: Annotated[int, Meta(ge=1, le=2**53)]


class GetCluster(ClusterRef):
    brief: Brief = False


class ClusterByName(Params):
    routercluster_name: Name
    brief: Brief = False


class CreateCluster(Params):
    routercluster: ClusterDefinition


class UpdateCluster(Params):
    """The limits hold for each group that the new transport renews, as those of `UpdateGroup`."""

    routercluster_oid: Oid
    routercluster: ClusterUpdate
    max_unavailable: Limit | None = None
    max_surge: Limit | None = None


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


class GetGroup(GroupRef):
    brief: Brief = False


class StatGroup(GroupRef):
    """`limit` and `after` (an oid) page the workers; the figures count all of them. No more conditions
    than `limit` are told."""

    limit: PageSize = None
    after: Entry = None


class ScaleGroup(Params):
    routercluster_oid: Oid
    workergroup_oid: Oid
    scale: Scale


class RestartGroup(GroupRef):
    """The limits are those of an update."""

    max_unavailable: Limit | None = None
    max_surge: Limit | None = None


class RestartWorker(GroupRef):
    """One worker of that group."""

    worker_oid: Oid


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
    brief: Brief = False


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


class GetNode(NodeRef):
    brief: Brief = False


class UnpairNode(NodeRef):
    keep_account: bool = False
    """Leave the node its account at the embedded broker, so that it can come back and learn of it."""


class DrainNode(Params):
    """`reason` is for people: it stands in the node's status while it is drained."""

    node_oid: Oid
    reason: Label | None = None


class CordonNode(Params):
    """`reason` is for people: it stands in the node's status while it is cordoned."""

    node_oid: Oid
    reason: Label | None = None


class LabelNode(Params):
    """Labels to be set, by name; null takes one away, and what is left out stays as it is."""

    node_oid: Oid
    labels: Annotated[dict[Name, Value | None], Meta(min_length=1, max_length=MAX_LABELS)]


class NodeByName(Params):
    node_name: Name
    brief: Brief = False


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


class GetWorker(WorkerRef):
    brief: Brief = False


class FollowWorker(Params):
    """`lines` of past output to begin with; the node publishes new output for `lease_ms` milliseconds.

    `since_ms`: of the past lines only those written within so many milliseconds. `reader`, a name of the
    caller's choice, marks the chunk that answers, also where the log is being followed already.
    """

    worker_oid: Oid
    lines: Annotated[int, Meta(ge=0, le=10_000)] = 100
    since_ms: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    reader: Name | None = None
    lease_ms: Annotated[int, Meta(ge=1000, le=600_000)] = 30_000


class GetEvents(Params):
    """`since` and `before` are sequences (numbers or their text form), both excluded; `limit` counts events.

    `types`: such as `worker_failed`. `object`: a cluster with all that is in it, or a node, a principal or a
    manager (`edge`); a worker group or a worker (`edge/web-1`); or an oid. `within_ms`: not older than that.
    `last`: the last of those that match, instead of the first; oldest first all the same.
    """

    since: EventNumber = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    types: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=64)] | None = (
        None
    )
    object: Annotated[str, Meta(min_length=1, max_length=160)] | None = None
    within_ms: Age | None = None
    before: EventNumber | None = None
    last: bool = False


class Explain(Params):
    """`object` is a cluster or a node (`edge`), a worker group or a worker (`edge/web-3`), by name or oid, or
    the id of a request; `kind` says which where a name could be several."""

    object: Annotated[str, Meta(min_length=1, max_length=160)]
    kind: ExplainedKind | None = None


class GetDefinitions(Params):
    """`clusters`: names; left out, the whole realm with its principals."""

    clusters: Annotated[list[Name], Meta(min_length=1, max_length=1000)] | None = None


class PlanChanges(Params):
    """`desired` is a document (`bus.routers.definitions`). `prune`: also delete what its `owner` has created
    and the document no longer names; `stop`: what of it is not stopped is told to, instead of being
    refused."""

    desired: dict[str, Any]
    prune: bool = False
    stop: bool = False


class ApplyChanges(Params):
    """As `plan_changes`. `fence` is that of the plan: by pointer the version of each object, 0 where there
    is none."""

    desired: dict[str, Any]
    fence: Fence
    prune: bool = False
    stop: bool = False


class PlanOperation(Params):
    """`operation`: a change of one cluster, worker group, worker or node; `params`: its own parameters.
    `expect_version`: the precondition that it would be asked with."""

    operation: Annotated[str, Meta(max_length=64)]
    params: dict[str, Any]
    expect_version: Count | None = None


class PlanRebalance(Params):
    """Of one cluster, or one worker group in it; left out: of all clusters that the caller may change."""

    routercluster_oid: Oid | None = None
    workergroup_oid: Oid | None = None


class ApplyRebalance(Params):
    """`moves`: by worker the node (oids) that it is to be on, in the order of the plan. `fence` is that of
    the plan, or as much of it as these moves need."""

    moves: Annotated[dict[Oid, Oid], Meta(min_length=1, max_length=1000)]
    fence: Fence


class ListAudit(Params):
    """`refused`: the refused requests instead of the changes. `after`: the `id` of the last entry of the page
    before; the newest come first. All filters given must hold; `within_ms`: not older than that, of folded
    refusals the last."""

    refused: bool = False
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, Meta(pattern=r"^[0-9]{1,18}(?![\s\S])")] | None = None
    caller: Annotated[str, Meta(max_length=64)] | None = None
    operation: Annotated[str, Meta(max_length=64)] | None = None
    within_ms: Age | None = None


class PrincipalDefinition(Params):
    name: Name
    role: Role


class AddPrincipal(Params):
    """`reuse`: give a name again that a removed principal or an unpaired node had. The new one owns and
    inherits nothing of it, and its changes must name their `principal`."""

    principal: PrincipalDefinition
    reuse: bool = False


class PrincipalByName(Params):
    principal_name: Name


class SetRole(Params):
    principal_name: Name
    role: Role


class TransferPrincipal(Params):
    """Hands to `principal_name` what exactly one of the others names: everything of a principal by its name
    (a removed one, when none has it now) or by its oid, or one cluster, or one node."""

    principal_name: Name
    from_name: Name | None = None
    from_oid: Oid | None = None
    routercluster_oid: Oid | None = None
    node_oid: Oid | None = None
