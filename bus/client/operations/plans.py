"""The operations on changes planned, and those of many objects."""
# Written by docs/client_methods.py from the contract's table; change that instead.

from __future__ import annotations

from typing import Any

from ... import params as p
from .base import Operations


class PlanOperations(Operations):
    """The operations on changes planned, and those of many objects."""

    async def plan_operation(
        self,
        *,
        operation: str,
        params: dict[str, Any],
        expect_version: int | None = None,
        timeout: float | None = None,
    ) -> p.OperationPlan:
        """Say which workers a change of a cluster, group, worker or node would touch; changes nothing.

        `operation`: a change of one cluster, worker group, worker or node; `params`: its own parameters.
        `expect_version`: the precondition that it would be asked with.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, `already_exists`, `quota_exceeded`,
                `not_stopped`, `cannot_start`, `cannot_stop`, `version_conflict`, or what any operation
                answers.
        """
        made = p.PlanOperation(operation=operation, params=params, expect_version=expect_version)
        return await self._operate("plan_operation", made, p.OperationPlan, timeout)

    async def plan_changes(
        self,
        *,
        desired: dict[str, Any],
        prune: bool = False,
        stop: bool = False,
        timeout: float | None = None,
    ) -> p.Plan:
        """Say what applying a document would change, and which workers that touches; changes nothing.

        `desired` is a document (`bus.routers.definitions`). `prune`: also delete what its `owner` has
        created and the document no longer names; `stop`: what of it is not stopped is told to, instead of
        being refused.

        Raises:
            BusError: what any operation answers.
        """
        params = p.PlanChanges(desired=desired, prune=prune, stop=stop)
        return await self._operate("plan_changes", params, p.Plan, timeout)

    async def apply_changes(
        self,
        *,
        desired: dict[str, Any],
        fence: dict[str, int],
        prune: bool = False,
        stop: bool = False,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Applied:
        """Make the realm as a document says, as planned: all of it, or nothing.

        As `plan_changes`. `fence` is that of the plan: by pointer the version of each object, 0 where
        there is none.

        Raises:
            BusError: `no_such_object`, `invalid_configuration`, `already_exists`, `quota_exceeded`,
                `not_stopped`, `cannot_start`, `cannot_stop`, or what any operation answers.
        """
        params = p.ApplyChanges(desired=desired, fence=fence, prune=prune, stop=stop)
        return await self._operate("apply_changes", params, p.Applied, timeout, expect_version, request_id)

    async def plan_rebalance(
        self,
        *,
        routercluster_oid: str | None = None,
        workergroup_oid: str | None = None,
        timeout: float | None = None,
    ) -> p.RebalancePlan:
        """Say which workers would move, where to and why, so that clusters are in balance; changes nothing.

        Of one cluster, or one worker group in it; left out: of all clusters that the caller may change.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.PlanRebalance(routercluster_oid=routercluster_oid, workergroup_oid=workergroup_oid)
        return await self._operate("plan_rebalance", params, p.RebalancePlan, timeout)

    async def apply_rebalance(
        self,
        *,
        moves: dict[str, str],
        fence: dict[str, int],
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> p.Rebalanced:
        """Have workers moved as planned, one of each group at a time.

        `moves`: by worker the node (oids) that it is to be on, in the order of the plan. `fence` is that
        of the plan, or as much of it as these moves need.

        Raises:
            BusError: `no_such_object`, or what any operation answers.
        """
        params = p.ApplyRebalance(moves=moves, fence=fence)
        return await self._operate(
            "apply_rebalance", params, p.Rebalanced, timeout, expect_version, request_id
        )
