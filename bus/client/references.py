"""Objects by what people call them: names, `cluster/name`, oids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from .. import params as p
from ..errors import BusError
from .names import is_oid, split_reference
from .operations.clusters import ClusterOperations
from .operations.groups import GroupOperations
from .operations.plans import PlanOperations
from .operations.realm import RealmOperations
from .paging import TOO_LARGE

T = TypeVar("T")


class References(ClusterOperations, GroupOperations, PlanOperations, RealmOperations):
    """Looks objects up. Each method raises BusError with `no_such_object` where there is none.

    An object that is larger than the broker takes comes without what is large in it, which `left_out` names;
    `whole`: it is refused with `payload_too_large` instead.
    """

    async def find_cluster(self, reference: str, *, whole: bool = False) -> p.Cluster:
        """A cluster by name or oid."""
        if is_oid(reference):
            return await or_brief(self.get_routercluster, whole, routercluster_oid=reference)
        return await or_brief(self.get_routercluster_by_name, whole, routercluster_name=reference)

    async def cluster_oid(self, reference: str) -> str:
        """A cluster's oid, looked up when it is a name."""
        return reference if is_oid(reference) else (await self.find_cluster(reference)).oid

    async def find_node(self, reference: str) -> p.Node:
        """A node by name or oid."""
        if is_oid(reference):
            return await or_brief(self.get_node, node_oid=reference)
        return await or_brief(self.get_node_by_name, node_name=reference)

    async def node_oid(self, reference: str) -> str:
        """A node's oid, looked up when it is a name."""
        return reference if is_oid(reference) else (await self.find_node(reference)).oid

    async def find_group(self, reference: str, cluster: str | None = None, *, whole: bool = False) -> p.Group:
        """A worker group by `cluster/group`, or by name or oid within `cluster`.

        Raises:
            ValueError: the cluster is missing, or given twice and differently.
        """
        where, name = split_reference(reference, cluster)
        if not is_oid(name):
            if is_oid(where):
                where = (await self.find_cluster(where)).name
            return await or_brief(
                self.get_routercluster_workergroup_by_name,
                whole,
                routercluster_name=where,
                workergroup_name=name,
            )
        oid = await self.cluster_oid(where)
        return await or_brief(
            self.get_routercluster_workergroup, whole, routercluster_oid=oid, workergroup_oid=name
        )

    async def worker_oid(self, reference: str, cluster: str | None = None) -> str:
        """A worker's oid by `cluster/worker`, or by name within `cluster`; an oid is returned as it is.

        Raises:
            ValueError: the cluster is missing, or given twice and differently.
        """
        if is_oid(reference):
            return reference
        where, name = split_reference(reference, cluster)
        stat = await self.stat_routercluster(routercluster_oid=await self.cluster_oid(where))
        for worker in stat.workers:
            if worker.name == name:
                return worker.oid
        raise BusError("no_such_object", f"there is no worker '{name}' in cluster '{where}'")

    async def find_worker(self, reference: str, cluster: str | None = None) -> p.Worker:
        """A worker by `cluster/worker`, by name within `cluster`, or by oid.

        Raises:
            ValueError: the cluster is missing, or given twice and differently.
        """
        return await or_brief(self.get_worker, worker_oid=await self.worker_oid(reference, cluster))


async def or_brief(get: Callable[..., Awaitable[T]], whole: bool = False, **names: str) -> T:
    """The object that `get` returns; brief where the broker does not take the whole one."""
    try:
        return await get(**names)
    except BusError as error:
        if whole or error.code != TOO_LARGE:
            raise
        return await get(**names, brief=True)
