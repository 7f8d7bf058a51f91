"""The operations on worker groups and their workers."""
# Written by docs/client_methods.py from the contract's table; change that instead.

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from ... import params as p
from .base import Operations


class GroupOperations(Operations):
    """The operations on worker groups and their workers."""

    async def add_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        scale: int,
        name: str | None = None,
        runtime: str | None = None,
        transport: dict[str, Any] | None = None,
        label: str | None = None,
        description: str | None = None,
        tags: list[str] | None = None,
        lost_after: float | None = None,
        start_deadline: float | None = None,
        mesh: bool | None = None,
        placement: p.Placement | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Add a group of identical workers to a cluster.

        `lost_after` and `start_deadline` are seconds; `runtime` follows from the transport when left out.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, `already_exists`, `quota_exceeded`, or
                what any operation answers.
        """
        params = p.AddGroup(
            routercluster_oid=routercluster_oid,
            workergroup=p.GroupDefinition(
                scale=scale,
                name=name,
                runtime=runtime,
                transport=transport,
                label=label,
                description=description,
                tags=tags,
                lost_after=lost_after,
                start_deadline=start_deadline,
                mesh=mesh,
                placement=placement,
            ),
        )
        return await self._operate(
            "add_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def remove_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Remove a stopped worker group.

        Raises:
            BusError: `no_such_object`, `not_stopped`, or what any operation answers.
        """
        params = p.GroupRef(routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid)
        return await self._operate(
            "remove_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def get_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Group:
        """Return a worker group by its oid.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.GetGroup(routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid, brief=brief)
        return await self._operate("get_routercluster_workergroup", params, p.Group, timeout)

    async def get_routercluster_workergroup_by_name(
        self,
        *,
        routercluster_name: str,
        workergroup_name: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Group:
        """Return a worker group by its name.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.GroupByName(
            routercluster_name=routercluster_name, workergroup_name=workergroup_name, brief=brief
        )
        return await self._operate("get_routercluster_workergroup_by_name", params, p.Group, timeout)

    async def list_routercluster_workergroups(
        self,
        *,
        routercluster_oid: str,
        return_names: bool | None = None,
        filter_by_status: p.ClusterStatus | None = None,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """List the worker groups of a cluster.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.ListGroups(
            routercluster_oid=routercluster_oid,
            return_names=return_names,
            filter_by_status=filter_by_status,
            limit=limit,
            after=after,
        )
        return await self._operate("list_routercluster_workergroups", params, list[str], timeout)

    async def stat_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> p.Stat:
        """Return a worker group's status and statistics.

        `limit` and `after` (an oid) page the workers; the figures count all of them. No more conditions
        than `limit` are told.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.StatGroup(
            routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid, limit=limit, after=after
        )
        return await self._operate("stat_routercluster_workergroup", params, p.Stat, timeout)

    async def scale_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        scale: int,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Change the number of workers of a group.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, or what any operation answers.
        """
        params = p.ScaleGroup(
            routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid, scale=scale
        )
        return await self._operate(
            "scale_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def update_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        runtime: str | UnsetType = UNSET,
        transport: dict[str, Any] | None | UnsetType = UNSET,
        label: str | None | UnsetType = UNSET,
        description: str | None | UnsetType = UNSET,
        tags: list[str] | None | UnsetType = UNSET,
        lost_after: float | UnsetType = UNSET,
        start_deadline: float | UnsetType = UNSET,
        mesh: bool | UnsetType = UNSET,
        placement: p.Placement | None | UnsetType = UNSET,
        max_unavailable: int | None = None,
        max_surge: int | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Change what a group's workers run: a rolling update.

        At most `max_unavailable` workers below the scale are ready, at most `max_surge` above it are
        there. Left out, they are 1 and 0 where what the workers run changes, and stay as they are
        otherwise.

        What is left out stays as it is; null takes it away (the transport is then that of the cluster).

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, or what any operation answers.
        """
        params = p.UpdateGroup(
            routercluster_oid=routercluster_oid,
            workergroup_oid=workergroup_oid,
            workergroup=p.GroupUpdate(
                runtime=runtime,
                transport=transport,
                label=label,
                description=description,
                tags=tags,
                lost_after=lost_after,
                start_deadline=start_deadline,
                mesh=mesh,
                placement=placement,
            ),
            max_unavailable=max_unavailable,
            max_surge=max_surge,
        )
        return await self._operate(
            "update_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def start_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Start a worker group that was stopped by itself.

        Raises:
            BusError: `no_such_object`, `cannot_start`, or what any operation answers.
        """
        params = p.GroupRef(routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid)
        return await self._operate(
            "start_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def stop_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Stop one worker group; it stays stopped until it is started, whatever its cluster does.

        Raises:
            BusError: `no_such_object`, `cannot_stop`, or what any operation answers.
        """
        params = p.GroupRef(routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid)
        return await self._operate(
            "stop_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def restart_routercluster_workergroup(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        max_unavailable: int | None = None,
        max_surge: int | None = None,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Group:
        """Replace a group's workers by new ones with the same definition: a rolling restart.

        The limits are those of an update.

        Raises:
            BusError: `no_such_object`, `cannot_start`, or what any operation answers.
        """
        params = p.RestartGroup(
            routercluster_oid=routercluster_oid,
            workergroup_oid=workergroup_oid,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
        )
        return await self._operate(
            "restart_routercluster_workergroup", params, p.Group, timeout, expect_version, request_id
        )

    async def restart_routercluster_worker(
        self,
        *,
        routercluster_oid: str,
        workergroup_oid: str,
        worker_oid: str,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.WorkerRestart:
        """Replace one worker by a new process with its group's definition.

        One worker of that group.

        Raises:
            BusError: `no_such_object`, `cannot_start`, or what any operation answers.
        """
        params = p.RestartWorker(
            routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid, worker_oid=worker_oid
        )
        return await self._operate(
            "restart_routercluster_worker", params, p.WorkerRestart, timeout, expect_version, request_id
        )

    async def list_workers(
        self,
        *,
        routercluster_oid: str | None = None,
        workergroup_oid: str | None = None,
        node_oid: str | None = None,
        return_names: bool | None = None,
        filter_by_status: p.WorkerStatus | None = None,
        limit: int | None = None,
        after: str | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """List workers.

        All filters given must hold.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.ListWorkers(
            routercluster_oid=routercluster_oid,
            workergroup_oid=workergroup_oid,
            node_oid=node_oid,
            return_names=return_names,
            filter_by_status=filter_by_status,
            limit=limit,
            after=after,
        )
        return await self._operate("list_workers", params, list[str], timeout)

    async def get_worker(
        self,
        *,
        worker_oid: str,
        brief: bool = False,
        timeout: float | None = None,
    ) -> p.Worker:
        """Return a worker by its oid.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.GetWorker(worker_oid=worker_oid, brief=brief)
        return await self._operate("get_worker", params, p.Worker, timeout)

    async def follow_worker(
        self,
        *,
        worker_oid: str,
        lines: int = 100,
        since_ms: int | None = None,
        reader: str | None = None,
        lease_ms: int = 30000,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Following:
        """Publish a worker's output for a limited time.

        `lines` of past output to begin with; the node publishes new output for `lease_ms` milliseconds.
        `since_ms`: of the past lines only those written within so many milliseconds. `reader`, a name of
        the caller's choice, marks the chunk that answers, also where the log is being followed already.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.FollowWorker(
            worker_oid=worker_oid, lines=lines, since_ms=since_ms, reader=reader, lease_ms=lease_ms
        )
        return await self._operate("follow_worker", params, p.Following, timeout, expect_version, request_id)
