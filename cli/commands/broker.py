"""busbar broker: run the embedded broker; its accounts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from busbar.bus.access import acl

from ..arguments import common_options as n
from ..context import global_options, state_path
from ..errors import CliError, ExitCode, usage
from ..printing import output

app = n.command_group("Run the embedded broker (loopback only), manage its accounts.", bare=True)

State = Annotated[Path | None, typer.Option("--state", help="State folder (BUSBAR_STATE).")]
KindArgument = Annotated[acl.Kind, typer.Argument(help="person, node or manager.")]


def _folder(state: Path | None) -> Path:
    return (state or state_path(os.environ)).expanduser().absolute()


@app.callback()
def run(
    ctx: typer.Context,
    state: State = None,
    host: Annotated[str | None, typer.Option("--host", help="A loopback address, such as ::1.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 1883,
    ws_port: Annotated[
        int | None, typer.Option("--ws-port", min=0, max=65535, help="MQTT over WebSocket too.")
    ] = None,
    ws_origin: Annotated[
        list[str] | None,
        typer.Option("--ws-origin", help="A web page that may use it: https://HOST:PORT; may be repeated."),
    ] = None,
    root: Annotated[str, typer.Option("--root", help="First topic level.")] = "busbar",
    home_assistant: n.House = None,
    log_level: n.LogLevel = None,
    log_format: n.LogFormat = None,
) -> None:
    """Run the broker in the foreground. At its first start it makes the accounts admin and manager."""
    if ctx.invoked_subcommand is not None:
        return
    from busbar.bus.system.loopback import loopback

    from ..services import logs, run, up_plan
    from ..services.specs import BrokerSpec

    logs.start(log_level, log_format)
    folder = _folder(state)
    for user, kind in ((up_plan.ADMIN_USER, acl.PERSON), (up_plan.MANAGER_USER, acl.MANAGER)):
        up_plan.ensure_broker_account(folder, user, kind, up_plan.ensure_secret(folder, user))
    spec = BrokerSpec(
        accounts=str(folder / "broker" / "accounts.json"),
        host=host or loopback(),
        port=port,
        ws_port=ws_port,
        ws_origins=ws_origin or [],
        root=root,
        realm=global_options().realm,
        home_assistant=n.house(home_assistant, root),
    )
    raise typer.Exit(run.serve(spec))


@app.command("add-account", help="Create a user's account; prints the name of the file with its secret.")
def add_account(ctx: typer.Context, name: str, kind: KindArgument, state: State = None) -> None:
    from busbar.bus.topics import is_name

    from ..services import up_plan
    from ..settings import SECRETS

    if not is_name(name):
        raise usage(f"user name '{name}': use [a-z0-9][a-z0-9_-]{{0,63}}")
    folder = _folder(n.folder_of(ctx, state))
    up_plan.ensure_broker_account(folder, name, kind, up_plan.ensure_secret(folder, name))
    output.done(
        {"name": name, "kind": kind, "password_file": str(folder / SECRETS / name)},
        str(folder / SECRETS / name),
    )


@app.command("remove-account", help="Remove a user's account and disconnect it.")
def remove_account(ctx: typer.Context, name: str, state: State = None) -> None:
    from busbar.bus.broker.accounts import remove_account as remove

    from ..settings import SECRETS

    folder = _folder(n.folder_of(ctx, state))
    if not remove(folder / "broker" / "accounts.json", name):
        raise CliError(f"there is no account '{name}'", ExitCode.NOT_FOUND, "no_such_account")
    (folder / SECRETS / name).unlink(missing_ok=True)
    output.done({"name": name}, f"account '{name}' removed")


@app.command("limits", help="Show the broker's limits, and what each account uses of them now.")
def limits(ctx: typer.Context, state: State = None) -> None:
    from ..services.limits import show_limits

    show_limits(_folder(n.folder_of(ctx, state)) / "broker")
