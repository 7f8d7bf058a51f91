"""The operations on clusters and their nodes."""
# Written by docs/client_methods.py from the contract's table; change that instead.

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from ... import params as p
from .base import Operations


class ClusterOperations(Operations):
    """The operations on clusters and their nodes."""

    async def list_routerclusters(
        self,
        *,
        return_names: bool | None = None,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """List the router clusters.

        Raises:
            BusError: what any operation answers.
        """
        params = p.ListClusters(return_names=return_names, limit=limit, after=after)
        return await self._operate("list_routerclusters", params, list[str], timeout)

    async def get_routercluster(
        self,
        *,
        routercluster_oid: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Cluster:
        """Return a cluster by its oid.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.GetCluster(routercluster_oid=routercluster_oid, brief=brief)
        return await self._operate("get_routercluster", params, p.Cluster, timeout)

    async def get_routercluster_by_name(
        self,
        *,
        routercluster_name: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Cluster:
        """Return a cluster by its name.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.ClusterByName(routercluster_name=routercluster_name, brief=brief)
        return await self._operate("get_routercluster_by_name", params, p.Cluster, timeout)

    async def create_routercluster(
        self,
        *,
        name: str,
        label: str | None = None,
        description: str | None = None,
        tags: list[str] | None = None,
        transport: dict[str, Any] | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Cluster:
        """Create a router cluster, stopped, owned by the caller.

        What a new cluster is to be.

        Raises:
            BusError: `invalid_configuration`, `already_exists`, `quota_exceeded`, or what any operation
                answers.
        """
        params = p.CreateCluster(
            routercluster=p.ClusterDefinition(
                name=name, label=label, description=description, tags=tags, transport=transport
            )
        )
        return await self._operate(
            "create_routercluster", params, p.Cluster, timeout, expect_version, request_id
        )

    async def update_routercluster(
        self,
        *,
        routercluster_oid: str,
        transport: dict[str, Any] | None | UnsetType = UNSET,
        label: str | None | UnsetType = UNSET,
        description: str | None | UnsetType = UNSET,
        tags: list[str] | None | UnsetType = UNSET,
        max_unavailable: int | None = None,
        max_surge: int | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Cluster:
        """Change a cluster; a new transport is rolled out to the groups that have none of their own.

        The limits hold for each group that the new transport renews, as those of `UpdateGroup`.

        What is left out stays as it is; null takes it away.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, or what any operation answers.
        """
        params = p.UpdateCluster(
            routercluster_oid=routercluster_oid,
            routercluster=p.ClusterUpdate(
                transport=transport, label=label, description=description, tags=tags
            ),
            max_unavailable=max_unavailable,
            max_surge=max_surge,
        )
        return await self._operate(
            "update_routercluster", params, p.Cluster, timeout, expect_version, request_id
        )

    async def delete_routercluster(
        self,
        *,
        routercluster_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Cluster:
        """Delete a stopped cluster, its groups and its memberships.

        Raises:
            BusError: `no_such_object`, `not_stopped`, or what any operation answers.
        """
        params = p.ClusterRef(routercluster_oid=routercluster_oid)
        return await self._operate(
            "delete_routercluster", params, p.Cluster, timeout, expect_version, request_id
        )

    async def start_routercluster(
        self,
        *,
        routercluster_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Accepted:
        """Start a stopped or paused cluster.

        Raises:
            BusError: `no_such_object`, `cannot_start`, `invalid_configuration`, or what any operation
                answers.
        """
        params = p.ClusterRef(routercluster_oid=routercluster_oid)
        return await self._operate(
            "start_routercluster", params, p.Accepted, timeout, expect_version, request_id
        )

    async def stop_routercluster(
        self,
        *,
        routercluster_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Accepted:
        """Stop a started cluster.

        Raises:
            BusError: `no_such_object`, `cannot_stop`, or what any operation answers.
        """
        params = p.ClusterRef(routercluster_oid=routercluster_oid)
        return await self._operate(
            "stop_routercluster", params, p.Accepted, timeout, expect_version, request_id
        )

    async def stat_routercluster(
        self,
        *,
        routercluster_oid: str,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> p.Stat:
        """Return a cluster's status and statistics.

        `limit` and `after` (an oid) page the workers and, behind a group's oid, the groups; the figures
        count all of them. No more conditions than `limit` are told.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.StatCluster(routercluster_oid=routercluster_oid, limit=limit, after=after)
        return await self._operate("stat_routercluster", params, p.Stat, timeout)

    async def list_routercluster_revisions(
        self,
        *,
        routercluster_oid: str,
        limit: int = 20,
        after: int | None = None,
        timeout: float | None = None,
    ) -> list[p.Revision]:
        """List what a cluster was to be, revision by revision, with who and when.

        `after`: the number of the last entry of the page before; the newest come first.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.ListRevisions(routercluster_oid=routercluster_oid, limit=limit, after=after)
        return await self._operate("list_routercluster_revisions", params, list[p.Revision], timeout)

    async def get_routercluster_revision(
        self,
        *,
        routercluster_oid: str,
        revision: int,
        timeout: float | None = None,
    ) -> p.RevisionDetail:
        """Return one revision of a cluster with its definition.

        One revision of a cluster.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.RevisionRef(routercluster_oid=routercluster_oid, revision=revision)
        return await self._operate("get_routercluster_revision", params, p.RevisionDetail, timeout)

    async def plan_routercluster_rollback(
        self,
        *,
        routercluster_oid: str,
        revision: int,
        timeout: float | None = None,
    ) -> p.Plan:
        """Say what a rollback of a cluster would change, and which workers it touches; changes nothing.

        One revision of a cluster.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.RevisionRef(routercluster_oid=routercluster_oid, revision=revision)
        return await self._operate("plan_routercluster_rollback", params, p.Plan, timeout)

    async def rollback_routercluster(
        self,
        *,
        routercluster_oid: str,
        revision: int,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Applied:
        """Make a cluster what it was to be at a revision: all of it, or nothing; it rolls like an update.

        One revision of a cluster.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, `quota_exceeded`, `not_stopped`, or what
                any operation answers.
        """
        params = p.RevisionRef(routercluster_oid=routercluster_oid, revision=revision)
        return await self._operate(
            "rollback_routercluster", params, p.Applied, timeout, expect_version, request_id
        )

    async def add_routercluster_node(
        self,
        *,
        routercluster_oid: str,
        node_oid: str,
        hardlimit: int | None = None,
        softlimit: int | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Membership:
        """Add a node to a cluster.

        Limits are numbers of workers of this cluster on this node.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, `already_exists`, or what any operation
                answers.
        """
        params = p.AddNode(
            routercluster_oid=routercluster_oid,
            node_oid=node_oid,
            config=p.MembershipConfig(hardlimit=hardlimit, softlimit=softlimit),
        )
        return await self._operate(
            "add_routercluster_node", params, p.Membership, timeout, expect_version, request_id
        )

    async def remove_routercluster_node(
        self,
        *,
        routercluster_oid: str,
        node_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Membership:
        """Remove a node from a cluster; its workers move.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.MembershipRef(routercluster_oid=routercluster_oid, node_oid=node_oid)
        return await self._operate(
            "remove_routercluster_node", params, p.Membership, timeout, expect_version, request_id
        )

    async def get_routercluster_node(
        self,
        *,
        routercluster_oid: str,
        node_oid: str,
        timeout: float | None = None,
    ) -> p.Membership:
        """Return a node's membership in a cluster.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.MembershipRef(routercluster_oid=routercluster_oid, node_oid=node_oid)
        return await self._operate("get_routercluster_node", params, p.Membership, timeout)

    async def list_routercluster_nodes(
        self,
        *,
        routercluster_oid: str,
        return_names: bool | None = None,
        filter_by_status: p.NodeStatusName | None = None,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """List the nodes of a cluster.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.ListMembers(
            routercluster_oid=routercluster_oid,
            return_names=return_names,
            filter_by_status=filter_by_status,
            limit=limit,
            after=after,
        )
        return await self._operate("list_routercluster_nodes", params, list[str], timeout)
