"""busbar manager: run it, check its store, show its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer
from busbar.bus.roles import OWNER

from ..arguments import common_options as n
from ..context import state_path

app = n.command_group("Run the manager, check its store, show its state.", bare=True)

DATABASE: Final = "busbar.db"
State = Annotated[Path | None, typer.Option("--state", help="Folder of its SQLite file.")]


def _folder(state: Path | None) -> Path:
    return (state or state_path(os.environ) / "manager").expanduser().absolute()


@app.callback()
def run(
    ctx: typer.Context,
    state: State = None,
    manager_id: Annotated[str, typer.Option("--id", help="Its id, a level of its topics.")] = "m1",
    heartbeat: Annotated[
        float, typer.Option(min=0.1, help="Heartbeat interval of the nodes, in seconds.")
    ] = 5.0,
    offline_after: Annotated[
        float,
        typer.Option(
            "--offline-after",
            min=0,
            help="Seconds after an agent's goodbye until workers that it left running are moved.",
        ),
    ] = 86_400.0,
    owner: Annotated[
        list[str] | None, typer.Option(help="A user with role owner in a new database; default: admin.")
    ] = None,
    mqtt: n.Mqtt = "auto",
    max_packet: n.MaxPacket = None,
    metrics: n.Metrics = None,
    home_assistant: n.House = None,
    adopt_realm: Annotated[
        bool,
        typer.Option("--adopt-realm", help="Serve the realm even if it was another store's, from now on."),
    ] = False,
    quota_nodes: Annotated[int, typer.Option(min=0, help="Nodes that one operator may own.")] = 100,
    quota_clusters: Annotated[int, typer.Option(min=0, help="Clusters that one operator may own.")] = 100,
    quota_groups: Annotated[
        int, typer.Option(min=0, help="Worker groups in one operator's clusters.")
    ] = 1_000,
    log_level: n.LogLevel = None,
    log_format: n.LogFormat = None,
) -> None:
    """Run the manager in the foreground, against the broker of the options."""
    if ctx.invoked_subcommand is not None:
        return
    from ..services import logs, run
    from ..services.specs import ConnectSpec, ManagerSpec
    from ..settings import service_settings

    settings = service_settings("manager")
    logs.start(log_level, log_format)
    spec = ManagerSpec(
        realm=str(settings.realm),
        root=str(settings.root),
        connect=ConnectSpec.of(settings),
        state=str(_folder(state)),
        manager_id=manager_id,
        heartbeat_s=heartbeat,
        offline_after_s=offline_after,
        mqtt=mqtt,
        max_packet=max_packet,
        principals=dict.fromkeys(owner or ["admin"], OWNER),
        adopt_realm=adopt_realm,
        metrics=n.metrics_address(metrics),
        home_assistant=n.house(home_assistant, settings.root),
        quotas={"nodes": quota_nodes, "clusters": quota_clusters, "groups": quota_groups},
    )
    raise typer.Exit(run.serve(spec))


@app.command(help="Verify the manager's SQLite file: integrity, references, schema version. Read-only.")
def check(
    ctx: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="The file; default: that of the state folder.")] = None,
    state: State = None,
) -> None:
    from busbar.manager.store import check as verify

    from ..errors import CliError, ExitCode
    from ..printing import output

    file = path or _folder(n.folder_of(ctx, state)) / DATABASE
    if not file.is_file():
        raise CliError(f"there is no file {file}", ExitCode.NOT_FOUND, "no_such_file")
    problems = verify(file)
    if output.output_format() != "table":
        output.dump({"file": str(file), "ok": not problems, "problems": problems})
    elif not problems:
        output.say(f"{file} is intact")
    for problem in problems if output.output_format() == "table" else ():
        output.say(problem)
    if problems:
        raise typer.Exit(ExitCode.FAILED)


def _show() -> None:
    """Show the manager's own state."""
    from ..calls.connect import run as connect
    from ..printing import output

    found = connect(lambda bus: bus.get_manager())
    output.show_object(found, ("manager", "state", "realm", "version", "epoch", "store"))


_show.operations = ("get_manager",)  # type: ignore[attr-defined]
app.command("show", help="Return the manager's own state.")(_show)


@app.command("take-over", help="Let a manager publish from a restored store.")
def take_over(
    ctx: typer.Context,
    state: State = None,
    epoch: Annotated[
        int | None,
        typer.Option(
            "--epoch", min=0, max=2**52, help="Continue above this epoch; default: the clock, in seconds."
        ),
    ] = None,
) -> None:
    from .backup import take_over as tell

    tell(n.folder_of(ctx, state), epoch)
