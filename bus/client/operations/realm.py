"""The operations on nodes, principals, events and the manager."""
# Written by docs/client_methods.py from the contract's table; change that instead.

from __future__ import annotations

from typing import Any

from ... import params as p
from ...messages import Event
from ...roles import Role
from .base import Operations


class RealmOperations(Operations):
    """The operations on nodes, principals, events and the manager."""

    async def list_nodes(
        self,
        *,
        return_names: bool | None = None,
        filter_by_status: p.NodeStatusName | None = None,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """List the nodes (unpaired ones only by status filter).

        Raises:
            BusError: what any operation answers.
        """
        params = p.ListNodes(
            return_names=return_names, filter_by_status=filter_by_status, limit=limit, after=after
        )
        return await self._operate("list_nodes", params, list[str], timeout)

    async def get_node(
        self,
        *,
        node_oid: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Node:
        """Return a node by its oid.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.GetNode(node_oid=node_oid, brief=brief)
        return await self._operate("get_node", params, p.Node, timeout)

    async def get_node_by_name(
        self,
        *,
        node_name: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Node:
        """Return a node by its name.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.NodeByName(node_name=node_name, brief=brief)
        return await self._operate("get_node_by_name", params, p.Node, timeout)

    async def pair_node(
        self,
        *,
        name: str,
        labels: dict[str, str] | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Register a node.

        A node to be paired.

        Raises:
            BusError: `already_exists`, `quota_exceeded`, or what any operation answers.
        """
        params = p.PairNode(node=p.NodeDefinition(name=name, labels=labels))
        return await self._operate("pair_node", params, p.Node, timeout, expect_version, request_id)

    async def forget_node(
        self,
        *,
        node_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Delete a node that was never heard; its name is free again.

        Raises:
            BusError: `no_such_object`, `not_stopped`, or what any operation answers.
        """
        params = p.NodeRef(node_oid=node_oid)
        return await self._operate("forget_node", params, p.Node, timeout, expect_version, request_id)

    async def drain_node(
        self,
        *,
        node_oid: str,
        reason: str | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Evict a node's workers, one of each group at a time; it takes no new ones.

        `reason` is for people: it stands in the node's status while it is drained.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.DrainNode(node_oid=node_oid, reason=reason)
        return await self._operate("drain_node", params, p.Node, timeout, expect_version, request_id)

    async def undrain_node(
        self,
        *,
        node_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Let a node take workers again.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.NodeRef(node_oid=node_oid)
        return await self._operate("undrain_node", params, p.Node, timeout, expect_version, request_id)

    async def cordon_node(
        self,
        *,
        node_oid: str,
        reason: str | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Let a node take no new workers; those on it stay.

        `reason` is for people: it stands in the node's status while it is cordoned.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.CordonNode(node_oid=node_oid, reason=reason)
        return await self._operate("cordon_node", params, p.Node, timeout, expect_version, request_id)

    async def uncordon_node(
        self,
        *,
        node_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Let a cordoned node take workers again.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.NodeRef(node_oid=node_oid)
        return await self._operate("uncordon_node", params, p.Node, timeout, expect_version, request_id)

    async def label_node(
        self,
        *,
        node_oid: str,
        labels: dict[str, str | None],
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Set, change and remove labels of a node.

        Labels to be set, by name; null takes one away, and what is left out stays as it is.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.LabelNode(node_oid=node_oid, labels=labels)
        return await self._operate("label_node", params, p.Node, timeout, expect_version, request_id)

    async def unpair_node(
        self,
        *,
        node_oid: str,
        keep_account: bool = False,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Node:
        """Remove a node: it leaves its clusters, stops its workers, loses its embedded-broker account.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.UnpairNode(node_oid=node_oid, keep_account=keep_account)
        return await self._operate("unpair_node", params, p.Node, timeout, expect_version, request_id)

    async def get_events(
        self,
        *,
        since: int | str = 0,
        limit: int = 100,
        types: list[str] | None = None,
        object: str | None = None,
        within_ms: int | None = None,
        before: int | str | None = None,
        last: bool = False,
        timeout: float | None = None,
    ) -> list[Event]:
        """Return stored events after a sequence number.

        `since` and `before` are sequences (numbers or their text form), both excluded; `limit` counts
        events. `types`: such as `worker_failed`. `object`: a cluster with all that is in it, or a node, a
        principal or a manager (`edge`); a worker group or a worker (`edge/web-1`); or an oid.
        `within_ms`: not older than that. `last`: the last of those that match, instead of the first;
        oldest first all the same.

        Raises:
            BusError: what any operation answers.
        """
        params = p.GetEvents(
            since=since,
            limit=limit,
            types=types,
            object=object,
            within_ms=within_ms,
            before=before,
            last=last,
        )
        return await self._operate("get_events", params, list[Event], timeout)

    async def explain(
        self,
        *,
        object: str,
        kind: p.ExplainedKind | None = None,
        timeout: float | None = None,
    ) -> p.Explanation:
        """Say why an object is as it is, from the cause to now.

        `object` is a cluster or a node (`edge`), a worker group or a worker (`edge/web-3`), by name or
        oid, or the id of a request; `kind` says which where a name could be several.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.Explain(object=object, kind=kind)
        return await self._operate("explain", params, p.Explanation, timeout)

    async def get_definitions(
        self,
        *,
        clusters: list[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Return the definitions of the realm, or of some clusters, as one document.

        `clusters`: names; left out, the whole realm with its principals.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.GetDefinitions(clusters=clusters)
        return await self._operate("get_definitions", params, dict[str, Any], timeout)

    async def list_audit(
        self,
        *,
        refused: bool = False,
        limit: int = 100,
        after: str | None = None,
        caller: str | None = None,
        operation: str | None = None,
        within_ms: int | None = None,
        timeout: float | None = None,
    ) -> list[p.AuditEntry]:
        """List changes, or refused requests, the last first.

        `refused`: the refused requests instead of the changes. `after`: the `id` of the last entry of the
        page before; the newest come first. All filters given must hold; `within_ms`: not older than that,
        of folded refusals the last.

        Raises:
            BusError: what any operation answers.
        """
        params = p.ListAudit(
            refused=refused, limit=limit, after=after, caller=caller, operation=operation, within_ms=within_ms
        )
        return await self._operate("list_audit", params, list[p.AuditEntry], timeout)

    async def get_manager(
        self,
        *,
        timeout: float | None = None,
    ) -> p.ManagerInfo:
        """Return the manager's own state.

        Raises:
            BusError: what any operation answers.
        """
        params = p.NoParams()
        return await self._operate("get_manager", params, p.ManagerInfo, timeout)

    async def list_principals(
        self,
        *,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> list[p.Principal]:
        """List the principals and their roles.

        Raises:
            BusError: what any operation answers.
        """
        params = p.ListPrincipals(limit=limit, after=after)
        return await self._operate("list_principals", params, list[p.Principal], timeout)

    async def add_principal(
        self,
        *,
        name: str,
        role: Role,
        reuse: bool = False,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Principal:
        """Give a user of the broker a role.

        `reuse`: give a name again that a removed principal or an unpaired node had. The new one owns and
        inherits nothing of it, and its changes must name their `principal`.

        Raises:
            BusError: `already_exists`, or what any operation answers.
        """
        params = p.AddPrincipal(principal=p.PrincipalDefinition(name=name, role=role), reuse=reuse)
        return await self._operate("add_principal", params, p.Principal, timeout, expect_version, request_id)

    async def set_principal_role(
        self,
        *,
        principal_name: str,
        role: Role,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Principal:
        """Change a principal's role.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.SetRole(principal_name=principal_name, role=role)
        return await self._operate(
            "set_principal_role", params, p.Principal, timeout, expect_version, request_id
        )

    async def remove_principal(
        self,
        *,
        principal_name: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.RemovedPrincipal:
        """Remove a user's role, and the account on the embedded broker.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.PrincipalByName(principal_name=principal_name)
        return await self._operate(
            "remove_principal", params, p.RemovedPrincipal, timeout, expect_version, request_id
        )

    async def transfer_principal(
        self,
        *,
        principal_name: str,
        from_name: str | None = None,
        from_oid: str | None = None,
        routercluster_oid: str | None = None,
        node_oid: str | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Transferred:
        """Give a principal what another one owns or owned: clusters and nodes.

        Hands to `principal_name` what exactly one of the others names: everything of a principal by its
        name (a removed one, when none has it now) or by its oid, or one cluster, or one node.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.TransferPrincipal(
            principal_name=principal_name,
            from_name=from_name,
            from_oid=from_oid,
            routercluster_oid=routercluster_oid,
            node_oid=node_oid,
        )
        return await self._operate(
            "transfer_principal", params, p.Transferred, timeout, expect_version, request_id
        )
