"""busbar agent: run the agent of one node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .. import common_options as n
from ..context import state_path
from ..errors import CliError, ExitCode, usage

app = n.command_group("Run the agent of one node, reset its state folder.", bare=True)


@app.callback()
def agent(
    ctx: typer.Context,
    node: Annotated[
        str | None, typer.Option("--node", help="The node's name; also its user name at the broker.")
    ] = None,
    state: Annotated[Path | None, typer.Option("--state", help="The agent's folder.")] = None,
    runtimes: Annotated[Path | None, typer.Option("--runtimes", help="This node's runtimes, TOML.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address under which clients reach its workers.")
    ] = None,
    max_workers: Annotated[
        int | None, typer.Option("--max-workers", min=0, help="Maximum number of workers.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")] = None,
    static_root: Annotated[
        list[Path] | None, typer.Option("--static-root", help="Folder of static paths.")
    ] = None,
    stop_workers: Annotated[
        bool, typer.Option("--stop-workers/--keep-workers", help="Whether workers stop with the agent.")
    ] = False,
    adopt_store: Annotated[
        bool,
        typer.Option("--adopt-store", help="Accept the next assignment of another store, once."),
    ] = False,
    join: Annotated[
        str | None,
        typer.Option("--join", help="First redeem the join token in this file (-: standard input)."),
    ] = None,
    mqtt: n.Mqtt = "auto",
    max_packet: n.MaxPacket = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the agent of one node in the foreground, against the broker of the options."""
    if ctx.invoked_subcommand is not None:
        return
    from busbar.bus.topics import is_name

    from .. import definition
    from ..services import run
    from ..services.specs import AgentSpec, ConnectSpec
    from ..settings import service_settings

    if node is None:
        raise usage("--node is needed: the node's name")
    if not is_name(node):
        raise usage(f"node name '{node}': use [a-z0-9][a-z0-9_-]{{0,63}}")
    settings = service_settings(node)
    if settings.username != node:
        raise usage(f"the agent of node '{node}' connects as user '{node}', not as '{settings.username}'")
    run.log_to_stderr(log_level)
    if join is not None:
        from ..services.join import join as exchange

        settings = exchange(settings, node, join)
    folder = _folder(state, node)
    spec = AgentSpec(
        realm=str(settings.realm),
        root=str(settings.root),
        connect=ConnectSpec.of(settings),
        state=str(folder),
        node=node,
        runtimes=str(runtimes.expanduser().absolute()) if runtimes else None,
        host=host,
        max_workers=max_workers,
        labels=definition.pairs(label, "--label") or {},
        static_roots=[str(path.expanduser().absolute()) for path in static_root or ()],
        stop_workers=stop_workers,
        adopt_store=adopt_store,
        mqtt=mqtt,
        max_packet=max_packet,
        log_level=log_level,
    )
    raise typer.Exit(run.serve(spec))


def _folder(state: Path | None, node: str) -> Path:
    return (state or state_path(os.environ) / "agents" / node).expanduser().absolute()


@app.command(
    "reset", help="Make a state folder new, such as that of a cloned machine; workers are not touched."
)
def reset(
    ctx: typer.Context,
    node: Annotated[str | None, typer.Option("--node", help="The node, where --state is not given.")] = None,
    state: Annotated[Path | None, typer.Option("--state", help="The agent's folder.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what it holds: its host was renamed or replaced.")
    ] = False,
) -> None:
    from busbar.agent.service import StateError
    from busbar.agent.service import reset as make_new
    from busbar.bus.topics import is_name

    before = ctx.parent.params if ctx.parent else {}  # options given before the verb
    state, node = n.folder_of(ctx, state), node or before.get("node")
    if state is None and not is_name(node or ""):
        raise usage("--state or --node is needed: which folder")
    folder = _folder(state, node or "")
    try:
        make_new(folder, keep=keep)
    except StateError as error:
        raise CliError(str(error), ExitCode.FAILED, "refused") from None
    typer.echo(f"{folder} is {'kept for its next agent' if keep else 'new'}")
