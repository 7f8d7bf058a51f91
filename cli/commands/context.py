"""busbar context: named settings in the config file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..arguments import common_options as n
from ..arguments.completion import complete_context
from ..context import (
    BROKER_HELP,
    MEMBERS,
    Config,
    Settings,
    config_path,
    global_options,
    load_config,
    members_of,
    save_config,
    set_global_options,
    settings_in_force,
    stored_context,
    used_context,
    with_defaults,
)
from ..errors import CliError, ExitCode, usage
from ..printing import output

app = n.command_group("Contexts: named settings of broker, realm and credentials, in the config file.")

Row = Mapping[str, str | bool]
COLUMNS: list[output.Column[Row]] = [
    ("", lambda row: "*" if row["current"] else ""),
    ("name", lambda row: row["name"]),
    ("broker", lambda row: row.get("broker")),
    ("realm", lambda row: row.get("realm")),
    ("username", lambda row: row.get("username")),
]


def _member(name: str, row: Row) -> object:
    return row.get(name)


WIDE: list[output.Column[Row]] = [
    (name.replace("_", " "), partial(_member, name))
    for name in MEMBERS
    if name not in ("broker", "realm", "username")
]
File = Annotated[Path | None, typer.Option(help="A PEM file.")]


Name = Annotated[str, typer.Argument(help="The context's name.", autocompletion=complete_context)]


def _load() -> tuple[Path, Config]:
    path = config_path(os.environ)
    return path, load_config(path)


def _known(config: Config, name: str) -> Settings:
    if name not in config.contexts:
        raise CliError(f"there is no context '{name}'", ExitCode.NOT_FOUND, "no_such_context")
    return config.contexts[name]


@app.command("list", help="List the contexts; a star marks the current one.")
def list_() -> None:
    _, config = _load()
    rows: list[Row] = [
        {"name": name, "current": name == config.current, **members_of(settings)}
        for name, settings in sorted(config.contexts.items())
    ]
    output.show_list(rows, COLUMNS, "no contexts", wide=WIDE)


@app.command(help="Show a context, or the effective settings.")
def show(
    name: Annotated[
        str | None, typer.Argument(help="Default: the effective settings.", autocompletion=complete_context)
    ] = None,
) -> None:
    if name is None:
        output.show_object(members_of(settings_in_force(global_options(), os.environ)), MEMBERS)
    else:
        output.show_object({"name": name, **members_of(_known(_load()[1], name))}, ("name", *MEMBERS))


@app.command(help="Make a context the current one.")
def use(name: Name) -> None:
    path, config = _load()
    _known(config, name)
    save_config(path, replace(config, current=name))
    output.done({"name": name, "current": True}, f"context '{name}' is current")


@app.command(help="Add a context, or change one with --replace; the first becomes the current one.")
def add(
    name: Annotated[str, typer.Argument(help="The context's name.")],
    broker: Annotated[str, typer.Option("--broker", help=BROKER_HELP)],
    realm: Annotated[str | None, typer.Option("--realm")] = None,
    root: Annotated[str | None, typer.Option("--root", help="First topic level.")] = None,
    username: Annotated[str | None, typer.Option("--username")] = None,
    password_file: Annotated[Path | None, typer.Option("--password-file", help="File of mode 0600.")] = None,
    tls_ca: File = None,
    tls_cert: File = None,
    tls_key: File = None,
    replace_: Annotated[bool, typer.Option("--replace", help="Overwrite one of this name.")] = False,
) -> None:
    from busbar.bus.options import parse_urls

    path, config = _load()
    if name in config.contexts and not replace_:
        raise CliError(f"context '{name}' exists: use --replace", ExitCode.CONFLICT, "already_exists")
    try:
        parse_urls(broker)
    except ValueError as error:
        raise usage(str(error)) from None
    files = {"password_file": password_file, "tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
    settings = Settings(
        broker, realm, root, username, **{key: _absolute(file) for key, file in files.items()}
    )
    current = config.current or name
    _save(path, config, {**config.contexts, name: settings}, current)
    where = "current" if current == name else f"stored; 'busbar context use {name}' makes it the current one"
    row = {"name": name, "current": current == name, **members_of(settings)}
    output.done(row, f"context '{name}' is {where}")


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _save(path: Path, config: Config, contexts: Mapping[str, Settings], current: str | None) -> None:
    save_config(path, Config(contexts, current))


@app.command(help="Remove a context.")
def remove(name: Name) -> None:
    path, config = _load()
    _known(config, name)
    rest = {key: settings for key, settings in config.contexts.items() if key != name}
    _save(path, config, rest, None if config.current == name else config.current)
    output.done({"name": name}, f"context '{name}' removed")


@app.command(help="Have no current context: the local 'busbar up' is used again.")
def unset() -> None:
    path, config = _load()
    if config.current is not None:
        save_config(path, replace(config, current=None))
    output.done({"name": config.current, "current": False}, "no context is current")


@app.command(help="Give a context another name.")
def rename(name: Name, new: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    path, config = _load()
    settings = _known(config, name)
    if new in config.contexts:
        raise CliError(f"context '{new}' exists", ExitCode.CONFLICT, "already_exists")
    contexts = {**{key: each for key, each in config.contexts.items() if key != name}, new: settings}
    current = new if config.current == name else config.current
    save_config(path, Config(contexts, current), (name, new))
    output.done({"name": new, "current": current == new}, f"context '{name}' is called '{new}' now")


@app.command(help="Connect with a context's settings alone, or with those in force, and ask the manager.")
def test(
    name: Annotated[
        str | None, typer.Argument(help="Default: the current one.", autocompletion=complete_context)
    ] = None,
) -> None:
    from ..calls.connect import run

    alone = None
    if name is not None:
        # Neither options nor the environment: they would go before what is to be tested.
        alone = with_defaults(_known(_load()[1], name))
        set_global_options(replace(global_options(), context=name))
        stored_context(global_options(), os.environ)
    found = run(lambda bus: bus.get_manager(), alone)
    who = name or used_context() or "(none)"
    row = {"name": who, "realm": found.realm, "manager": found.manager, "state": found.state}
    answers = f"manager {found.manager} of realm {found.realm} answers, {found.state}"
    output.done({**row, "version": found.version}, f"context '{who}': {answers}")
