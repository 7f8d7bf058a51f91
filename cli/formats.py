"""Which format a command prints: -o, else BUSBAR_OUTPUT. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .errors import usage

FORMATS: Final = ("table", "json", "yaml", "jsonl", "name")
VARIABLE: Final = "BUSBAR_OUTPUT"


def choose(asked: str | None, env: Mapping[str, str], *, has_names: bool) -> str | None:
    """The format in force, None where none is asked for; an empty variable counts as unset.

    Args:
        has_names: what the command prints has names. Where it has none, the variable's `name` is passed over.

    Raises:
        CliError: there is no such format, or the command was asked for names and has none.
    """
    form = asked or env.get(VARIABLE) or None
    if form not in (None, *FORMATS):
        where = f"-o {form}" if asked else f"{VARIABLE}={form}"
        raise usage(f"{where}: the formats are {', '.join(FORMATS)}")
    if form == "name" and not has_names:
        if asked:
            raise usage("-o name is of commands that list or show objects that have names")
        return None
    return form
