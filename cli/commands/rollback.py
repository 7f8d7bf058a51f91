"""busbar rollback: back to what a cluster was to be."""

from __future__ import annotations

from typing import Annotated

import typer
from busbar.bus.client.client import BusClient

from ..arguments import common_options as n
from ..arguments.completion import complete_revision
from ..calls.connect import run
from ..errors import usage
from ..printing import output

app = n.command_group("Back to what a cluster was to be.")


@app.callback()
def _group() -> None:
    """Without it a group of one command would be that command."""


@n.subcommand(
    app,
    "cluster",
    "rollback_routercluster",
    "plan_routercluster_rollback",
    more="See 'busbar history cluster'.",
)
def cluster(
    cluster: n.ClusterArgument,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            min=1,
            help="The revision; 'busbar history cluster' lists them.",
            autocompletion=complete_revision,
        ),
    ] = None,
    dry_run: n.DryRun = False,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    from ..calls.declared import change_lines, settled_by

    if to is None:
        raise usage(f"which revision? 'busbar history cluster {cluster}' lists them; say --to N")

    async def work(bus: BusClient) -> None:
        found = await bus.find_cluster(cluster)
        done = await bus.rollback_routercluster(
            routercluster_oid=found.oid, revision=to, expect_version=expect_version
        )
        if output.output_format() == "table":
            for change in done.changes:
                for line in change_lines(change):
                    output.say(line)
        if wait:
            await settled_by(bus, found.name, timeout)
        text = f"cluster '{found.name}' is as it was at revision {to}"
        output.done(done, text if done.changes else "unchanged")

    run(work, dry_run=dry_run)
