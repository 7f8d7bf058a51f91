"""--dry-run: what a command would change, planned by the manager instead of done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, NoReturn

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError
from busbar.bus.params import OperationPlan, Plan

from ..printing import output

_PLANNED: Final = "/params/params"
NAMED: Final = 8
"""Workers that one line names."""


_AWAITED: Final = frozenset({"not_stopped"})
"""Refusals that the change before takes away: the command waits for that."""


class Later(NamedTuple):
    """A change that a command asks for after its first one, and that as a sentence."""

    operation: str
    params: dict[str, Any]
    text: str
    expect_version: int | None = None


class Planned(Exception):
    """Ends what has asked for a change: `plan` says what `operation` would do. Nothing was done.

    `later` are the changes that would follow, which the plan does not hold; `refusal`: why one of them would
    be refused, whatever comes before it.
    """

    def __init__(
        self,
        operation: str,
        plan: Plan | OperationPlan,
        later: tuple[Later, ...] = (),
        refusal: BusError | None = None,
    ) -> None:
        super().__init__(operation)
        self.operation, self.plan, self.later, self.refusal = operation, plan, later, refusal


class PlanningClient(BusClient):
    """Reads as the client whose connection it uses. A change is planned instead: its call raises `Planned`.

    Whatever is no known read is asked of the manager as a plan alone, so an earlier one that can't plan
    refuses.
    """

    def __init__(self, bus: BusClient) -> None:
        vars(self).update(vars(bus))
        self.later: tuple[Later, ...] = ()
        """What follows the change that is planned."""

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
        raise await self.planned(operation, plan)

    async def planned(self, operation: str, plan: Plan | OperationPlan) -> Planned:
        """That plan, with what follows. The manager plans one change, of the present state: a later one is
        only asked about, so that a refusal is known before the first change is made.

        Raises:
            BusError: `busy`, as of any call.
        """
        for each in self.later:
            try:
                await self._plan(each.operation, each.params, each.expect_version)
            except BusError as error:
                if error.code in _AWAITED:
                    continue
                found = _of_change(each.operation, error)
                if found.row.retryable:
                    raise found from None
                detail = f"after that, {each.operation} would be refused: {found.detail}"
                return Planned(operation, plan, self.later, BusError(found.code, detail, found.pointers))
        return Planned(operation, plan, self.later)

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


async def then(bus: BusClient, *later: Later, ordered: str | None = None) -> None:
    """In a dry run, note what the command does after the change that comes first.

    `ordered`: that change was ordered before, and is only to be waited for.

    Raises:
        Planned: there is nothing left to be planned of it.
    """
    if isinstance(bus, PlanningClient):
        bus.later = later
        if ordered is not None:
            raise await bus.planned(ordered, OperationPlan([]))


def planning(work: Callable[[BusClient], Awaitable[object]]) -> Callable[[BusClient], Awaitable[NoReturn]]:
    """The same work up to its first change, whose plan is printed with what follows; it ends the command.

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
    """Print a plan, as 'busbar apply --dry-run' does, and what follows it.

    Raises:
        CliError, BusError: something of it, or of what follows, is refused.
    """
    from .declared import as_object, refuse, show_plan, show_workers

    plan = planned.plan
    if output.output_format() != "table":
        later = {"then": [each.operation for each in planned.later]} if planned.later else {}
        output.dump(as_object(plan, operation=planned.operation, applied=False, **later))
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
    _show_later(planned)


def _show_later(planned: Planned) -> None:
    """Say what is not in the plan. Raises BusError: that would be refused."""
    for each in planned.later:
        output.note(f"then {each.text}")
    if planned.refusal is not None:
        raise planned.refusal
    stay = [each.worker for each in planned.plan.workers if each.action == "wait" and each.node]
    if planned.later and stay:
        named = ", ".join(stay[:NAMED]) + (f" and {len(stay) - NAMED} more" if len(stay) > NAMED else "")
        output.note(f"! it would not come to that: {named} would stay, and the command wait in vain")
