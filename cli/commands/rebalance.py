"""busbar rebalance: move workers so that clusters are in balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..arguments import common_options as n
from ..arguments.completion import complete_in
from ..calls.connect import run
from ..printing import output

if TYPE_CHECKING:
    from busbar.bus.client.client import BusClient
    from busbar.bus.params import RebalancePlan

app = n.command_group("Move workers so that clusters are in balance.")
Where = Annotated[
    str | None,
    typer.Argument(
        help="A cluster, or cluster/group; left out: all that you may change.", autocompletion=complete_in
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@n.subcommand(
    app,
    "rebalance",
    "plan_rebalance",
    "apply_rebalance",
    instead="Move workers to nodes with the labels they need, and evenly over labels and nodes. The moves are"
    " shown first.",
)
def rebalance(
    where: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the moves.")] = False,
    yes: Yes = False,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
) -> None:
    from ..calls.rebalancing import Ordering, act, ask, is_balanced, moves_of, show

    async def work(bus: BusClient) -> None:
        by = Ordering(
            lambda: _plan(bus, where),
            lambda plan: bus.apply_rebalance(moves=moves_of(plan), fence=plan.fence),
        )
        plan = await by.plan()
        if output.output_format() == "table":
            show(plan)
        elif dry_run or is_balanced(plan):
            output.dump(output.merged(plan))
        if dry_run or is_balanced(plan):
            return
        ask(len(plan.moves), yes)
        await act(bus, by, plan, timeout if wait else None)

    run(work)


async def _plan(bus: BusClient, where: str | None) -> RebalancePlan:
    """The plan for a cluster, a `cluster/group`, or all clusters."""
    if where is None:
        return await bus.plan_rebalance()
    cluster, slash, group = where.partition("/")
    found = await bus.find_cluster(cluster)
    oid = (await bus.find_group(group, cluster)).oid if slash else None
    return await bus.plan_rebalance(routercluster_oid=found.oid, workergroup_oid=oid)
