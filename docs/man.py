"""The manual pages: busbar(1) and one for each command, from what `--help` prints."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import commands
from busbar.cli import app, lazy
from busbar.cli.errors import EXIT_HELP

ROOT: Final = Path(__file__).parent.parent
NOTE: Final = '.\\" Written by docs/generate.py from the commands; change these instead.'
ESCAPES: Final = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
)
FILES: Final = {
    "~/.config/busbar/config.toml": "Contexts: see busbar context. XDG_CONFIG_HOME is honoured.",
    "~/.local/state/busbar": "State of what a user runs. BUSBAR_STATE and XDG_STATE_HOME are honoured.",
    "/var/lib/busbar": "State of the services that systemd runs: see busbar install.",
}


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    context = commands.context()
    found = {"busbar.1": _of_all(context.command, context)}
    for name, (_, summary) in lazy.COMMANDS.items():
        command = lazy.load(name, lazy.LazyGroup)
        found[f"busbar-{name}.1"] = _of_one(name, summary, command, context)
    return {name: "\n".join(lines) + "\n" for name, lines in found.items()}


def _of_all(top: Any, context: Any) -> Iterator[str]:
    text = app.HELP.removesuffix(EXIT_HELP)
    yield from _head("busbar", text.partition("\n")[0])
    yield from (".SH SYNOPSIS", ".B busbar", _synopsis("[OPTIONS] COMMAND [ARGS]..."))
    yield from (".SH DESCRIPTION", *_paragraphs(text))
    yield from (".SH OPTIONS", *_parameters(top, context))
    yield ".SH COMMANDS"
    for name, (_, summary) in lazy.COMMANDS.items():
        yield from (".TP", f".BR {escaped(f'busbar-{name}')} (1)", *_lines(summary))
    yield ".SH FILES"
    for path, text in FILES.items():
        yield from (".TP", f".I {escaped(path)}", *_lines(text))
    yield ".SH EXIT STATUS"
    for number, meaning in commands.STATUSES:
        yield from (".TP", f".B {number}", escaped(meaning))
    yield from (".SH SEE ALSO", *_see(f"busbar-{name}" for name in lazy.COMMANDS))


def _of_one(name: str, summary: str, command: Any, context: Any) -> Iterator[str]:
    yield from _head(f"busbar-{name}", summary)
    yield ".SH SYNOPSIS"
    calls = list(commands.calls(f"busbar {name}", command))
    for number, (words, leaf) in enumerate(calls):
        yield from ([".br"] if number else [])
        yield from (f".B {escaped(words)}", _synopsis(commands.usage(leaf)))
    yield from (".SH DESCRIPTION", *_paragraphs(command.help or summary))
    if len(calls) == 1:
        yield from (".SH OPTIONS", *_parameters(calls[0][1], context))
    else:
        yield ".SH COMMANDS"
        for words, leaf in calls:
            yield from (f".SS {escaped(words)}", *_paragraphs(leaf.help or ""), *_parameters(leaf, context))
    yield ".SH SEE ALSO"
    yield from (".BR busbar (1),", "whose options and exit status hold for every command")


def _head(name: str, summary: str) -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield NOTE
    yield f'.TH {escaped(name.upper())} 1 "" "Busbar {project["version"]}" "Busbar manual"'
    yield from (".SH NAME", f"{escaped(name)} \\- {escaped(summary.rstrip('.'))}")


def _parameters(command: Any, context: Any) -> Iterator[str]:
    for each in commands.parameters(command, context):
        if each.argument:
            label = f"\\fI{escaped(each.names[0])}\\fR"
        else:
            label = ", ".join(f"\\fB{escaped(name)}\\fR" for name in each.names)
            if each.value is not None:
                label += f" \\fI{escaped(each.value)}\\fR"
        yield from (".TP", label, *(_lines(each.text) or ["\\&"]))


def _paragraphs(text: str) -> Iterator[str]:
    for number, part in enumerate(text.strip().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield from _lines(part)


def _lines(text: str) -> list[str]:
    """Text in lines of the source, none of which begins as a request of roff does."""
    return textwrap.wrap(escaped(text), 78, break_long_words=False, break_on_hyphens=False)


def _synopsis(text: str) -> str:
    return " ".join(f"\\fI{escaped(word)}\\fR" if word.isupper() else escaped(word) for word in text.split())


def _see(names: Iterable[str]) -> list[str]:
    lines = [f".BR {escaped(name)} (1)," for name in sorted(names)]
    return [*lines[:-1], lines[-1].rstrip(",")]


def escaped(text: str) -> str:
    """Text as roff prints it literally."""
    found = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text.translate(ESCAPES))
    return re.sub(r"(^|\s)\.", r"\1\\&.", found)
