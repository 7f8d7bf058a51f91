"""busbar diff: what applying a file of definitions would change."""

from __future__ import annotations

from typing import Annotated

import typer

from ..arguments import common_options as n
from ..calls.connect import run
from ..printing import output
from .validate import File

app = n.command_group("Show what applying a file of definitions would change.")
Prune = Annotated[
    bool, typer.Option("--prune", help="Delete what this file (its 'owner') has created and no longer names.")
]
Stop = Annotated[
    bool, typer.Option("--stop", help="With --prune: stop what is to be deleted, instead of refusing.")
]


@n.subcommand(
    app,
    "diff",
    "plan_changes",
    instead="Show what applying a file would change, and which workers start, stop, move or restart.",
)
def diff(file: File, prune: Prune = False, stop: Stop = False) -> None:
    from ..calls.declared import as_object, refuse, show_plan, wanted

    asked = wanted(file, prune, stop)
    plan = run(lambda bus: bus.plan_changes(**asked.words))
    if output.output_format() != "table":
        output.dump(as_object(plan))
        return refuse(plan)
    show_plan(plan, asked.document)
    refuse(plan)
    if not plan.changes:
        output.say("unchanged")
    return None
