"""Commands that are imported when they are called: `busbar --help` loads none of them."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from . import context
from .suggestions import SuggestingGroup
from .typer_fastparse import lighten

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": (
        "busbar.cli.commands.up",
        "Run broker, manager and agents on this machine, supervised.",
    ),
    "status": (
        "busbar.cli.commands.status",
        "Show the realm on one screen, with problems and their reasons.",
    ),
    "check": (
        "busbar.cli.commands.check",
        "One line and an exit code for monitoring, as Nagios has them.",
    ),
    "why": ("busbar.cli.commands.why", "Say why an object is as it is, from the cause to now."),
    "doctor": (
        "busbar.cli.commands.doctor",
        "Try broker, manager and settings; say what to do.",
    ),
    "cluster": ("busbar.cli.commands.cluster", "Clusters of routers: create, start, stop, watch, delete."),
    "group": (
        "busbar.cli.commands.group",
        "Worker groups of a cluster: add, scale, update, stop, remove.",
    ),
    "node": ("busbar.cli.commands.node", "Nodes: pair, list, label, drain, cordon, unpair."),
    "worker": ("busbar.cli.commands.worker", "Workers: list, state, restart, logs."),
    "logs": (
        "busbar.cli.commands.logs",
        "Print the output of a cluster, a group or one worker.",
    ),
    "web": ("busbar.cli.commands.web", "Serve a live page of the realm, to sign in to with a browser."),
    "top": ("busbar.cli.commands.top", "Show what nodes and workers use, live."),
    "wait": ("busbar.cli.commands.wait", "Wait until an object runs, is stopped, or has failed."),
    "endpoints": (
        "busbar.cli.commands.endpoints",
        "Print where clients find a group; load balancer configuration.",
    ),
    "export": (
        "busbar.cli.commands.export",
        "Print the realm's definitions as a file: YAML, TOML or JSON.",
    ),
    "diff": ("busbar.cli.commands.diff", "Show what applying a file of definitions would change."),
    "apply": ("busbar.cli.commands.apply", "Make the realm as a file of definitions says."),
    "rebalance": (
        "busbar.cli.commands.rebalance",
        "Move workers into balance; the moves are shown first.",
    ),
    "history": ("busbar.cli.commands.history", "What clusters were to be, and who changed it when."),
    "rollback": ("busbar.cli.commands.rollback", "Back to what a cluster was to be at a revision."),
    "validate": (
        "busbar.cli.commands.validate",
        "Check a file of definitions, without a manager.",
    ),
    "event": ("busbar.cli.commands.event", "Lifecycle events: stored or live."),
    "audit": ("busbar.cli.commands.audit", "Who asked for what: changes and refused requests."),
    "principal": ("busbar.cli.commands.principal", "Users and their roles."),
    "context": ("busbar.cli.commands.context", "Named settings: broker, realm, credentials."),
    "call": ("busbar.cli.commands.call", "Call any operation of the contract with JSON parameters."),
    "manager": ("busbar.cli.commands.manager", "Run the manager, check its store, show its state."),
    "agent": (
        "busbar.cli.commands.agent",
        "Run the agent of one node; join a realm, reset its state.",
    ),
    "broker": ("busbar.cli.commands.broker", "Run the embedded broker, manage its accounts."),
    "join": ("busbar.cli.commands.join", "Make this machine a node, from one line."),
    "install": ("busbar.cli.commands.install", "Run manager, agent or broker under systemd."),
    "backup": ("busbar.cli.commands.backup", "Copy the manager's store into one file, while it runs."),
    "restore": ("busbar.cli.commands.restore", "Replace the manager's store with a backup."),
    "import": (
        "busbar.cli.commands.import_",
        "Print an existing router's configuration as a definition.",
    ),
    "schema": (
        "busbar.cli.commands.schema",
        "Print an example of a file of definitions, or its JSON Schema.",
    ),
    "acl": ("busbar.cli.commands.acl", "Print the ACL for an outside broker."),
}
"""The top-level commands: module and help line of each."""

GLOBAL: Final = (
    "context", "broker", "realm", "username", "password_file", "output", "tls_ca", "tls_cert", "tls_key",
)  # fmt: skip
_VISIBLE: Final = frozenset({"output"})
SERVICES: Final = frozenset({"up", "manager", "agent", "broker", "web"})
"""Commands whose help shows all global options."""

WATCHED: Final = frozenset({"list", "show", "stat", "nodes", "status"})
"""Commands that can be watched, where they only read."""
NAMED: Final = frozenset({"list", "show", "nodes"})
"""Commands of which `-o name` prints references, unless what they show has none."""
TABLES: Final = frozenset({"list", "nodes", "audit"})
"""Commands that print one table; `history` prints one too."""
NAMELESS: Final = frozenset({"get_events", "get_manager"})
"""Operations whose results have no names."""

Run = Callable[..., Any]


class LazyGroup(SuggestingGroup):
    """The top-level group: stubs for help and completion; a command is imported when it is called."""

    guard: ClassVar[Run]
    refused: ClassVar[Run]
    """Tells of an error of the command line and returns the exit code, or None: then typer does."""
    option_template: ClassVar[Callable[..., None]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=help) for name, (_, help) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer's, with the stub replaced by the command."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, None if stub is None else load(str(name), type(self)), rest

    def make_context(self, *words: Any, **more: Any) -> Any:
        """As typer's, for errors see `refused`."""
        with self._telling():
            return super().make_context(*words, **more)

    def invoke(self, ctx: Any) -> Any:
        """As typer's, for errors see `refused`."""
        with self._telling():
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except TyperException as error:
            code = self.refused(error)
            if code is None:
                raise
            raise typer.Exit(code) from None


