"""busbar apply: make the realm as a file of definitions says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..arguments import common_options as n
from ..calls.connect import run
from ..printing import output
from .diff import Prune, Stop
from .validate import File

if TYPE_CHECKING:
    from busbar.bus.client.client import BusClient

app = n.command_group("Make the realm as a file of definitions says.")


@n.subcommand(
    app,
    "apply",
    "plan_changes",
    "apply_changes",
    instead="Make the realm as a file says: all of it, or nothing. What it would change is shown first.",
)
def apply(
    file: File,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show it, as 'busbar diff' does.")] = False,
    prune: Prune = False,
    stop: Stop = False,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
) -> None:
    from ..calls.declared import Applying, apply_planned, as_object, hints, refuse, settle, show_plan, wanted

    asked = wanted(file, prune, stop)
    table = output.output_format() == "table"

    async def work(bus: BusClient) -> None:
        by = Applying(
            lambda: bus.plan_changes(**asked.words),
            lambda plan: bus.apply_changes(**asked.words, fence=plan.fence),
        )
        plan = await by.plan()
        if table:
            show_plan(plan, asked.document)
        elif dry_run or plan.refused:
            output.dump(as_object(plan, applied=False))
        refuse(plan)
        if dry_run:
            return
        if plan.changes:
            plan = await apply_planned(by, plan)
            if wait:
                await settle(bus, by, plan, timeout)
        if not table:
            output.dump(as_object(plan, applied=bool(plan.changes)))
        else:
            count = len(plan.changes)
            output.say(f"{count} change{'s'[count == 1 :]} applied" if count else "unchanged")
            for hint in hints(plan, asked.document.value):
                output.note(hint)

    run(work)
