"""busbar why: an object's state in sentences, from the cause to now."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from busbar.bus.causes import CAUSES
from busbar.bus.clock import rfc3339
from busbar.bus.params import ExplainedKind, Explanation, Statement

from ..arguments import common_options as n
from ..arguments.completion import complete_object
from ..calls.connect import run
from ..printing import output

Kind = Literal["cluster", "group", "worker", "node", "request"]
KINDS: dict[Kind, ExplainedKind] = {
    "cluster": "routercluster",
    "group": "workergroup",
    "worker": "worker",
    "node": "node",
    "request": "request",
}
WORDS = {"routercluster": "cluster", "workergroup": "group"}

app = n.command_group("Why an object is as it is.")


@n.subcommand(
    app,
    "why",
    "explain",
    instead="Say why a cluster, group, worker, node or request is as it is, from the cause to now.",
)
def why(
    target: Annotated[
        str,
        typer.Argument(
            metavar="OBJECT",
            help="edge, edge/web, edge/web-3, a node, an oid, or the id of a request.",
            autocompletion=complete_object,
        ),
    ],
    kind: Annotated[Kind | None, typer.Option("--kind", help="Where a name could be several.")] = None,
) -> None:
    found = run(lambda bus: bus.explain(object=target, kind=KINDS[kind] if kind else None))
    if output.output_format() != "table":
        return output.dump(found)
    output.say(title(found), output.State(found.status))
    for statement in found.statements:
        output.say(line(statement))
    return None


def title(found: Explanation) -> str:
    """The object, before its state."""
    verb = ": " if found.kind == "request" else " is "
    return f"{WORDS.get(found.kind, found.kind)} {found.object}{verb}"


def line(statement: Statement) -> str:
    """One statement: when, the event's number, and the sentence; a cause is marked."""
    when = "" if statement.at_ms is None else rfc3339(statement.at_ms * 1_000_000)
    event = f"#{statement.event.lstrip('0')}" if statement.event else ""
    mark = "!" if statement.code in CAUSES else " "
    about = f"{statement.object}: " if statement.object and statement.object not in statement.text else ""
    return f"  {mark} {when:<24}  {event:>7}  {about}{statement.text}"
