"""busbar agent: run the agent of one node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..arguments import common_options as n
from ..context import state_path
from ..errors import CliError, ExitCode, usage
from ..printing import output

app = n.command_group("Run the agent of one node; join a realm, reset its state folder.", bare=True)


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
    metrics: n.Metrics = None,
    log_level: n.LogLevel = None,
    log_format: n.LogFormat = None,
) -> None:
    """Run the agent of one node in the foreground, against the broker of the options."""
    if ctx.invoked_subcommand is not None:
        return
    from busbar.bus.topics import is_name

    from ..documents import definition
    from ..services import logs, run
    from ..services.join_file import read_joined
    from ..services.specs import AgentSpec, ConnectSpec
    from ..settings import service_settings

    known = read_joined(_folder(state, node or "")) if state or node else None
    node = node or (known.node if known else None)
    if node is None:
        raise usage("--node is needed: the node's name, or --state with the folder of a node that has joined")
    if not is_name(node):
        raise usage(f"node name '{node}': use [a-z0-9][a-z0-9_-]{{0,63}}")
    folder = _folder(state, node)
    if known is not None and known.node != node:
        raise usage(f"{folder} has joined as node '{known.node}', not as '{node}'")
    settings = service_settings(node, known.settings(folder) if known else None)
    if settings.username != node:
        raise usage(f"the agent of node '{node}' connects as user '{node}', not as '{settings.username}'")
    logged = logs.start(log_level, log_format)
    if join is not None:
        from ..services.join import join as exchange

        settings = exchange(settings, node, join)
    spec = AgentSpec(
        realm=str(settings.realm),
        root=str(settings.root),
        connect=ConnectSpec.of(settings),
        state=str(folder),
        node=node,
        runtimes=str(runtimes.expanduser().absolute()) if runtimes else None,
        host=host or (known.host if known else None),
        max_workers=max_workers,
        labels=definition.pairs(label, "--label") or (known.labels if known else {}),
        static_roots=[str(path.expanduser().absolute()) for path in static_root or ()],
        stop_workers=stop_workers,
        adopt_store=adopt_store,
        mqtt=mqtt,
        max_packet=max_packet,
        metrics=n.metrics_address(metrics),
        log_level=logged.level,
    )
    raise typer.Exit(run.serve(spec))


def _folder(state: Path | None, node: str) -> Path:
    return (state or state_path(os.environ) / "agents" / node).expanduser().absolute()


@app.command("join", help="On a new node: store the access in a join file, and check it at the broker.")
def join_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="From 'busbar node pair --join-file'; removed afterwards.")],
    state: Annotated[
        Path | None, typer.Option("--state", help="The agent's folder; with --service /var/lib/busbar/agent.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address under which clients reach its workers.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")] = None,
    service: Annotated[
        bool, typer.Option("--service", help="As root: install and start the systemd unit busbar-agent.")
    ] = False,
    user: Annotated[str, typer.Option("--user", help="With --service: the user it runs as.")] = "busbar",
) -> None:
    from ..documents import definition
    from ..printing import output
    from ..services import systemd
    from ..services.agent_join import join_node
    from ..services.join_file import read_join_file

    if service:
        systemd.check_service(user)
    found = read_join_file(file.expanduser())
    state = n.folder_of(ctx, state) or (systemd.SERVICE_STATE if service else None)
    folder = _folder(state, found.node)
    made = join_node(found, folder, host, definition.pairs(label, "--label") or {}).made
    file.expanduser().unlink()
    run_it = f"busbar agent --state {folder}"
    if service:
        systemd.give_to(user, made)
        run_it = f"service {systemd.set_up(systemd.agent_unit(found.node, user, folder)).stem} runs"
    output.done(
        {"name": found.node, "state": str(folder)}, f"node '{found.node}' has joined {found.broker}; {run_it}"
    )


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
    text = f"{folder} is {'kept for its next agent' if keep else 'new'}"
    output.done({"state": str(folder), "kept": keep}, text)
