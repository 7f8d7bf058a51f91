"""busbar acl: the contract's access rules for an outside broker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from busbar.bus.access.acl import render_emqx, render_mosquitto
from busbar.bus.access.dynsec import Command, render_dynsec, role_commands
from busbar.bus.access.home_assistant import parse
from busbar.bus.access.nats_access import Server, render_nats

from ..arguments import common_options as n
from ..arguments.completion import complete_context
from ..context import global_options, settings_in_force
from ..errors import usage
from ..printing import output

app = n.command_group("Print the ACL for an outside broker.")


@app.command(help="Print the ACL of the bus contract in the format of an outside broker.")
def acl(
    broker: Annotated[
        Literal["mosquitto", "dynsec", "emqx", "nats"],
        typer.Option("--broker", help="mosquitto, dynsec (its plugin for dynamic security), emqx or nats."),
    ],
    manager: Annotated[str, typer.Option(help="The manager's user name.")] = "manager",
    person: Annotated[list[str] | None, typer.Option(help="A person's user name; may be repeated.")] = None,
    node: Annotated[list[str] | None, typer.Option(help="A node (nats, dynsec); may be repeated.")] = None,
    root: Annotated[str | None, typer.Option(help="First topic level.")] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of MQTT (nats only): the whole file of a server that runs alone."),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Its folder for messages (with --listen).")] = None,
    home_assistant: n.House = None,
    dynsec_context: Annotated[
        str | None,
        typer.Option(
            help="With --broker dynsec: give these users their roles at once, as the user of this context.",
            autocompletion=complete_context,
        ),
    ] = None,
) -> None:
    settings = settings_in_force(global_options(), os.environ)
    realm, first, persons = settings.realm or "", root or settings.root or "busbar", person or ["admin"]
    if broker != "nats" and (listen or store):
        raise usage("--listen and --store are for --broker nats")
    if broker != "dynsec" and dynsec_context:
        raise usage("--dynsec-context is for --broker dynsec")
    if broker in ("mosquitto", "emqx") and node:
        raise usage(f"--node is for --broker nats and dynsec; {broker} has patterns")
    house = parse(n.house(home_assistant, first))
    try:
        if broker == "nats":
            text = render_nats(first, realm, manager, persons, node or [], _server(listen, store), house)
        elif broker == "dynsec":
            commands = role_commands(first, realm, manager, persons, node or [], house)
            if dynsec_context is not None:
                return _give_roles(dynsec_context, commands)
            text = render_dynsec(commands)
        else:
            render = render_mosquitto if broker == "mosquitto" else render_emqx
            text = render(first, realm, manager, persons, house)
    except ValueError as error:
        raise usage(str(error)) from None
    if output.output_format() != "table":
        return output.dump({"broker": broker, "acl": text})
    for line in text.splitlines():
        output.say(line)
    return None


def _give_roles(context: str, commands: list[Command]) -> None:
    """Raises CliError, BusError."""
    from ..services.account_backend import by_dynsec

    by_dynsec(context, lambda at: at.give_roles(commands))
    users = [row["username"] for row in commands if "username" in row]
    output.done({"users": users}, f"{', '.join(users)}: the roles are given")


def _server(listen: str | None, store: Path | None) -> Server | None:
    """Where a server that runs alone listens and keeps messages, if that is wanted."""
    if listen is None and store is None:
        return None
    if listen is None or store is None:
        raise usage("--listen and --store belong together")
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise usage(f"--listen {listen}: use HOST:PORT")
    return Server(host.removeprefix("[").removesuffix("]"), int(port), str(store.expanduser().absolute()))
