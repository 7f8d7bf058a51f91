"""A single change planned: its own handler runs on a copy of the state, and then the monitor's passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from busbar.bus import params as p
from busbar.bus.contract import OPERATIONS, PLANNER, Operation
from busbar.bus.decode import convert
from busbar.bus.errors import BusError
from busbar.bus.messages import Expect
from busbar.bus.plans import WorkerStep

from ...slices import Slices
from ...store import Tx
from ...store.reads import Queries
from .. import authorize
from .base import Asker, ChangeContext, ChangeHandler, PlanHandler, ReadContext
from .declared import MAX_STEPS

_AT: Final = "/params/operation"


def planner(changes: Mapping[str, ChangeHandler]) -> PlanHandler:
    """The handler of `plan_operation` for these changes, by name."""

    def plan_operation(ctx: ReadContext, params: p.PlanOperation) -> Slices[p.OperationPlan]:
        row = _plannable(params.operation)
        try:
            return (yield from _rehearsed(ctx, row, changes[row.name], params))
        except BusError as error:
            raise BusError(error.code, error.detail, [_moved(each) for each in error.pointers]) from None

    return plan_operation


def _rehearsed(
    ctx: ReadContext, row: Operation, change: ChangeHandler, params: p.PlanOperation
) -> Slices[p.OperationPlan]:
    """Raises BusError, with pointers into the change's own request: it would be refused."""
    asker = ctx.asker
    assert asker is not None and ctx.rehearse is not None
    authorize.check_role(row, asker.principal)
    asked = convert(params.params, row.params, "/params")

    def attempt(tx: Tx) -> Slices[tuple[int | None, bool]]:
        _check(row, asker, asked, params.expect_version, tx)
        version = authorize.version(asked, tx)
        change(ChangeContext(tx, asker.who, asker.principal.oid, "", asker.quotas), asked)
        yield
        return version, True

    def concluded(
        version: int | None, steps: list[WorkerStep], complete: bool, before: Queries
    ) -> p.OperationPlan:
        return p.OperationPlan(steps[:MAX_STEPS], version, complete and len(steps) <= MAX_STEPS)

    return ctx.rehearse(attempt, concluded)


def _check(row: Operation, asker: Asker, asked: p.Params, version: int | None, tx: Tx) -> None:
    """As before the change itself. Raises BusError."""
    authorize.check_owner(row, asker.principal, asked, tx)
    authorize.check_version(None if version is None else Expect(version), asked, tx)


def _plannable(name: str) -> Operation:
    """Raises BusError `invalid_argument` where another operation plans it, or none."""
    row = OPERATIONS.get(name)
    if row is not None and row.planned_by == PLANNER:
        return row
    if row is None:
        why = f"there is no operation {name!r}"
    elif row.planned_by is not None:
        why = f"{name} is planned by {row.planned_by}"
    else:
        why = f"{name} touches no worker" if row.change else f"{name} changes nothing"
    raise BusError("invalid_argument", f"{why}; {PLANNER} plans changes such as drain_node", [_AT])


def _moved(pointer: str) -> str:
    """Where in the request for a plan is what a pointer names in the request that is planned."""
    return "/params/expect_version" if pointer.startswith("/expect") else f"/params{pointer}"
