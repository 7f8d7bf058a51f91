"""The table of operations: one row each, read by validation, dispatch, command line and reference page. Pure.

A new operation is one row here and one handler in `manager/api/operations`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from . import params as p
from .messages import Event
from .roles import CHANGE_ROLES, OWNER_ROLES, READ_ROLES

Owned = Literal["cluster", "node"]


class Operation(Struct, frozen=True):
    """One row of the contract.

    `roles` may call it. What `owned` names, the cluster of `routercluster_oid` or the node of `node_oid`,
    must belong to the caller too, unless its role is OWNER. `errors` come on top of those that any operation
    can answer with.
    """

    name: str
    params: type[p.Params]
    result: Any
    help: str
    errors: tuple[str, ...] = ()
    change: bool = False
    roles: frozenset[str] = READ_ROLES
    owned: Owned | None = None
    heavy: bool = False
    """Whether it takes as long as many others: callers are limited accordingly."""
    planned_by: str | None = None
    """Of a change: the operation that says beforehand what it would do; None where none can."""

    @property
    def pages(self) -> bool:
        """Whether its result is read in pages: it takes `limit`."""
        return "limit" in self.params.__struct_fields__


COMMON_ERRORS: Final = (
    "malformed_request",
    "invalid_argument",
    "no_such_principal",
    "not_authorized",
    "expired",
    "payload_too_large",
    "busy",
    "internal",
)
"""Any operation may answer with these."""
CHANGE_ERRORS: Final = ("request_id_reused", "version_conflict")
"""And any change with these."""
_OF_CHANGES: Final = (
    "no_such_object", "invalid_configuration", "already_exists", "quota_exceeded", "not_stopped",
    "cannot_start", "cannot_stop",
)  # fmt: skip
"""What changes of clusters, groups, workers and nodes answer with."""
PLANNER: Final = "plan_operation"
"""Plans the changes of single clusters, worker groups, workers and nodes."""


def _read(name: str, params: type[p.Params], result: Any, help: str, *errors: str) -> Operation:
    return Operation(name, params, result, help, errors)


def _change(
    name: str,
    params: type[p.Params],
    result: Any,
    help: str,
    *errors: str,
    owned: Owned | None = "cluster",
    planned_by: str | None = PLANNER,
) -> Operation:
    return Operation(name, params, result, help, errors, True, CHANGE_ROLES, owned, planned_by=planned_by)


def _admin(
    name: str,
    params: type[p.Params],
    result: Any,
    help: str,
    *errors: str,
    planned_by: str | None = None,
) -> Operation:
    return Operation(name, params, result, help, errors, True, OWNER_ROLES, planned_by=planned_by)


_ROWS = (
    _read("list_routerclusters", p.ListClusters, list[str], "List the router clusters."),
    _read("get_routercluster", p.GetCluster, p.Cluster, "Return a cluster by its oid.", "no_such_object"),
    _read(
        "get_routercluster_by_name",
        p.ClusterByName,
        p.Cluster,
        "Return a cluster by its name.",
        "no_such_object",
    ),
    _change(
        "create_routercluster",
        p.CreateCluster,
        p.Cluster,
        "Create a router cluster, stopped, owned by the caller.",
        "invalid_configuration",
        "already_exists",
        "quota_exceeded",
        owned=None,
    ),
    _change(
        "update_routercluster",
        p.UpdateCluster,
        p.Cluster,
        "Change a cluster; a new transport is rolled out to the groups that have none of their own.",
        "no_such_object",
        "invalid_configuration",
    ),
    _change(
        "delete_routercluster",
        p.ClusterRef,
        p.Cluster,
        "Delete a stopped cluster, its groups and its memberships.",
        "no_such_object",
        "not_stopped",
    ),
    _change(
        "start_routercluster",
        p.ClusterRef,
        p.Accepted,
        "Start a stopped or paused cluster.",
        "no_such_object",
        "cannot_start",
        "invalid_configuration",
    ),
    _change(
        "stop_routercluster",
        p.ClusterRef,
        p.Accepted,
        "Stop a started cluster.",
        "no_such_object",
        "cannot_stop",
    ),
    _read(
        "stat_routercluster",
        p.StatCluster,
        p.Stat,
        "Return a cluster's status and statistics.",
        "no_such_object",
    ),
    _read(
        "list_routercluster_revisions",
        p.ListRevisions,
        list[p.Revision],
        "List what a cluster was to be, revision by revision, with who and when.",
        "no_such_object",
    ),
    _read(
        "get_routercluster_revision",
        p.RevisionRef,
        p.RevisionDetail,
        "Return one revision of a cluster with its definition.",
        "no_such_object",
    ),
    Operation(
        "plan_routercluster_rollback",
        p.RevisionRef,
        p.Plan,
        "Say what a rollback of a cluster would change, and which workers it touches; changes nothing.",
        ("no_such_object",),
        roles=CHANGE_ROLES,
        heavy=True,
    ),
    _change(
        "rollback_routercluster",
        p.RevisionRef,
        p.Applied,
        "Make a cluster what it was to be at a revision: all of it, or nothing; it rolls like an update.",
        "no_such_object",
        "invalid_configuration",
        "quota_exceeded",
        "not_stopped",
        planned_by="plan_routercluster_rollback",
    ),
    _change(
        "add_routercluster_node",
        p.AddNode,
        p.Membership,
        "Add a node to a cluster.",
        "no_such_object",
        "invalid_configuration",
        "already_exists",
    ),
    _change(
        "remove_routercluster_node",
        p.MembershipRef,
        p.Membership,
        "Remove a node from a cluster; its workers move.",
        "no_such_object",
    ),
    _read(
        "get_routercluster_node",
        p.MembershipRef,
        p.Membership,
        "Return a node's membership in a cluster.",
        "no_such_object",
    ),
    _read(
        "list_routercluster_nodes", p.ListMembers, list[str], "List the nodes of a cluster.", "no_such_object"
    ),
    _change(
        "add_routercluster_workergroup",
        p.AddGroup,
        p.Group,
        "Add a group of identical workers to a cluster.",
        "no_such_object",
        "invalid_configuration",
        "already_exists",
        "quota_exceeded",
    ),
    _change(
        "remove_routercluster_workergroup",
        p.GroupRef,
        p.Group,
        "Remove a stopped worker group.",
        "no_such_object",
        "not_stopped",
    ),
    _read(
        "get_routercluster_workergroup",
        p.GetGroup,
        p.Group,
        "Return a worker group by its oid.",
        "no_such_object",
    ),
    _read(
        "get_routercluster_workergroup_by_name",
        p.GroupByName,
        p.Group,
        "Return a worker group by its name.",
        "no_such_object",
    ),
    _read(
        "list_routercluster_workergroups",
        p.ListGroups,
        list[str],
        "List the worker groups of a cluster.",
        "no_such_object",
    ),
    _read(
        "stat_routercluster_workergroup",
        p.StatGroup,
        p.Stat,
        "Return a worker group's status and statistics.",
        "no_such_object",
    ),
    _change(
        "scale_routercluster_workergroup",
        p.ScaleGroup,
        p.Group,
        "Change the number of workers of a group.",
        "no_such_object",
        "invalid_configuration",
    ),
    _change(
        "update_routercluster_workergroup",
        p.UpdateGroup,
        p.Group,
        "Change what a group's workers run: a rolling update.",
        "no_such_object",
        "invalid_configuration",
    ),
    _change(
        "start_routercluster_workergroup",
        p.GroupRef,
        p.Group,
        "Start a worker group that was stopped by itself.",
        "no_such_object",
        "cannot_start",
    ),
    _change(
        "stop_routercluster_workergroup",
        p.GroupRef,
        p.Group,
        "Stop one worker group; it stays stopped until it is started, whatever its cluster does.",
        "no_such_object",
        "cannot_stop",
    ),
    _change(
        "restart_routercluster_workergroup",
        p.RestartGroup,
        p.Group,
        "Replace a group's workers by new ones with the same definition: a rolling restart.",
        "no_such_object",
        "cannot_start",
    ),
    _change(
        "restart_routercluster_worker",
        p.RestartWorker,
        p.WorkerRestart,
        "Replace one worker by a new process with its group's definition.",
        "no_such_object",
        "cannot_start",
    ),
    _read("list_nodes", p.ListNodes, list[str], "List the nodes (unpaired ones only by status filter)."),
    _read("get_node", p.GetNode, p.Node, "Return a node by its oid.", "no_such_object"),
    _read("get_node_by_name", p.NodeByName, p.Node, "Return a node by its name.", "no_such_object"),
    _change(
        "pair_node", p.PairNode, p.Node, "Register a node.", "already_exists", "quota_exceeded", owned=None
    ),
    _change(
        "forget_node",
        p.NodeRef,
        p.Node,
        "Delete a node that was never heard; its name is free again.",
        "no_such_object",
        "not_stopped",
        owned="node",
    ),
    _change(
        "drain_node",
        p.DrainNode,
        p.Node,
        "Evict a node's workers, one of each group at a time; it takes no new ones.",
        "no_such_object",
        owned="node",
    ),
    _change(
        "undrain_node", p.NodeRef, p.Node, "Let a node take workers again.", "no_such_object", owned="node"
    ),
    _change(
        "cordon_node",
        p.CordonNode,
        p.Node,
        "Let a node take no new workers; those on it stay.",
        "no_such_object",
        owned="node",
    ),
    _change(
        "uncordon_node",
        p.NodeRef,
        p.Node,
        "Let a cordoned node take workers again.",
        "no_such_object",
        owned="node",
    ),
    _change(
        "label_node",
        p.LabelNode,
        p.Node,
        "Set, change and remove labels of a node.",
        "no_such_object",
        owned="node",
    ),
    _admin(
        "unpair_node",
        p.UnpairNode,
        p.Node,
        "Remove a node: it leaves its clusters, stops its workers, loses its embedded-broker account.",
        "no_such_object",
        planned_by=PLANNER,
    ),
    _read("list_workers", p.ListWorkers, list[str], "List workers.", "no_such_object"),
    _read("get_worker", p.GetWorker, p.Worker, "Return a worker by its oid.", "no_such_object"),
    _change(
        "follow_worker",
        p.FollowWorker,
        p.Following,
        "Publish a worker's output for a limited time.",
        "no_such_object",
        owned=None,
        planned_by=None,
    ),
    _read("get_events", p.GetEvents, list[Event], "Return stored events after a sequence number."),
    Operation(
        "explain",
        p.Explain,
        p.Explanation,
        "Say why an object is as it is, from the cause to now.",
        ("no_such_object",),
        heavy=True,
    ),
    _read(
        "get_definitions",
        p.GetDefinitions,
        dict[str, Any],
        "Return the definitions of the realm, or of some clusters, as one document.",
        "no_such_object",
    ),
    Operation(
        PLANNER,
        p.PlanOperation,
        p.OperationPlan,
        "Say which workers a change of a cluster, group, worker or node would touch; changes nothing.",
        (*_OF_CHANGES, "version_conflict"),
        roles=CHANGE_ROLES,
        heavy=True,
    ),
    Operation(
        "plan_changes",
        p.PlanChanges,
        p.Plan,
        "Say what applying a document would change, and which workers that touches; changes nothing.",
        roles=CHANGE_ROLES,
        heavy=True,
    ),
    Operation(
        "apply_changes",
        p.ApplyChanges,
        p.Applied,
        "Make the realm as a document says, as planned: all of it, or nothing.",
        _OF_CHANGES,
        change=True,
        roles=CHANGE_ROLES,
        heavy=True,
        planned_by="plan_changes",
    ),
    Operation(
        "plan_rebalance",
        p.PlanRebalance,
        p.RebalancePlan,
        "Say which workers would move, where to and why, so that clusters are in balance; changes nothing.",
        ("no_such_object",),
        roles=CHANGE_ROLES,
        heavy=True,
    ),
    Operation(
        "apply_rebalance",
        p.ApplyRebalance,
        p.Rebalanced,
        "Have workers moved as planned, one of each group at a time.",
        ("no_such_object",),
        change=True,
        roles=CHANGE_ROLES,
        planned_by="plan_rebalance",
    ),
    _read(
        "list_audit", p.ListAudit, list[p.AuditEntry], "List changes, or refused requests, the last first."
    ),
    _read("get_manager", p.NoParams, p.ManagerInfo, "Return the manager's own state."),
    _read("list_principals", p.ListPrincipals, list[p.Principal], "List the principals and their roles."),
    _admin(
        "add_principal", p.AddPrincipal, p.Principal, "Give a user of the broker a role.", "already_exists"
    ),
    _admin("set_principal_role", p.SetRole, p.Principal, "Change a principal's role.", "no_such_object"),
    _admin(
        "remove_principal",
        p.PrincipalByName,
        p.RemovedPrincipal,
        "Remove a user's role, and the account on the embedded broker.",
        "no_such_object",
    ),
    _admin(
        "transfer_principal",
        p.TransferPrincipal,
        p.Transferred,
        "Give a principal what another one owns or owned: clusters and nodes.",
        "no_such_object",
    ),
)

OPERATIONS: Final[dict[str, Operation]] = {row.name: row for row in _ROWS}
"""The contract's table of operations, by name, in its order."""
