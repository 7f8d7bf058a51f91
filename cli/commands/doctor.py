"""busbar doctor: what is wrong with the installation, tried from here, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from ..arguments import common_options as n
from ..calls.connect import call_timeout
from ..context import global_options, settings_in_force
from ..doctor.checks import Check, checks, worst
from ..doctor.tries import examine
from ..errors import ExitCode
from ..printing import output

app = n.command_group("What is wrong with the installation, and what to do.")

MARKS = {"ok": " ", "warning": "?", "failed": "!"}


@n.subcommand(
    app,
    "doctor",
    instead="Try the broker, the manager and this machine's settings; say what is wrong and what to do.",
)
def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 8 on warnings too.")] = False,
) -> None:
    settings = settings_in_force(global_options(), os.environ)
    found = checks(asyncio.run(examine(settings, call_timeout())))
    if output.output_format() != "table":
        output.dump(found)
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            output.say(line(check, width))
    if worst(found) == "failed" or (strict and worst(found) == "warning"):
        raise typer.Exit(ExitCode.PROBLEMS)


def line(check: Check, width: int) -> str:
    """One check on one line."""
    do = f" -> {check.do}" if check.do else ""
    return f"{MARKS[check.status]} {check.name:<{width}}  {check.status:<7}  {check.text}{do}"
