"""Changes a config file so that comments and the order of what stays survive. Imported to change one."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Comment, Table, Whitespace

CONTEXTS: Final = "contexts"
Contexts = Mapping[str, Mapping[str, str]]
Body = list[tuple[Any, Any]]
"""What a table holds, in its order: comments and empty lines without a key."""


def rendered(contexts: Contexts, current: str | None) -> str:
    """The text of a new file."""
    top = {} if current is None else {"current": current}
    return tomlkit.dumps({**top, CONTEXTS: {name: contexts[name] for name in sorted(contexts)}})


def edited(text: str, contexts: Contexts, current: str | None, renamed: tuple[str, str] | None) -> str | None:
    """A file's text, changed to say this; None where it is written in a way that can't be changed so.

    Args:
        renamed: the old and the new name of a context, which keeps its place.
    """
    try:
        document = _with_current(tomlkit.parse(text), current)
        tables = document.setdefault(CONTEXTS, tomlkit.table(True))
        if renamed is not None:
            _rename(tables, *renamed)
            document = tomlkit.parse(document.as_string())
            tables = document[CONTEXTS]
        _change(document.body, tables, contexts)
        return document.as_string()
    except (TOMLKitError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _with_current(document: tomlkit.TOMLDocument, current: str | None) -> tomlkit.TOMLDocument:
    """The document with the name of the current context, or without one."""
    if current is None:
        document.pop("current", None)
    elif "current" in document:
        document["current"] = current
    else:
        return tomlkit.parse(tomlkit.dumps({"current": current}) + "\n" + document.as_string())
    return document


def _rename(tables: Any, old: str, new: str) -> None:
    body: Body = tables.value.body
    for at, (key, item) in enumerate(body):
        if key is not None and key.key == old:
            if isinstance(item, Table):
                item.display_name = None  # else that of before is printed
            body[at] = (tomlkit.key(new), item)


def _change(top: Body, tables: MutableMapping[str, Any], contexts: Contexts) -> None:
    """Make the tables of contexts say this.

    What stands between two tables is of the one above it for tomlkit, but is about the one below: it is set
    aside meanwhile, so that it neither goes with the one above nor parts it from a new member.
    """
    tails = {name: _taken_tail(table) for name, table in tables.items()}
    above: Body | None = None
    for name, tail in tails.items():
        if name in contexts:
            _set(tables[name], contexts[name])
            above = tables[name].value.body if tail else above
        else:
            del tables[name]
        if above is not None:
            above.extend(tail)
        else:
            at = next(i for i, (key, _) in enumerate(top) if key is not None and key.key == CONTEXTS)
            top[at:at] = tail
    for name in contexts.keys() - tails.keys():
        tables[name] = dict(contexts[name])


def _taken_tail(table: Any) -> Body:
    """The comments and empty lines at a table's end, which it no longer has."""
    body: Body = table.value.body if isinstance(table, Table) else []
    end = len(body)
    while end and isinstance(body[end - 1][1], (Comment, Whitespace)):
        end -= 1
    tail = body[end:]
    del body[end:]
    return tail


def _set(table: MutableMapping[str, Any], members: Mapping[str, str]) -> None:
    for key in [key for key in table if key not in members]:
        del table[key]
    for key, value in members.items():
        if table.get(key) != value:
            table[key] = value
