"""What the commands share: their typer app, options, and which operations a command stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import typer

from ..suggestions import SuggestingGroup
from .completion import (
    complete_cluster,
    complete_context,
    complete_group,
    complete_node,
    complete_principal,
    complete_tag,
    complete_worker,
)

Function = TypeVar("Function", bound=Callable[..., Any])

Expect = Annotated[int | None, typer.Option("--expect-version", min=0, help="Refuse unless at this version.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for completion, showing progress.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.0, help="Timeout of --wait, in seconds.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only show what it would do, as the manager plans it."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print names only.")]
Tag = Annotated[
    list[str] | None,
    typer.Option("--tag", help="A tag; may be repeated.", autocompletion=complete_tag),
]
WithTag = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        "-l",
        help="Only with this tag; may be repeated, for all of them.",
        autocompletion=complete_tag,
    ),
]
LabelText = Annotated[str | None, typer.Option("--label", help="A short text for people.")]
Description = Annotated[str | None, typer.Option("--description", help="A longer text for people.")]
Transport = Annotated[
    str | None,
    typer.Option(
        "--transport", help="Definition of what the workers listen on: JSON, a JSON or YAML file, or -."
    ),
]
TransportType = Annotated[
    Literal["mqtt", "web", "websocket", "rawsocket", "nats", "tcp"] | None,
    typer.Option("--type", help="Type of the transport: mqtt, web, websocket, rawsocket or tcp."),
]
Port = Annotated[
    str | None, typer.Option("--port", help="Port of the workers, or a range such as 8080-8090.")
]

Mqtt = Annotated[
    Literal["auto", "5", "3.1.1"],
    typer.Option("--mqtt", help="MQTT version; auto: 5, or 3.1.1 where the broker has no 5."),
]
MaxPacket = Annotated[
    int | None,
    typer.Option(
        "--max-packet",
        min=4096,
        max=268_435_455,
        help="Bytes of the largest packet the broker takes; default 1 MiB, or what it says (MQTT 5).",
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option("--log-level", help="debug, info, warning or error (BUSBAR_LOG_LEVEL); default info."),
]
LogFormat = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        help="plain, json or journald (BUSBAR_LOG_FORMAT); default: journald where stderr is the journal.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[ADDRESS:]PORT",
        help="Serve /metrics, /healthz and /readyz there; needs the extra 'metrics'.",
    ),
]
House = Annotated[
    str | None,
    typer.Option(
        "--home-assistant",
        metavar="USER[@PREFIX]",
        help="Tell Home Assistant, which is this user at the broker, of nodes and clusters.",
    ),
]
AllowAnonymous = Annotated[
    bool, typer.Option("--allow-anonymous", help="The workers may let everybody in, without credentials.")
]

Passwords = Annotated[
    Path | None,
    typer.Option("--passwords", help="Mosquitto's password file, which gets the account."),
]
Dynsec = Annotated[
    bool,
    typer.Option("--dynsec", help="The account is one of mosquitto's dynamic security plugin, over the bus."),
]
DynsecContext = Annotated[
    str | None,
    typer.Option(
        "--dynsec-context",
        help="As --dynsec, as the user of this context; default: your own.",
        autocompletion=complete_context,
    ),
]

DEFAULT_WAIT: Final = 60.0
"""Seconds: a Crossbar.io worker takes 6 to 8 to start, several on one core much longer."""


def command_group(help: str, *, bare: bool = False) -> typer.Typer:
    """The typer app of one group of commands; `bare`: it may be called without a subcommand."""
    return typer.Typer(
        cls=SuggestingGroup,
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=not bare,
        invoke_without_command=bare,
        pretty_exceptions_enable=False,
    )


def subcommand(
    app: typer.Typer,
    name: str,
    *operations: str,
    more: str = "",
    instead: str = "",
    context_settings: dict[str, Any] | None = None,
) -> Callable[[Function], Function]:
    """Add a command for these operations; its help is the first one's (and `more`) or `instead`."""
    from inspect import signature

    from busbar.bus.contract import OPERATIONS, PLANNER

    rows = [OPERATIONS[operation] for operation in operations]
    is_planned = any(row.planned_by == PLANNER for row in rows)

    def add(function: Function) -> Function:
        plans = is_planned and "dry_run" in signature(function).parameters
        function.__dict__["operations"] = (*operations, PLANNER) if plans else operations
        text = instead or (f"{rows[0].help} {more}".strip() if rows else more or function.__doc__)
        app.command(name, help=text, context_settings=context_settings)(function)
        return function

    return add


def house(text: str | None, root: str | None = None) -> str | None:
    """What `--home-assistant` says, checked.

    Raises:
        CliError: it is malformed, or its topics are among those below `root`.
    """
    from busbar.bus.access.home_assistant import parse

    from ..errors import usage

    try:
        if (found := parse(text)) is not None:
            found.check_root(root or "busbar")
    except ValueError as error:
        raise usage(f"--home-assistant: {error}") from None
    return text


def metrics_address(text: str | None) -> tuple[str, int] | None:
    """Where `--metrics` has a service listen.

    Raises:
        CliError: it is no address, or prometheus-client is not installed.
    """
    if text is None:
        return None
    from importlib.util import find_spec

    from busbar.bus.addresses import parse_listener

    from ..errors import CliError, usage

    if find_spec("prometheus_client") is None:
        raise CliError(
            "--metrics needs the package prometheus-client: install Busbar with the extra 'metrics'",
            code="not_installed",
        )
    try:
        return parse_listener(text)
    except ValueError as error:
        raise usage(f"--metrics: {error}") from None


def folder_of(ctx: typer.Context, state: Path | None) -> Path | None:
    """The --state of a subcommand, or of its group: `busbar manager --state X check` means X too."""
    before: Path | None = ctx.parent.params.get("state") if ctx.parent else None
    return state or before


ClusterArgument = Annotated[str, typer.Argument(help="Name or oid.", autocompletion=complete_cluster)]
NodeArgument = Annotated[str, typer.Argument(help="Name or oid.", autocompletion=complete_node)]
PrincipalArgument = Annotated[
    str, typer.Argument(help="User name at the broker.", autocompletion=complete_principal)
]
WorkerArgument = Annotated[
    str,
    typer.Argument(help="cluster/worker, its name with -c, or oid.", autocompletion=complete_worker),
]
GroupArgument = Annotated[
    str, typer.Argument(help="cluster/group, or its name with -c.", autocompletion=complete_group)
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", "-c", help="The cluster, name or oid.", autocompletion=complete_cluster),
]
MaxUnavailable = Annotated[
    int | None, typer.Option(min=0, help="Workers below the scale that may be not ready; default 1.")
]
MaxSurge = Annotated[int | None, typer.Option(min=0, help="Workers above the scale that may run; default 0.")]
ReplaceTransport = Annotated[
    bool, typer.Option("--replace-transport", help="--transport is the whole definition, not a patch.")
]
