"""busbar endpoints: where clients find the ready workers of a group, also for load balancers."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.client.statuses import StatusWatch
from busbar.bus.clock import SystemClock
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.messages import Endpoint
from busbar.bus.printable import printable
from busbar.bus.system.files import replacing
from msgspec import to_builtins

from ..arguments import common_options as n
from ..arguments.completion import complete_listener
from ..calls.connect import run, split_reference
from ..errors import CliError, usage
from ..load_balancers import RENDERINGS, NoRenderingError, servers, service
from ..printing import output

SETTLE_S: Final = 1.0
"""Changes within this time are one: a group that starts is told once."""
COMMAND_S: Final = 60.0
"""Bound of one run of the command."""
RETRY_S: Final = 5.0
"""Pause until what failed is tried again."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Format(StrEnum):
    """How endpoints are printed."""

    URL = "url"
    JSON = "json"
    HAPROXY = "haproxy"
    NGINX = "nginx"
    SRV = "srv"


Render = Callable[[Sequence[Endpoint]], str]


@n.subcommand(
    app,
    "endpoints",
    "stat_routercluster_workergroup",
    instead="Print where clients find the ready workers of a group.",
    more="haproxy: a whole proxy with health checks. nginx: for its stream block. srv: DNS records. "
    "With --watch again at each change; --exec then runs a command, such as 'systemctl reload haproxy'.",
)
def endpoints(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="What to print; url unless given.")
    ] = None,
    listener: Annotated[
        str | None,
        typer.Option("--listener", "-l", help="Only this listener's.", autocompletion=complete_listener),
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", help="Where the load balancer listens: HOST:PORT.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Write it to this file, whole, instead of printing it.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again at each change, until interrupted.")
    ] = False,
    exec: Annotated[
        str | None, typer.Option("--exec", help="Command to run after each change (without a shell).")
    ] = None,
) -> None:
    if exec is not None and not watch:
        raise usage("--exec runs a command at each change: say --watch too")
    where, name = split_reference(group, cluster, "group")
    structured = output.output_format() if format is None and output.output_format() != "table" else None
    render = _renderer(where, name, format or Format.URL, listener, bind, structured)
    command = shlex.split(exec) if exec else []
    if watch:
        return run(lambda bus: _watch(bus, where, name, render, file, command))
    found = run(lambda bus: _fetch(bus, where, name))
    if not found:
        raise CliError(f"group '{where}/{name}' has no ready worker")
    _put(render(found), file)
    return None


def _renderer(
    cluster: str, group: str, format: Format, listener: str | None, bind: str | None, structured: str | None
) -> Render:
    """What turns endpoints into text; a CliError for what can't be rendered. `structured`: json or yaml."""

    def render(found: Sequence[Endpoint]) -> str:
        mine = [each for each in found if listener in (None, each.name)]
        if not mine:
            names = ", ".join(dict.fromkeys(each.name for each in found))
            raise usage(f"--listener {listener}: the group has {names}")
        if structured is not None or format is Format.JSON:
            return output.document(to_builtins(mine), structured or "json", ascii_only=True)
        if format is Format.URL:
            return "".join(f"{printable(each.url)}\n" for each in mine)
        try:
            return RENDERINGS[format](service(cluster, group, servers(found), listener, bind))
        except NoRenderingError as error:
            raise usage(str(error)) from None

    return render


async def _fetch(bus: BusClient, cluster: str, group: str) -> list[Endpoint]:
    found = await bus.find_group(group, cluster)
    stat = await bus.stat_routercluster_workergroup(
        routercluster_oid=found.cluster_oid, workergroup_oid=found.oid
    )
    return stat.endpoints


async def _watch(
    bus: BusClient, cluster: str, group: str, render: Render, file: Path | None, command: Sequence[str]
) -> None:
    """Each change once. While no worker is ready, what was told last stays: nothing better is known.

    What fails is said and tried again; only a group that is gone, and a first output that fails, end it.
    """
    told, failed = "", False
    await bus.find_group(group, cluster)
    async with bus.watch_statuses(kind="workergroup", cluster=cluster, name=group) as watch:
        while True:
            await _next(watch, RETRY_S if failed else None)
            try:
                found = await _fetch(bus, cluster, group)
                text = render(found) if found else told
                if text != told:
                    _put(text, file)
            except (BusError, BusOfflineError, CallTimeoutError, CliError) as error:
                if ends_watch(error, is_first=not told):
                    raise
                output.note(f"{error}: again in {RETRY_S:g} s")
                failed = True
                continue
            if not found:
                output.note(f"group '{cluster}/{group}' has no ready worker")
            if text and (text != told or failed):
                told, failed = text, False
                if command and (why := await _run(command)):
                    output.note(f"{shlex.join(command)}: {why}; again in {RETRY_S:g} s")
                    failed = True


def ends_watch(error: Exception, *, is_first: bool) -> bool:
    """Whether trying again is no use. Before anything was told, a CliError is the command line's fault."""
    if isinstance(error, BusError):
        return not error.row.retryable
    return isinstance(error, CliError) and is_first


async def _next(watch: StatusWatch, within: float | None) -> None:
    """Wait for a change, and for those that follow at once; or until it is time to try again."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await anext(watch)
            await SystemClock().sleep(SETTLE_S)
    while watch.take() is not None:
        pass


async def _run(command: Sequence[str]) -> str | None:
    """Why the command failed, or None. Its output goes where ours goes."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
    except OSError as error:
        return error.strerror or str(error)
    try:
        code = await asyncio.wait_for(process.wait(), COMMAND_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"not done within {COMMAND_S:g} s, killed"
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    return None if code == 0 else f"exit code {code}"


def _put(text: str, file: Path | None) -> None:
    if file is None:
        for line in text.splitlines():
            output.say(line)
        sys.stdout.flush()
        return
    try:
        with replacing(file) as new:
            new.write_text(text, encoding="utf-8")
            new.chmod(0o644)
    except OSError as error:
        raise CliError(f"{file}: {error.strerror or error}") from None
