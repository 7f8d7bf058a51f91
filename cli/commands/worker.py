"""busbar worker: list, state, restart, logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.client.names import is_oid
from busbar.bus.params import Worker, WorkerStatus

from ..arguments import common_options as n
from ..arguments.completion import complete_group, complete_node
from ..calls.connect import run, split_reference
from ..calls.wait import until
from ..context import HomelessError, state_path
from ..errors import CliError, ExitCode
from ..printing import output
from ..printing.stats import WIDE_COLUMNS, mesh_text, traffic_text, worker_columns

app = n.command_group("Workers: the router processes.")

LOOK_S: Final = 0.2
"""Seconds between reads of a local log file."""


@n.subcommand(app, "list", "list_workers", "get_worker")
def list_(
    cluster: n.ClusterOption = None,
    group: Annotated[
        str | None,
        typer.Option("--group", "-g", help="Of this group: cluster/group.", autocompletion=complete_group),
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", "-n", help="On this node.", autocompletion=complete_node)
    ] = None,
    status: Annotated[
        WorkerStatus | None, typer.Option("--status", help="Only workers in this state.")
    ] = None,
    quiet: n.Quiet = False,
) -> None:
    found = run(lambda bus: _list(bus, cluster, group, node, status))
    found.sort(key=lambda w: (w.cluster, w.name))
    if quiet:
        return output.show_names([f"{w.cluster}/{w.name}" for w in found])
    return output.show_list(found, worker_columns(found), "no workers", wide=WIDE_COLUMNS)


async def _list(
    bus: BusClient, cluster: str | None, group: str | None, node: str | None, status: WorkerStatus | None
) -> list[Worker]:
    cluster_oid = group_oid = None
    if group is not None:
        where, name = split_reference(group, cluster, "group")
        row = await bus.find_group(name, where)
        cluster_oid, group_oid = row.cluster_oid, row.oid
    elif cluster is not None:
        cluster_oid = await bus.cluster_oid(cluster)
    oids = await bus.list_workers(
        routercluster_oid=cluster_oid,
        workergroup_oid=group_oid,
        node_oid=None if node is None else await bus.node_oid(node),
        filter_by_status=status,
    )
    return await bus.fetch_workers(oids)


@n.subcommand(app, "show", "get_worker")
def show(worker: n.WorkerArgument, cluster: n.ClusterOption = None) -> None:
    found = run(lambda bus: _find(bus, worker, cluster))
    first = ("name", "cluster", "status", "reason")
    if output.output_format() != "table":
        return output.show_object(found, first)
    lines = "\n".join(f"{name} {url}" for name, url in found.listeners.items())
    traffic = traffic_text(found.traffic) if found.traffic is not None else None
    more = {"listeners": lines, "traffic": traffic, "mesh": mesh_text(found.mesh)}
    return output.show_object(output.merged(found, **more), first)


async def _find(bus: BusClient, worker: str, cluster: str | None) -> Worker:
    if is_oid(worker):
        return await bus.find_worker(worker)
    where, name = split_reference(worker, cluster, "worker")
    return await bus.find_worker(name, where)


@n.subcommand(app, "restart", "restart_routercluster_worker")
def restart(
    worker: n.WorkerArgument,
    cluster: n.ClusterOption = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    run(lambda bus: _restart(bus, worker, cluster, wait, timeout, expect_version), dry_run=dry_run)


async def _restart(
    bus: BusClient, worker: str, cluster: str | None, waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await _find(bus, worker, cluster)
    title, reached = f"worker '{found.cluster}/{found.name}'", None
    async with bus.watch_statuses(kind="worker", cluster=found.cluster, name=found.name) as watch:
        changed = await bus.restart_routercluster_worker(
            routercluster_oid=found.cluster_oid,
            workergroup_oid=found.workergroup_oid,
            worker_oid=found.oid,
            expect_version=expect_version,
        )
        if waits:
            output.note(f"{title}: {changed.reason}")
            goal = goals.restarted(changed.generation)
            reached = await until(watch, goal, title, timeout, oid=found.oid)
    status = reached.status if reached else f"{changed.status}: {changed.reason}"
    output.done(output.merged(changed, reached), f"{title} is {'restarted, ' if reached else ''}{status}")


@n.subcommand(
    app,
    "logs",
    "follow_worker",
    instead="Print a worker's last output lines, or follow them.",
)
def logs(
    worker: n.WorkerArgument,
    cluster: n.ClusterOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000)] = 100,
) -> None:
    run(lambda bus: _logs(bus, worker, cluster, follow, lines))


async def _logs(bus: BusClient, worker: str, cluster: str | None, follow: bool, lines: int) -> None:
    found = await _find(bus, worker, cluster)
    if found.node is None:
        raise CliError(f"worker '{found.name}' is not placed: {found.reason or found.status}")
    path = _log_here(found.node, found.oid)
    if path is not None and path.exists():
        await _local(bus, path, follow, lines)
    else:
        await _remote(bus, found, follow, lines)


def _log_here(node: str, oid: str) -> Path | None:
    """Where the log is if that agent is of this machine and user."""
    try:
        return state_path(os.environ) / "agents" / node / "logs" / f"{oid}.log"
    except HomelessError:
        return None


async def _local(bus: BusClient, path: Path, follow: bool, lines: int) -> None:
    position = _print_tail(path, lines)
    while follow:
        await bus.clock.sleep(LOOK_S)
        size = _size(path)
        # The agent truncates a log that has grown too long: read it from the start.
        position = _print_from(path, 0 if size < position else position) if size != position else position


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _print_tail(path: Path, lines: int) -> int:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1024 * 1024))
        text = file.read()
    for line in text.decode(errors="replace").splitlines()[-lines:] if lines else ():
        _say(line)
    return end


def _print_from(path: Path, start: int) -> int:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(1024 * 1024)
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        _say(line)
    return start + len(whole)


async def _remote(bus: BusClient, worker: Worker, follow: bool, lines: int) -> None:
    async with await bus.watch_output(worker.oid, lines=lines, follow=follow) as chunks:
        async for chunk in chunks:
            if chunk.dropped:
                _say_dropped(chunk.dropped)
            for line in chunk.lines:
                _say(line)
        if not chunks.heard:
            raise CliError(chunks.silence, ExitCode.TIMEOUT, "timeout")


def _say(line: str) -> None:
    if output.output_format() != "table":
        return output.dump({"line": line}, stream=True)
    return output.say(line.expandtabs(), flush=True)


def _say_dropped(count: int) -> None:
    if output.output_format() != "table":
        return output.dump({"dropped": count}, stream=True)
    return output.say(f"... {count} lines dropped", flush=True)
