"""busbar install: run manager, agent or broker as a service of systemd."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..arguments import common_options as n
from ..arguments.completion import complete_node
from ..context import MEMBERS, Settings, state_path
from ..errors import usage
from ..printing import output

if TYPE_CHECKING:
    from ..services.systemd import Kind, Unit

app = n.command_group("Run manager, agent or broker as a service of systemd.")

Scope = Annotated[
    Literal["system", "user"],
    typer.Option("--scope", help="system: as root, for the machine; user: for yourself, without root."),
]
User = Annotated[str, typer.Option("--user", help="With --scope system: the user it runs as.")]
Print = Annotated[bool, typer.Option("--print", help="Print the unit, and change nothing.")]
NoStart = Annotated[bool, typer.Option("--no-start", help="Write the unit without starting it.")]
State = Annotated[
    Path | None, typer.Option("--state", help="Its folder; default: below /var/lib/busbar, or your own.")
]
_MORE = {"allow_extra_args": True, "ignore_unknown_options": True}
_HELP = "Write, enable and start the unit busbar-{0}; other options are those of 'busbar {0}'."
VARIABLE = Path("/var/lib/busbar")


def _add(kind: Kind) -> None:
    """The command for a service that needs no more than the options of all three."""

    @app.command(kind, help=_HELP.format(kind), context_settings=_MORE)
    def install(
        ctx: typer.Context,
        state: State = None,
        scope: Scope = "system",
        user: User = "busbar",
        no_start: NoStart = False,
        show: Print = False,
    ) -> None:
        from ..settings import service_settings

        found = service_settings(kind) if kind == "manager" else None
        title = "Busbar's MQTT broker" if found is None else f"Busbar manager of realm {found.realm}"
        unit = _unit(kind, title, _folder(state, scope, "" if found is None else kind), ctx.args, found)
        _install(replace(unit, scope=scope, user=user), no_start, show)


_add("manager")


@app.command("agent", help=_HELP.format("agent"), context_settings=_MORE)
def agent(
    ctx: typer.Context,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            help="The node's name; not needed where the folder has joined.",
            autocompletion=complete_node,
        ),
    ] = None,
    state: State = None,
    scope: Scope = "system",
    user: User = "busbar",
    no_start: NoStart = False,
    show: Print = False,
) -> None:
    from ..services.join_file import read_joined
    from ..settings import service_settings

    folder = _folder(state, scope, "agent")
    known = read_joined(folder)
    if known is None and node is None:
        raise usage(f"--node is needed: {folder} has not joined a realm (busbar join)")
    name = node or (known.node if known else "")
    found = None if known is not None else service_settings(name)
    words = ctx.args if known is not None else ["--node", name, *ctx.args]
    unit = _unit("agent", f"Busbar agent of node {name}", folder, words, found)
    _install(replace(unit, scope=scope, user=user), no_start, show)


_add("broker")


def _folder(state: Path | None, scope: str, kind: str) -> Path:
    base = VARIABLE if scope == "system" else state_path(os.environ)
    return (state or base / kind).expanduser().absolute()


def _unit(kind: Kind, description: str, folder: Path, more: Sequence[str], found: Settings | None) -> Unit:
    """A unit with these options of the service and, for one that connects, where to.

    Raises:
        CliError: the service has no such options.
    """
    from ..services import systemd

    _check(kind, more)
    words = [*systemd.program(), kind, "--state", str(folder), *more]
    password = None
    if found is not None:
        if found.password is not None:
            raise usage("a unit holds no password: put it into a file, and use --password-file")
        password = Path(found.password_file).expanduser().absolute() if found.password_file else None
        given = {name: getattr(found, name) for name in MEMBERS if name not in ("root", "password_file")}
        for name, value in given.items():
            if value is not None:
                path = str(Path(value).expanduser().absolute()) if name.startswith("tls_") else value
                words += [f"--{name.replace('_', '-')}", path]
        if found.root not in (None, "busbar"):
            words = ["/usr/bin/env", f"BUSBAR_ROOT={found.root}", *words]
    return systemd.Unit(kind, description, words, folder, password=password)


def _check(kind: str, more: Sequence[str]) -> None:
    """Have the service's own command parse its options: a mistake is told here, not by a unit that fails."""
    from typer.core import TyperCommand

    from .. import lazy

    options = lazy.load(kind, lazy.LazyGroup).params
    TyperCommand(kind, params=options).make_context(f"busbar {kind}", list(more))


def _install(unit: Unit, no_start: bool, show: bool) -> None:
    from ..services import systemd

    if show:
        text = systemd.render(unit)
        if output.output_format() != "table":
            output.dump({"unit": unit.name, "text": text})
            return
        for line in text.splitlines():
            output.say(line)
        return
    if unit.password is not None:
        try:
            unit.password.stat()
        except OSError as error:
            raise usage(f"password file {unit.password}: {error.strerror}") from None
    path = systemd.set_up(unit, start=not no_start)
    what = "is written" if no_start else "runs"
    output.done({"unit": unit.name, "file": str(path)}, f"service {unit.name} {what}: {path}")
    if not no_start:
        systemd.tell_linger(unit.scope)
