"""busbar check: one line and an exit code, for Nagios, Icinga, Checkmk and what else runs plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Annotated, Final, Literal

import typer
from busbar.bus.params import Stat
from busbar.bus.printable import printable
from busbar.bus.routers.exposure import AS_DEFINED
from msgspec import Struct

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster
from ..calls.connect import run
from ..errors import EXPECTED, CliError, ExitCode, exit_code, sentence
from ..printing import output
from .status import Realm, causes, gather

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Severity(IntEnum):
    """The exit codes of a plugin (Monitoring Plugins Development Guidelines, section 2)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Result(Struct, frozen=True):
    """What a check found. `figures` are numbers of this moment."""

    severity: str
    text: str
    figures: dict[str, int]


_LINES: Final = 20
"""Problems that are printed, each on a line of its own."""


@n.subcommand(
    app,
    "check",
    "get_manager",
    instead="One line and an exit code for monitoring: 0 OK, 1 warning, 2 critical, 3 unknown.",
)
def check(
    cluster: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLUSTER]...",
            help="Only these; nodes are left out then.",
            autocompletion=complete_cluster,
        ),
    ] = None,
    style: Annotated[
        Literal["nagios"], typer.Option("--format", help="nagios: text|figures, as plugins print it.")
    ] = "nagios",
) -> None:
    try:
        found = judge(run(gather), cluster or ())
    except (CliError, *EXPECTED, asyncio.CancelledError) as error:
        found = _failed(error)
    if output.output_format() != "table":
        output.dump(found)
    else:
        _print(found)
    raise typer.Exit(Severity[found.severity])


def report_unknown(text: str) -> int:
    """Say why there was no check: its words are wrong. Returns the exit code."""
    _print(Result(Severity.UNKNOWN.name, text, {}))
    return Severity.UNKNOWN


def _print(found: Result) -> None:
    for line in f"BUSBAR {found.severity} - {plugin_text(found)}".split("\n"):
        output.say(line)


def _failed(error: BaseException) -> Result:
    critical = exit_code(error) in (ExitCode.UNREACHABLE, ExitCode.TIMEOUT)
    severity = Severity.CRITICAL if critical else Severity.UNKNOWN
    return Result(severity.name, sentence(error), {})


def judge(realm: Realm, only: Iterable[str] = ()) -> Result:
    """How bad it is. Pure.

    Critical: a cluster that has been started has no worker ready; a node is lost; the brake is on.
    Warning: anything else that `busbar status` calls a problem.

    Raises:
        CliError: there is no cluster of such a name.
    """
    wanted = list(only)
    known = {row.name: row for row in realm.clusters}
    for name in wanted:
        if name not in known:
            raise CliError(f"no cluster '{name}'", ExitCode.NOT_FOUND, "no_such_object")
    clusters = [known[name] for name in wanted] or realm.clusters
    nodes = [] if wanted else realm.nodes
    manager = realm.manager
    critical = [f"the brake is on: {manager.brake}"] if manager.brake else []
    critical += [f"cluster {row.name}: no worker is ready" for row in clusters if _is_down(row)]
    critical += [f"node {row.name} is lost" for row in nodes if row.status == "lost"]
    problems = [] if wanted else [f"manager: {text}" for text in manager.conditions]
    for kind, rows in (("cluster", clusters), ("node", nodes)):
        problems += [f"{kind} {row.name}: {cause}" for row in rows for cause in causes(row)]
    problems = [each for each in dict.fromkeys(problems) if not each.endswith(AS_DEFINED)]
    running = sum(row.status == "RUNNING" for row in clusters)
    figures = {
        "clusters": len(clusters),
        "running": running,
        "desired": sum(row.scale for row in clusters if row.status != "STOPPED"),
        "ready": sum(row.ready for row in clusters),
    }
    if not wanted:
        figures |= {"nodes": len(nodes), "online": sum(row.status == "online" for row in nodes)}
    lines = [_summary(figures), *critical, *(each for each in problems if each not in critical)]
    severity = Severity.CRITICAL if critical else Severity.WARNING if problems else Severity.OK
    more = len(lines) - _LINES
    # What nodes say is on one line each, whatever is in it.
    text = "\n".join(map(printable, [*lines[:_LINES], f"and {more} more"] if more > 0 else lines))
    return Result(severity.name, text, figures)


def _is_down(row: Stat) -> bool:
    return row.status in ("RUNNING", "DEGRADED", "ERROR") and row.scale > 0 and not row.ready


def _summary(figures: Mapping[str, int]) -> str:
    text = f"{figures['ready']} of {figures['desired']} workers ready, {figures['running']} clusters running"
    return text + (f", {figures['online']} of {figures['nodes']} nodes online" if "nodes" in figures else "")


def plugin_text(found: Result) -> str:
    """The first line with the figures behind a bar, then the others. A bar within a text would end it."""
    first, *others = found.text.replace("|", "/").split("\n")
    figures = " ".join(f"{name}={number}" for name, number in found.figures.items())
    return "\n".join([f"{first} | {figures}" if figures else first, *others])