@functools.cache
def load(name: str, group: type[LazyGroup]) -> Any:
    """Import one top-level command and return its command, with the global options on every leaf."""
    command = typer.main.get_command(importlib.import_module(COMMANDS[name][0]).app)
    command.name = name
    options = _templates(group.option_template)
    for option in options:
        option.hidden = name not in SERVICES and option.name not in _VISIBLE
    _prepare(command, group, options)
    return command


def command_of(words: Sequence[str]) -> str | None:
    """The top-level command that these words of a command line name."""
    named, _ = _read(words, {"-o", *(f"--{name.replace('_', '-')}" for name in GLOBAL)})
    return named[0] if named else None


def service_of(words: Sequence[str], group: type[LazyGroup]) -> tuple[str, str | None] | None:
    """The service that these words of a command line start, and its `--log-format`; None: they start none."""
    name = command_of(words)
    if name not in SERVICES:
        return None
    command = load(name, group)
    valued = {opt for param in command.params if not getattr(param, "is_flag", True) for opt in param.opts}
    named, given = _read(words, valued)
    if named[1:] and named[1] in getattr(command, "commands", {}):
        return None
    return name, given.get("--log-format")


def _read(words: Sequence[str], valued: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Words that are no options, and the values of options; after those in `valued`, the next word is one."""
    named: list[str] = []
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        option, joined, value = word.partition("=")
        if not word.startswith("-"):
            named.append(word)
        elif joined:
            given[option] = value
        elif word in valued:
            given[word] = next(rest, "")
    return named, given


def _prepare(command: Any, group: type[LazyGroup], options: list[Any]) -> None:
    for child in getattr(command, "commands", {}).values():
        _prepare(child, group, options)
    is_leaf = command.callback is not None and not getattr(command, "commands", {})
    if is_leaf or getattr(command, "invoke_without_command", False):
        _add_globals(command, group, options)
    lighten(command)


def _add_globals(command: Any, group: type[LazyGroup], options: list[Any]) -> None:
    """Accept the global options after the command too, unless it has one of the same name."""
    taken = {option for param in command.params for option in param.opts}
    added = set()
    for param in options:
        if not taken.intersection(param.opts):
            command.params.append(param)
            added.add(param.name)
    inner = command.callback
    watchable = command.name in WATCHED and "--watch" not in taken and _reads(inner)
    if watchable:
        command.params += _params(_watch_option)
    operations = frozenset(getattr(inner, "operations", ()))
    has_names = command.name in NAMED and not operations & NAMELESS
    if command.name in TABLES or "list_routercluster_revisions" in operations:
        command.params += _params(_headers_option)

    def run(**values: Any) -> Any:
        later = {name: values.pop(name, None) for name in added}
        headers = not values.pop("no_headers", False)
        context.set_global_options(replace(context.global_options().merged(later), headers=headers))
        if watchable and values.pop("watch", False):
            from .calls.watching import repeat

            return group.guard(lambda: repeat(lambda: inner(**values)), has_names=has_names)
        return group.guard(lambda: inner(**values), has_names=has_names)

    command.callback = run


def _reads(command: Any) -> bool:
    """Whether it only reads what statuses and events tell of."""
    operations = getattr(command, "operations", ())
    if not operations or "get_events" in operations:
        return False
    from busbar.bus.contract import OPERATIONS

    return not any(OPERATIONS[name].change for name in operations)


def _watch_option(
    watch: Annotated[bool, typer.Option("--watch", help="Again at each change, until interrupted.")] = False,
) -> None:
    """What every command that lists or shows understands."""


def _headers_option(
    no_headers: Annotated[bool, typer.Option("--no-headers", help="No headings above the table.")] = False,
) -> None:
    """What every command that prints one table understands."""


def _templates(options: Callable[..., None]) -> list[Any]:
    return [param for param in _params(options) if param.name in GLOBAL]


def _params(options: Callable[..., None]) -> list[Any]:
    template = typer.Typer(add_completion=False, rich_markup_mode=None)
    template.command()(options)
    return list(typer.main.get_command(template).params)
