"""busbar wait: until something runs, is stopped, or has failed, whoever made it so."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.client.errors import GoalLostError
from busbar.bus.messages import Status
from busbar.bus.topics import StatusKind

from ..arguments import common_options as n
from ..calls.connect import run, split_reference
from ..calls.wait import until
from ..errors import CliError, ExitCode
from ..printing import output

app = n.command_group("Wait until an object runs, is stopped, or has failed.")

For = Annotated[
    Literal["running", "stopped", "failed"],
    typer.Option(
        "--for", help="running (a node: online), stopped (offline), or failed (ERROR, BACKOFF, lost)."
    ),
]
Seconds = Annotated[float, typer.Option("--timeout", min=0.0, help="Seconds to wait.")]
MORE = (
    "It ends at once, with the reason and exit code 1, when a cluster, group or worker fails that is to run."
)


@n.subcommand(app, "cluster", "get_routercluster_by_name", instead=f"Wait for a cluster. {MORE}")
def cluster(cluster: n.ClusterArgument, for_: For = "running", timeout: Seconds = n.DEFAULT_WAIT) -> None:
    async def work(bus: BusClient) -> None:
        found = await bus.find_cluster(cluster)
        title = f"cluster '{found.name}'"
        await _wait(bus, "routercluster", found.name, found.name, found.oid, title, for_, timeout)

    run(work)


@n.subcommand(
    app, "group", "get_routercluster_workergroup_by_name", instead=f"Wait for a worker group. {MORE}"
)
def group(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    for_: For = "running",
    timeout: Seconds = n.DEFAULT_WAIT,
) -> None:
    async def work(bus: BusClient) -> None:
        where, name = split_reference(group, cluster, "group")
        found = await bus.find_group(name, where)
        where = (await bus.find_cluster(found.cluster_oid)).name
        title = f"group '{where}/{found.name}'"
        await _wait(bus, "workergroup", where, found.name, found.oid, title, for_, timeout)

    run(work)


@n.subcommand(app, "worker", "get_worker", instead=f"Wait for a worker. {MORE}")
def worker(
    worker: n.WorkerArgument,
    cluster: n.ClusterOption = None,
    for_: For = "running",
    timeout: Seconds = n.DEFAULT_WAIT,
) -> None:
    async def work(bus: BusClient) -> None:
        found = await bus.find_worker(worker, cluster)
        title = f"worker '{found.cluster}/{found.name}'"
        await _wait(bus, "worker", found.cluster, found.name, found.oid, title, for_, timeout)

    run(work)


@n.subcommand(app, "node", "get_node_by_name", instead="Wait until a node is online, offline, or lost.")
def node(node: n.NodeArgument, for_: For = "running", timeout: Seconds = n.DEFAULT_WAIT) -> None:
    async def work(bus: BusClient) -> None:
        found = await bus.find_node(node)
        await _wait(bus, "node", None, found.name, found.oid, f"node '{found.name}'", for_, timeout)

    run(work)


async def _wait(
    bus: BusClient,
    kind: StatusKind,
    cluster: str | None,
    name: str,
    oid: str,
    title: str,
    wanted: str,
    timeout: float,
) -> None:
    goal = goals.state(kind, wanted)
    async with bus.watch_statuses(kind=kind, cluster=cluster, name=name) as watch:
        try:
            status = await until(watch, goal, title, timeout, oid=oid, name=name)
        except GoalLostError as error:
            if error.status is None:
                raise
            raise CliError(str(error), ExitCode.FAILED, "failed") from None
    shown = status if status is not None else Status(0, 0, "", "gone", name, "", oid=oid)
    output.done(output.merged(shown), f"{title} is {shown.status}")
