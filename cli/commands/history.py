"""busbar history: what clusters were to be, and who changed it when."""

from __future__ import annotations

from typing import Annotated

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.params import Revision

from ..arguments import common_options as n
from ..arguments.completion import complete_revision
from ..calls.connect import run
from ..printing import output

app = n.command_group("What clusters were to be, revision by revision.")
COLUMNS: list[output.Column[Revision]] = [
    ("revision", lambda r: r.revision),
    ("time", lambda r: r.time),
    ("caller", lambda r: r.caller),
    ("operation", lambda r: r.operation),
    ("changed", lambda r: ", ".join(r.changed)),
]
WIDE: list[output.Column[Revision]] = [("request id", lambda r: r.request_id)]


@app.callback()
def _group() -> None:
    """Without it a group of one command would be that command."""


@n.subcommand(
    app,
    "cluster",
    "list_routercluster_revisions",
    "get_routercluster_revision",
    more="The newest come first.",
)
def cluster(
    cluster: n.ClusterArgument,
    revision: Annotated[
        int | None,
        typer.Option(
            "--revision",
            min=1,
            help="Print the definition at this revision.",
            autocompletion=complete_revision,
        ),
    ] = None,
) -> None:
    async def listed(bus: BusClient) -> list[Revision]:
        oid = await bus.cluster_oid(cluster)
        return await bus.list_routercluster_revisions(routercluster_oid=oid)

    if revision is None:
        return output.show_list(run(listed), COLUMNS, "no changes were recorded yet", wide=WIDE)

    async def one(bus: BusClient) -> object:
        oid = await bus.cluster_oid(cluster)
        return await bus.get_routercluster_revision(routercluster_oid=oid, revision=revision)

    return output.show_object(run(one), first=("revision", "time", "caller"))
