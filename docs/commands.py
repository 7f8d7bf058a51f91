"""The commands of the command line with their parameters, and their page (docs/reference/cli.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from busbar.cli import app, lazy
from busbar.cli.errors import EXIT_HELP

STATUSES: Final = re.findall(r"(\d+) (.+?)(?=, \d|\.$)", EXIT_HELP)
"""Exit codes, and what they mean."""


class Parameter(NamedTuple):
    """An argument or an option: names (short ones first), the word for its value (None: a flag), its help."""

    names: list[str]
    value: str | None
    text: str
    argument: bool


def context() -> Any:
    """Of the whole command line, to ask parameters for their help."""
    top = app.command()
    return top.context_class(top, info_name="busbar")


def calls(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The commands that can be called: this one, and those below it."""
    nested = getattr(command, "commands", {})
    if not nested or command.invoke_without_command:
        yield words, command
    for name, child in nested.items():
        if not child.hidden:
            yield from calls(f"{words} {name}", child)


def usage(command: Any) -> str:
    """What follows the command's own words."""
    words = ["[OPTIONS]"]
    for param in command.params:
        if param.param_type_name == "argument":
            word = (param.metavar or param.name.upper()).strip("[].") + ("..." if param.nargs == -1 else "")
            words.append(word if param.required else f"[{word}]")
    return " ".join(words)


def parameters(command: Any, of_all: Any) -> Iterator[Parameter]:
    """Those of a command that not every command has; of the command line itself, all."""
    top = of_all.command
    common = [] if command is top else [param.get_help_record(of_all) for param in top.get_params(of_all)]
    for param in command.get_params(of_all):
        record = None if param.hidden else param.get_help_record(of_all)
        if record is None or record in common:
            continue
        if param.param_type_name == "argument":
            yield Parameter(
                [(param.metavar or param.name.upper()).strip("[].")], None, record[1], argument=True
            )
        else:
            names = sorted([*param.opts, *param.secondary_opts], key=lambda name: name.startswith("--"))
            yield Parameter(
                names, None if param.is_flag else _value(param, of_all), record[1], argument=False
            )


def _value(param: Any, of_all: Any) -> str:
    """The word for an option's value: its choices where it has some."""
    if param.metavar:
        return str(param.metavar)
    kind = (param.get_help_record(of_all) or ("", ""))[0].rpartition(" ")[2].strip("<>[]{}")
    return kind if "|" in kind else str(param.name).upper()


def page() -> Iterator[str]:
    """The page's lines below its heading."""
    of_all = context()
    yield "What `busbar COMMAND --help` prints."
    yield from ("", *_paragraphs(app.HELP.removesuffix(EXIT_HELP)), "", *_table(of_all.command, of_all))
    yield from (
        "",
        "| exit code | |",
        "|---|---|",
        *(f"| {code} | {_text(text)} |" for code, text in STATUSES),
    )
    yield from ("", "| command | what it does |", "|---|---|")
    yield from (
        f"| [`{name}`](#busbar-{name}) | {_text(about)} |" for name, (_, about) in lazy.COMMANDS.items()
    )
    for name, (_, about) in lazy.COMMANDS.items():
        yield from _group(f"busbar {name}", lazy.load(name, lazy.LazyGroup), about, of_all)


def _group(group: str, command: Any, about: str, of_all: Any) -> Iterator[str]:
    yield from ("", f"## {group}", "", *_paragraphs(command.help or about))
    for words, leaf in calls(group, command):
        below = words != group
        yield from ("", f"### {words}") if below else ()
        yield from ("", "```", f"{words} {usage(leaf)}", "```", "")
        yield from (*_paragraphs(leaf.help or ""), "") if below else ()
        yield from _table(leaf, of_all)


def _table(command: Any, of_all: Any) -> Iterator[str]:
    found = list(parameters(command, of_all))
    if found:
        yield from ("| parameter | |", "|---|---|")
    for each in found:
        names = ", ".join(f"`{name}`" for name in each.names)
        value = f" {_word(each.value)}" if each.value else ""
        yield f"| {names}{value} | {_text(each.text)} |"


def _word(value: str) -> str:
    """A value's word as code; choices so that neither forges nor the site take them for cells of a table."""
    return f"<code>{value.replace('|', '&#124;')}</code>" if "|" in value else f"`{value}`"


def _paragraphs(text: str) -> Iterator[str]:
    yield from _text(text.strip()).split("\n")


def _text(text: str) -> str:
    """Prose without anything that Markdown would read; tabular too."""
    return re.sub(r"([*\[\]|`])", r"\\\1", text.replace("<", "&lt;"))
