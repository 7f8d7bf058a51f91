"""busbar worker: where they run, how they are, what they print."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from busbar.bus.connection.link import Message
from busbar.bus.decode import parse
from busbar.bus.errors import BusError

from .. import common_options as n
from .. import output
from ..connect import Session, run
from ..context import state_path
from ..errors import CliError
from ..stats import WORKER_COLUMNS

app = n.noun("Workers: the router processes.")

WorkerArgument = Annotated[str, typer.Argument(help="cluster/worker, its name with -c, or oid.")]
FOLLOW: Final = "follow_worker"
LEASE_MS: Final = 30_000
"""How long a node keeps sending without being asked again."""
LOOK_S: Final = 0.2


@n.verb(app, "list", "list_workers", "get_worker")
def list_(
    cluster: n.ClusterOption = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Of this group: cluster/group.")] = None,
    node: Annotated[
        str | None, typer.Option("--node", "-n", help="On this node.", autocompletion=n.complete_node)
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only workers in this state.")] = None,
    quiet: n.Quiet = False,
) -> None:
    found = run(lambda s: _list(s, cluster, group, node, status))
    found.sort(key=lambda w: (w["cluster"], w["name"]))
    if quiet:
        return output.show_names([f"{w['cluster']}/{w['name']}" for w in found])
    return output.show_list(found, WORKER_COLUMNS, "no workers")


async def _list(
    s: Session, cluster: str | None, group: str | None, node: str | None, status: str | None
) -> list[dict[str, Any]]:
    params: dict[str, Any] = {"filter_by_status": status}
    if group is not None:
        row = await s.group(group, cluster)
        params |= {"routercluster_oid": row["cluster_oid"], "workergroup_oid": row["oid"]}
    elif cluster is not None:
        params["routercluster_oid"] = await s.cluster_oid(cluster)
    if node is not None:
        params["node_oid"] = await s.node_oid(node)
    return await s.every("get_worker", "worker_oid", await s.call("list_workers", **params))


@n.verb(app, "show", "get_worker")
def show(worker: WorkerArgument, cluster: n.ClusterOption = None) -> None:
    output.show_object(run(lambda s: _get(s, worker, cluster)), ("name", "cluster", "status", "reason"))


async def _get(s: Session, worker: str, cluster: str | None) -> dict[str, Any]:
    found: dict[str, Any] = await s.call("get_worker", worker_oid=await s.worker_oid(worker, cluster))
    return found


@n.verb(
    app,
    "logs",
    FOLLOW,
    instead="Print a worker's last output lines, or follow them.",
)
def logs(
    worker: WorkerArgument,
    cluster: n.ClusterOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000)] = 100,
) -> None:
    run(lambda s: _logs(s, worker, cluster, follow, lines))


async def _logs(s: Session, worker: str, cluster: str | None, follow: bool, lines: int) -> None:
    found = await _get(s, worker, cluster)
    if found["node"] is None:
        raise CliError(f"worker '{found['name']}' runs nowhere: {found['reason'] or found['status']}")
    path = state_path(os.environ) / "agents" / found["node"] / "logs" / f"{found['oid']}.log"
    if path.exists():
        await _local(s, path, follow, lines)
    else:
        await _remote(s, found, follow, lines)


async def _local(s: Session, path: Path, follow: bool, lines: int) -> None:
    position = _print_tail(path, lines)
    while follow:
        await s.clock.sleep(LOOK_S)
        size = _size(path)
        # The agent empties a log that has grown too long: then it starts anew.
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
        print(output.as_text(line))
    return end


def _print_from(path: Path, start: int) -> int:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(1024 * 1024)
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        print(output.as_text(line), flush=True)
    return start + len(whole)


async def _remote(s: Session, worker: dict[str, Any], follow: bool, lines: int) -> None:
    chunks: asyncio.Queue[Message] = asyncio.Queue(1000)

    def note(message: Message) -> None:
        if not chunks.full():
            chunks.put_nowait(message)

    s.link.subscribe(s.topics.node_log(worker["node"], worker["name"]), note, 0)
    while True:
        await s.call(FOLLOW, worker_oid=worker["oid"], lines=lines, lease_ms=LEASE_MS)
        lines = 0
        try:
            async with asyncio.timeout(LEASE_MS / 2000 if follow else 1.0):
                while True:
                    for line in _lines_of(await chunks.get(), worker["cluster"]):
                        print(output.as_text(line), flush=True)
        except TimeoutError:
            if not follow:
                return


def _lines_of(message: Message, cluster: str) -> Iterator[str]:
    try:
        chunk = parse(message.payload)
    except BusError:
        return
    if chunk.get("cluster") not in (None, cluster):
        return
    if chunk.get("dropped"):
        yield f"... {chunk['dropped']} lines dropped"
    yield from map(str, chunk.get("lines", []))
