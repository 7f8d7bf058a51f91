"""--dry-run: what a command would change, planned by the manager instead of done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError
from busbar.bus.params import OperationPlan, Plan

from ..printing import output

_PLANNED: Final = "/params/params"


class Planned(Exception):
    """Ends what has asked for a change: `plan` says what `operation` would do. Nothing was done."""

    def __init__(self, operation: str, plan: Plan | OperationPlan) -> None:
        super().__init__(operation)
        self.operation, self.plan = operation, plan


class PlanningClient(BusClient):
    """Reads as the client whose connection it uses. A change is planned instead: its call raises `Planned`.

    Whatever is no known read is asked of the manager as a plan alone, so an earlier one that can't plan
    refuses.
    """

    def __init__(self, bus: BusClient) -> None:
        vars(self).update(vars(bus))

    async def call(
        self,
        operation: str,
        params: dict[str, Any] | None = None,
        *,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Any:
        """As that of the client, for reads.

        Raises:
            Planned: it is a change.
            BusError: also where the change would be refused.
        """
        row = OPERATIONS.get(operation)
        if row is not None and not row.change:
            return await super().call(operation, params, timeout=timeout, request_id=request_id)
        try:
            plan = await self._plan(operation, params or {}, expect_version)
        except BusError as error:
            raise _of_change(operation, error) from None
        raise Planned(operation, plan)

    async def _plan(
        self, operation: str, params: dict[str, Any], expect_version: int | None
    ) -> Plan | OperationPlan:
        if operation == "rollback_routercluster":
            plan = await self.plan_routercluster_rollback(**params)
            _check_version(plan, expect_version)
            return plan
        return await self.plan_operation(operation=operation, params=params, expect_version=expect_version)


def _check_version(plan: Plan, expected: int | None) -> None:
    """Raises BusError `version_conflict`: the cluster that is rolled back is at another version."""
    names = (each for each in plan.fence if each.startswith("/clusters/") and each.count("/") == 2)
    present = plan.fence.get(next(names, ""))
    if expected not in (None, present):
        detail = f"the object is at version {present}, not {expected}"
        raise BusError("version_conflict", detail, ["/expect/version"])


def _of_change(operation: str, error: BusError) -> BusError:
    """The error as the change itself would have been answered with."""
    if error.code == "no_such_procedure":
        return BusError(error.code, f"nothing was changed: this manager can't plan {operation}")
    pointers = [
        each.removeprefix("/params") if each.startswith(_PLANNED) else each for each in error.pointers
    ]
    return BusError(
        error.code,
        error.detail,
        ["/expect/version" if each == "/params/expect_version" else each for each in pointers],
        retry_after_ms=error.retry_after_ms,
        correlation=error.correlation,
    )


def then(bus: BusClient, text: str, *, ordered: str | None = None) -> None:
    """In a dry run, say what the command does after the change that comes first.

    `ordered`: that change was ordered before, and is only to be waited for.

    Raises:
        Planned: there is nothing left to be planned of it.
    """
    if isinstance(bus, PlanningClient):
        output.note(f"then {text}")
        if ordered is not None:
            raise Planned(ordered, OperationPlan([]))


def planning(work: Callable[[BusClient], Awaitable[object]]) -> Callable[[BusClient], Awaitable[NoReturn]]:
    """The same work up to its first change, whose plan is printed; it ends the command.

    What the command does besides, such as with accounts at a broker, is left out with that.
    """

    async def plan(bus: BusClient) -> NoReturn:
        try:
            await work(PlanningClient(bus))
        except Planned as planned:
            show(planned)
        else:
            output.note("no change would be asked for")
        raise typer.Exit

    return plan


def show(planned: Planned) -> None:
    """Print a plan, as 'busbar apply --dry-run' does. Raises CliError: something of it is refused."""
    from .declared import as_object, refuse, show_plan, show_workers

    plan = planned.plan
    if output.output_format() != "table":
        output.dump(as_object(plan, operation=planned.operation, applied=False))
    elif isinstance(plan, Plan):
        show_plan(plan)
    else:
        show_workers(plan.workers, complete=plan.complete)
    if isinstance(plan, Plan):
        refuse(plan)
        if not plan.changes and output.output_format() == "table":
            output.say("unchanged")
    elif not plan.workers and output.output_format() == "table":
        output.say("no worker is touched")
