"""busbar logs: the output of a cluster's, a group's or one worker's processes, from all nodes."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.client.logs import LogItem, LogLine, LogNote, LogWatch
from busbar.bus.clock import SystemClock

from ..arguments import common_options as n
from ..arguments.completion import complete_in
from ..arguments.units import age_ms
from ..calls.connect import run
from ..errors import usage
from ..printing import output

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

BATCH: Final = 500
"""Lines that are printed at once."""
TAIL: Final = 100


@n.subcommand(
    app,
    "logs",
    "follow_worker",
    instead="Print the output of all workers of a cluster or group, or of one worker, wherever they run.",
)
def logs(
    target: Annotated[
        str,
        typer.Argument(
            help="cluster, cluster/group, cluster/worker (or its name with -c), or a worker's oid.",
            autocompletion=complete_in,
        ),
    ],
    cluster: n.ClusterOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until interrupted.")] = False,
    tail: Annotated[
        int | None,
        typer.Option("--tail", "-n", min=0, max=1000, help="Past lines of each worker; default: 100."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Past lines since then: 90s, 5m, 2h, or a time.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", help="Only lines in which this regular expression is found.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Lines alone, without the worker's name.")] = False,
) -> None:
    age = None if since is None else age_ms(since, SystemClock().time_ns())
    wanted = _pattern(grep)
    lines = tail if tail is not None else TAIL if since is None else 1000

    async def work(bus: BusClient) -> None:
        watch = await bus.watch_logs(target, cluster, lines=lines, since_ms=age, follow=follow)
        async with watch:
            await _print_all(watch, Printer(wanted, raw))

    run(work)


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return None if grep is None else re.compile(grep)
    except re.error as error:
        raise usage(f"--grep {grep!r} is no regular expression: {error}") from None


async def _print_all(watch: LogWatch, printer: Printer) -> None:
    """Print in a thread, in which a slow terminal holds up nothing but itself: what does not fit into the
    watch meanwhile becomes a gap."""
    async for first in watch:
        items = [first]
        while len(items) < BATCH and (item := watch.take()) is not None:
            items.append(item)
        await asyncio.to_thread(printer.print, items)


class Printer:
    """Prints lines with the worker's name in front, and notes."""

    def __init__(self, wanted: re.Pattern[str] | None, raw: bool) -> None:
        self._wanted, self._raw = wanted, raw
        self._width = 0

    def print(self, items: Sequence[LogItem]) -> None:
        """Print them in their order."""
        for item in items:
            if isinstance(item, LogNote):
                self._note(item)
            elif self._wanted is None or self._wanted.search(item.text):
                self._line(item)

    def _line(self, line: LogLine) -> None:
        if output.output_format() != "table":
            shown = {"worker": line.worker, "node": line.node, "line": line.text}
            return output.dump(shown, stream=True)
        if self._raw:
            return output.say(line.text.expandtabs(), flush=True)
        return output.say(self._prefix(line.worker), line.text.expandtabs(), flush=True)

    def _note(self, note: LogNote) -> None:
        if output.output_format() != "table":
            shown = {
                "worker": note.worker, "node": note.node, "note": note.text, "missing": note.missing,
                "lines": note.lines,
            }  # fmt: skip
            return output.dump(shown, stream=True)
        if self._raw:
            return output.note(f"{note.worker}: {note.text}", flush=True)
        return output.say(self._prefix(note.worker), f"... {note.text}", flush=True)

    def _prefix(self, worker: str) -> str:
        """`web-1 | `, as wide as the widest so far."""
        name = worker.rpartition("/")[2]
        self._width = max(self._width, len(name))
        return output.tinted(f"{name:<{self._width}} | ", zlib.crc32(worker.encode()))
