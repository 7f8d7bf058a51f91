"""busbar event: lifecycle events, stored and live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from busbar.bus.connection.link import Message
from busbar.bus.decode import parse
from busbar.bus.errors import BusError

from .. import common_options as n
from .. import output
from ..connect import Session, run

app = n.noun("Lifecycle events: stored or live.")

QUEUE: Final = 10_000
"""Live events not printed yet; what does not fit shows up as a gap and is fetched."""
PAGE: Final = 1000

COLUMNS: list[output.Column] = [
    ("sequence", lambda e: int(e["sequence"])),
    ("time", "time"),
    ("event", lambda e: short_type(e)),
    ("subject", lambda e: subject(e)),
    ("reason", lambda e: reason(e)),
]


def short_type(event: Mapping[str, Any]) -> str:
    """The event's type without what all have in common."""
    return str(event.get("type", "")).removeprefix("busbar.on_")


def reason(event: Mapping[str, Any]) -> str:
    """Why, or by whom."""
    data = event.get("data") or {}
    who = (data.get("who") or {}).get("authid")
    return str(data.get("reason") or (f"by {who}" if who else ""))


def subject(event: Mapping[str, Any]) -> str:
    """What it happened to: `worker edge/web-1`."""
    kind, _, name = str(event.get("subject", "")).partition("/")
    cluster = cluster_of(event)
    return f"{kind} {cluster}/{name}" if cluster and kind in ("workergroup", "worker") else f"{kind} {name}"


def line(event: Mapping[str, Any]) -> str:
    """One event on one line."""
    parts = [
        str(event.get("time", "")),
        f"{short_type(event):<24}",
        f"{subject(event):<20}",
        reason(event),
    ]
    return output.as_text("  ".join(parts)).replace("\n", " ").rstrip()


@n.verb(app, "list", "get_events")
def list_(
    since: Annotated[
        int | None, typer.Option("--since", min=0, help="After this sequence; default: the latest events.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE)] = 50,
) -> None:
    async def work(s: Session) -> Any:
        start = since
        if start is None:
            start = max(0, int((await s.call("get_manager"))["sequence"]) - limit)
        return await s.call("get_events", since=start, limit=limit)

    output.show_list(run(work), COLUMNS, "no events")


@n.verb(app, "watch", "get_events", instead="Print events as they happen, until interrupted.")
def watch(
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="Only this cluster's.", autocompletion=n.complete_cluster),
    ] = None,
    since: Annotated[int | None, typer.Option("--since", min=0, help="Begin after this sequence.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Exit after this many events.")] = None,
) -> None:
    run(lambda s: _watch(s, cluster, since, count))


async def _watch(s: Session, cluster: str | None, since: int | None, count: int | None) -> None:
    queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE)

    def note(message: Message) -> None:
        if not queue.full():
            queue.put_nowait(message)

    s.link.subscribe(s.topics.all_events(), note)
    printer = Printer(cluster, count)
    last = int((await s.call("get_manager"))["sequence"]) if since is None else since
    if since is not None:
        last = await _fetch(s, printer, last)
    while not printer.full:
        event = _parse(await queue.get())
        sequence = int(event["sequence"]) if event else 0
        if event is None or sequence <= last:
            continue
        if sequence > last + 1:
            last = await _fetch(s, printer, last, sequence - 1)
        printer.show(event)
        last = max(last, sequence)


def _parse(message: Message) -> dict[str, Any] | None:
    try:
        event = parse(message.payload)
        int(event["sequence"])
    except (BusError, KeyError, ValueError, TypeError):
        return None
    return event


async def _fetch(s: Session, printer: Printer, last: int, until: int | None = None) -> int:
    """Print stored events after `last`, up to `until`; return the last sequence."""
    while not printer.full and (until is None or last < until):
        page = await s.call("get_events", since=last, limit=min(PAGE, until - last) if until else PAGE)
        for event in page:
            printer.show(event)
            last = int(event["sequence"])
        if len(page) < PAGE:
            break
    return last if until is None else max(last, until)


class Printer:
    """Prints events as they come, of one cluster or of all, at most `count`."""

    def __init__(self, cluster: str | None, count: int | None) -> None:
        self._cluster, self._left = cluster, count
        self._json = output.output_format() != "table"

    @property
    def full(self) -> bool:
        """Enough was printed."""
        return self._left == 0

    def show(self, event: Mapping[str, Any]) -> None:
        """Print one event (one line of JSON with -o json), unless it is another cluster's."""
        if self.full or (self._cluster is not None and self._cluster != cluster_of(event)):
            return
        print(json.dumps(event, ensure_ascii=False) if self._json else line(event), flush=True)
        if self._left is not None:
            self._left -= 1


def cluster_of(event: Mapping[str, Any]) -> str | None:
    """The cluster an event belongs to: from its data, else from its subject `routercluster/edge…`."""
    data = event.get("data") or {}
    if data.get("cluster"):
        return str(data["cluster"])
    kind, _, name = str(event.get("subject", "")).partition("/")
    return name if kind == "routercluster" else None
