"""busbar top: who uses what, live."""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import Annotated, Any, Final, Literal

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.client.reports import NodeReport
from busbar.bus.client.statuses import StatusUpdate
from busbar.bus.clock import wait_or_sleep
from busbar.bus.params import Node
from msgspec import UNSET

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster, complete_node
from ..calls.connect import run
from ..printing import numbers, output
from ..printing.top import Board, NodeRow, Picture, Sample, WorkerRow, head

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

EVERY_S: Final = 1.0
"""Seconds between two pictures, at least."""
FIRST_S: Final = 0.3
"""Seconds in which retained statuses come in, besides what is asked for."""
NODE_COLUMNS: list[output.Column[NodeRow]] = [
    ("node", lambda row: row.node),
    ("status", lambda row: row.status),
    ("workers", lambda row: row.workers),
    ("cpu", lambda row: numbers.percent(row.cpu)),
    ("memory", lambda row: numbers.size(row.rss)),
]
WORKER_COLUMNS: list[output.Column[WorkerRow]] = [
    ("worker", lambda row: row.worker),
    ("status", lambda row: row.status),
    ("node", lambda row: row.node),
    ("cpu", lambda row: numbers.percent(row.cpu)),
    ("memory", lambda row: numbers.size(row.rss)),
    ("up", lambda row: numbers.duration(row.uptime_ms)),
    ("restarts", lambda row: row.restarts or ""),
    ("reason", lambda row: row.reason),
]
TRAFFIC_COLUMNS: list[output.Column[WorkerRow]] = [
    ("clients", lambda row: numbers.count(row.connections)),
    ("in/s", lambda row: numbers.count(row.messages_in)),
    ("out/s", lambda row: numbers.count(row.messages_out)),
]
"""Of workers whose runtime tells it."""


@n.subcommand(
    app,
    "top",
    "stat_routercluster",
    instead="Show what nodes and workers use, live. Not on a terminal: once.",
)
def top(
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="Only this cluster's.", autocompletion=complete_cluster),
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", "-n", help="On this node.", autocompletion=complete_node)
    ] = None,
    sort: Annotated[
        Literal["cpu", "memory", "restarts", "name"], typer.Option("--sort", help="The order of workers.")
    ] = "cpu",
    once: Annotated[bool, typer.Option("--once", help="One picture.")] = False,
) -> None:
    live = sys.stdout.isatty() and output.output_format() == "table" and not once

    async def work(bus: BusClient) -> None:
        board = Board(bus.topics.realm)
        changed = asyncio.Event()
        if cluster is not None:
            await bus.find_cluster(cluster)
        if node is not None:
            await bus.find_node(node)
        async with bus.watch_statuses() as statuses, bus.watch_reports() as reports:
            await _begin(bus, board)
            tasks = [
                asyncio.create_task(_heed(watch, board, changed), name="top") for watch in (statuses, reports)
            ]
            try:
                await bus.clock.sleep(FIRST_S)
                show(board.picture(sort, cluster, node), live)
                while live:
                    await changed.wait()
                    changed.clear()
                    show(board.picture(sort, cluster, node), live)
                    await wait_or_sleep(bus.clock, asyncio.Event(), EVERY_S)
            finally:
                for task in tasks:
                    task.cancel()

    run(work)


async def _begin(bus: BusClient, board: Board) -> None:
    """What was used so far, asked for once; from then on all comes by itself."""
    for row in await _nodes(bus):
        board.node(row.name, row.status)
    oids = await bus.list_routerclusters()
    for stat in await bus.fetch_each(oids, lambda oid: bus.stat_routercluster(routercluster_oid=oid)):
        for w in stat.workers:
            name = f"{w.cluster}/{w.name}"
            board.worker(name, w.status, w.node, w.reason, w.restarts, w.pid)
            board.usage(name, Sample(w.pid, w.uptime_ms, w.cpu_s, w.rss, traffic=w.traffic))


async def _nodes(bus: BusClient) -> list[Node]:
    return await bus.fetch_nodes(await bus.list_nodes())


async def _heed(watch: Any, board: Board, changed: asyncio.Event) -> None:
    async for update in watch:
        if isinstance(update, NodeReport):
            for w in update.report.workers:
                sample = Sample(w.pid, w.uptime_ms, w.cpu_s, w.rss, traffic=w.traffic or None)
                board.usage(f"{w.cluster}/{w.worker}", sample)
        else:
            _note(board, update)
        changed.set()


def _note(board: Board, update: StatusUpdate) -> None:
    status = update.status
    if update.kind == "node":
        board.node(update.name, None if status is None else status.status)
    elif update.kind == "worker":
        name = f"{update.cluster}/{update.name}"
        if status is None:
            board.worker(name, None, None, None, 0, None)
        else:
            node, reason, pid = (
                None if value is UNSET else value for value in (status.node, status.reason, status.pid)
            )
            restarts = 0 if status.restarts is UNSET else status.restarts
            board.worker(name, status.status, node, reason, restarts, pid)  # type: ignore[arg-type]


def show(picture: Picture, live: bool) -> None:
    """Print it: on a terminal over the one before, as many workers as there is room for."""
    if output.output_format() != "table":
        return output.dump(picture)
    room = len(picture.workers)
    if live:
        height = shutil.get_terminal_size().lines
        room = max(3, height - len(picture.nodes) - 9)
        output.clear()
    output.say(head(picture))
    output.say("")
    output.show_list(picture.nodes, NODE_COLUMNS, "no nodes")
    output.say("")
    told = TRAFFIC_COLUMNS if any(row.connections is not None for row in picture.workers) else []
    columns = [*WORKER_COLUMNS[:-1], *told, WORKER_COLUMNS[-1]]
    output.show_list(picture.workers[:room], columns, "no workers")
    if len(picture.workers) > room:
        output.say(f"and {len(picture.workers) - room} more workers")
    sys.stdout.flush()
    return None
