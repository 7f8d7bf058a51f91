"""Which format a command prints: -o, else BUSBAR_OUTPUT. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import usage

FORMATS: Final = ("table", "wide", "json", "yaml", "jsonl", "name")
OBJECTS: Final = ("json", "yaml", "jsonl")
"""Formats of programs, in which errors are objects too."""
EXPRESSIONS: Final = ("jsonpath=", "template=")
"""Formats that say what is printed."""
VARIABLE: Final = "BUSBAR_OUTPUT"
HELP: Final = (
    "table, wide, json, yaml, jsonl, name, jsonpath='{.items[*].name}' or template='{name} {status}'."
)


def choose(asked: str | None, env: Mapping[str, str], *, has_names: bool) -> str | None:
    """The format in force, None where none is asked for; an empty variable counts as unset.

    Args:
        has_names: what the command prints has names. Where it has none, the variable's `name` is passed over.

    Raises:
        CliError: there is no such format, its expression is wrong, or the command was asked for names and
            has none.
    """
    form = asked or env.get(VARIABLE) or None
    if form is not None and form.startswith(EXPRESSIONS):
        from . import expressions

        expressions.check(form)
    elif form not in (None, *FORMATS):
        where = f"-o {form}" if asked else f"{VARIABLE}={form}"
        raise usage(f"{where}: the formats are {', '.join((*FORMATS, *EXPRESSIONS))}{_hint(form)}")
    if form == "name" and not has_names:
        if asked:
            raise usage("-o name is of commands that list or show objects that have names")
        return None
    return form


def complete(incomplete: str) -> list[str]:
    """For the shell: formats that begin so."""
    return [form for form in (*FORMATS, *EXPRESSIONS) if form.startswith(incomplete)]


def _hint(form: str | None) -> str:
    """What to say to those who know the words of other tools."""
    word = (form or "").partition("=")[0]
    if word == "jsonpath":
        return "; jsonpath needs an expression, such as jsonpath='{.items[*].name}'"
    if word in ("template", "go-template", "custom-columns"):
        return "; for some members say template='{name} {status}'"
    return ""
