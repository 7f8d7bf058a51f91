"""busbar event: lifecycle events, stored and live."""

from __future__ import annotations

from typing import Annotated

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.client.errors import EventsLostError
from busbar.bus.client.events import PAGE, EventWatch, cluster_of
from busbar.bus.client.names import is_oid
from busbar.bus.clock import SystemClock
from busbar.bus.events import EVENTS
from busbar.bus.messages import Event

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster, complete_event_type, complete_object
from ..arguments.units import age_ms
from ..calls.connect import run
from ..errors import usage
from ..printing import output

app = n.command_group("Lifecycle events: stored or live.")

COLUMNS: list[output.Column[Event]] = [
    ("sequence", lambda e: int(e.sequence)),
    ("time", lambda e: e.time),
    ("event", lambda e: short_type(e)),
    ("subject", lambda e: subject(e)),
    ("reason", lambda e: reason(e)),
]
WIDE: list[output.Column[Event]] = [
    ("id", lambda e: e.id),
    ("source", lambda e: e.source),
    ("oid", lambda e: e.data.get("oid")),
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


Type = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        "-t",
        help="Only these: worker_failed, or node for all of nodes; may be repeated.",
        autocompletion=complete_event_type,
    ),
]
Of = Annotated[
    str | None,
    typer.Option(
        "--object",
        help="Only of edge and all in it, of edge/web, edge/web-3, a node, or an oid.",
        autocompletion=complete_object,
    ),
]


@n.subcommand(app, "list", "get_events", instead="List stored events, the latest at the end.")
def list_(
    type_: Type = None,
    object_: Of = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="After this number, or not older than: 90s, 5m, 2h, 1d, or a time."),
    ] = None,
    before: Annotated[int | None, typer.Option("--before", min=1, help="Before this number.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE)] = 50,
) -> None:
    number, age = _since(since)
    types = types_of(type_)
    # After a number the first ones, so that the last one's number asks for the next page.
    found = run(
        lambda bus: bus.get_events(
            since=number or 0,
            limit=limit,
            types=types,
            object=object_,
            within_ms=age,
            before=before,
            last=number is None,
        )
    )
    output.show_list(found, COLUMNS, "no events", wide=WIDE)


@n.subcommand(app, "watch", "get_events", instead="Print events as they happen, until interrupted.")
def watch(
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="Only this cluster's.", autocompletion=complete_cluster),
    ] = None,
    type_: Type = None,
    object_: Of = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Begin after this number, or so long ago: 90s, 5m, 2h, 1d, or a time."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Exit after this many events.")] = None,
) -> None:
    if object_ is not None and cluster is not None:
        raise usage("--object and --cluster exclude each other")
    number, age = _since(since)
    run(lambda bus: _watch(bus, cluster, types_of(type_), object_, number, age, count))


def types_of(names: list[str] | None) -> list[str] | None:
    """Types as the contract names them; a kind of object stands for all of its events.

    Raises:
        CliError: there is no such type.
    """
    found: list[str] = []
    for name in names or ():
        short = name.removeprefix("busbar.on_")
        kind = short if short in EVENTS else {"cluster": "routercluster", "group": "workergroup"}.get(short)
        types = [f"{kind}_{verb}" for verb in EVENTS[kind]] if kind else [short]
        if not kind and not any(short == f"{of}_{verb}" for of, verbs in EVENTS.items() for verb in verbs):
            raise usage(
                f"there is no event type '{name}': one of {', '.join(EVENTS)}, or such as worker_failed"
            )
        found += types
    return found or None


def _since(text: str | None) -> tuple[int | None, int | None]:
    """The number of an event, or milliseconds ago."""
    if text is None:
        return None, None
    if text.isascii() and text.isdigit():
        return int(text), None
    return None, age_ms(text, SystemClock().time_ns())


async def _watch(
    bus: BusClient,
    cluster: str | None,
    types: list[str] | None,
    thing: str | None,
    since: int | None,
    age: int | None,
    count: int | None,
) -> None:
    if age is not None:
        found = await bus.get_events(within_ms=age, limit=1)
        since = int(found[0].sequence) - 1 if found else None
    left, name = count, None
    if thing is not None:
        cluster, name, thing = await _object(bus, thing)
    async with bus.watch_events(types=types, object=thing, since=since, cluster=cluster) as watch:
        while left != 0:
            event = await _next(watch)
            if event is None or (name is not None and event.subject.partition("/")[2] != name):
                continue
            if output.output_format() == "table":
                output.say(line(event), flush=True)
            else:
                output.dump(event, stream=True)
            left = None if left is None else left - 1


async def _object(bus: BusClient, thing: str) -> tuple[str | None, str | None, str | None]:
    """What a watch selects by: a cluster's name, an object's name, its oid. A name is a cluster's if there is
    one of that name."""
    where, slash, name = thing.partition("/")
    if slash:
        return where, name, None
    if is_oid(thing):
        return None, None, thing
    names = await bus.list_routerclusters(return_names=True)
    return (thing, None, None) if thing in names else (None, thing, None)


async def _next(watch: EventWatch) -> Event | None:
    """The next event; a gap that can't be filled is reported on stderr."""
    try:
        return await anext(watch)
    except EventsLostError as error:
        output.note(str(error))
        return None
