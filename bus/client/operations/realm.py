"""The operations on nodes, principals, events and the manager."""
# Written by docs/client_methods.py from the contract's table; change that instead.

from __future__ import annotations

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
        timeout: float | None = None,
    ) -> p.Node:
        """Return a node by its oid.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.NodeRef(node_oid=node_oid)
        return await self._operate("get_node", params, p.Node, timeout)

    async def get_node_by_name(
        self,
        *,
        node_name: str,
        timeout: float | None = None,
    ) -> p.Node:
        """Return a node by its name.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.NodeByName(node_name=node_name)
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
            BusError: `already_exists`, or what any operation answers.
        """
        params = p.PairNode(node=p.NodeDefinition(name=name, labels=labels))
        return await self._operate("pair_node", params, p.Node, timeout, expect_version, request_id)

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
        timeout: float | None = None,
    ) -> list[Event]:
        """Return stored events after a sequence number.

        `since` is a sequence (number or its text form), excluded; `limit` counts events.

        Raises:
            BusError: what any operation answers.
        """
        params = p.GetEvents(since=since, limit=limit)
        return await self._operate("get_events", params, list[Event], timeout)

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
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Principal:
        """Give a user of the broker a role.

        Raises:
            BusError: `already_exists`, or what any operation answers.
        """
        params = p.AddPrincipal(principal=p.PrincipalDefinition(name=name, role=role))
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
    ) -> p.Principal:
        """Remove a user's role, and the account on the embedded broker.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.PrincipalByName(principal_name=principal_name)
        return await self._operate(
            "remove_principal", params, p.Principal, timeout, expect_version, request_id
        )
