"""busbar audit: who asked for what, and what came of it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.clock import SystemClock
from busbar.bus.contract import OPERATIONS
from busbar.bus.params import AuditEntry

from ..arguments import common_options as n
from ..arguments.completion import complete_caller, complete_operation
from ..arguments.units import age_ms
from ..calls.connect import run
from ..errors import usage
from ..printing import output

Kind = Literal["all", "changes", "refused"]
KINDS: dict[Kind, tuple[bool, ...]] = {"all": (False, True), "changes": (False,), "refused": (True,)}

app = n.command_group("Who asked for what: changes and refused requests.")

COLUMNS: list[output.Column[AuditEntry]] = [
    ("id", lambda e: e.id),
    ("time", lambda e: moment(e)),
    ("caller", lambda e: e.caller),
    ("operation", lambda e: e.operation),
    ("outcome", lambda e: e.outcome + (f" ({e.count} times)" if e.count > 1 else "")),
    ("request", lambda e: e.detail or e.params or ""),
]
WIDE: list[output.Column[AuditEntry]] = [
    ("role", lambda e: e.role),
    ("request id", lambda e: e.request_id),
    ("object", lambda e: e.object_oid),
]


def moment(entry: AuditEntry) -> str:
    """When it was; of folded refusals the last."""
    return entry.last or entry.time


@n.subcommand(
    app, "audit", "list_audit", instead="Show the last changes and refused requests, the newest at the end."
)
def audit(
    kind: Annotated[Kind, typer.Option("--kind", help="all, changes or refused.")] = "all",
    who: Annotated[
        str | None, typer.Option("--who", help="Only of this caller.", autocompletion=complete_caller)
    ] = None,
    op: Annotated[
        str | None, typer.Option("--op", help="Only of this operation.", autocompletion=complete_operation)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Not older than: 90s, 5m, 2h, 1d, or a time.")
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="As --kind refused.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 50,
    after: Annotated[
        str | None, typer.Option("--after", help="Older than this id; with --kind changes or refused.")
    ] = None,
) -> None:
    if refused and kind == "changes":
        raise usage("--refused and --kind changes exclude each other")
    kind = "refused" if refused else kind
    age = None if since is None else age_ms(since, SystemClock().time_ns())
    if after is not None and kind == "all":
        raise usage("--after needs --kind changes or --kind refused: each has ids of its own")

    async def work(bus: BusClient) -> list[AuditEntry]:
        pages = [
            await bus.list_audit(
                refused=each, limit=limit, after=after, caller=who, operation=op, within_ms=age
            )
            for each in KINDS[kind]
        ]
        return sorted((entry for page in pages for entry in page), key=moment)[-limit:]

    found = run(work)
    if op is not None and op not in OPERATIONS and not found:
        raise usage(f"there is no operation '{op}'; 'busbar call' completes their names")
    output.show_list(found, COLUMNS, "nothing such was asked for", wide=WIDE)
