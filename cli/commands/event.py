"""busbar event: lifecycle events, stored and live."""

from __future__ import annotations

from typing import Annotated

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.client.errors import EventsLostError
from busbar.bus.client.events import PAGE, EventWatch, cluster_of
from busbar.bus.messages import Event

from .. import common_options as n
from .. import output
from ..connect import run

app = n.command_group("Lifecycle events: stored or live.")

COLUMNS: list[output.Column[Event]] = [
    ("sequence", lambda e: int(e.sequence)),
    ("time", lambda e: e.time),
    ("event", lambda e: short_type(e)),
    ("subject", lambda e: subject(e)),
    ("reason", lambda e: reason(e)),
]


def short_type(event: Event) -> str:
    """The event's type without the common prefix."""
    return event.type.removeprefix("busbar.on_")


def reason(event: Event) -> str:
    """The reason, or the user who caused it."""
    who = (event.data.get("who") or {}).get("authid")
    return str(event.data.get("reason") or (f"by {who}" if who else ""))


def subject(event: Event) -> str:
    """The object: `worker edge/web-1`."""
    kind, _, name = event.subject.partition("/")
    cluster = cluster_of(event)
    return f"{kind} {cluster}/{name}" if cluster and kind in ("workergroup", "worker") else f"{kind} {name}"


def line(event: Event) -> str:
    """One event on one line."""
    parts = [
        event.time,
        f"{short_type(event):<24}",
        f"{subject(event):<20}",
        reason(event),
    ]
    return "  ".join(parts).replace("\n", " ").rstrip()


@n.subcommand(app, "list", "get_events")
def list_(
    since: Annotated[
        int | None, typer.Option("--since", min=0, help="After this sequence; default: the latest events.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE)] = 50,
) -> None:
    async def work(bus: BusClient) -> list[Event]:
        start = since
        if start is None:
            start = max(0, (await bus.get_manager()).sequence - limit)
        return await bus.get_events(since=start, limit=limit)

    output.show_list(run(work), COLUMNS, "no events")


@n.subcommand(app, "watch", "get_events", instead="Print events as they happen, until interrupted.")
def watch(
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="Only this cluster's.", autocompletion=n.complete_cluster),
    ] = None,
    since: Annotated[int | None, typer.Option("--since", min=0, help="Begin after this sequence.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Exit after this many events.")] = None,
) -> None:
    run(lambda bus: _watch(bus, cluster, since, count))


async def _watch(bus: BusClient, cluster: str | None, since: int | None, count: int | None) -> None:
    left = count
    async with bus.watch_events(since=since, cluster=cluster) as watch:
        while left != 0:
            event = await _next(watch)
            if event is None:
                continue
            if output.output_format() == "table":
                output.say(line(event), flush=True)
            else:
                output.dump(event, stream=True)
            left = None if left is None else left - 1


async def _next(watch: EventWatch) -> Event | None:
    """The next event; a gap that can't be filled is reported on stderr."""
    try:
        return await anext(watch)
    except EventsLostError as error:
        output.note(str(error))
        return None
