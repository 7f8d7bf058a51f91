"""The reference of the client for programs (docs/reference/client.md), from its signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import busbar
import msgspec
from busbar.bus.client.client import BusClient
from busbar.bus.client.operations.clusters import ClusterOperations
from busbar.bus.client.operations.groups import GroupOperations
from busbar.bus.client.operations.plans import PlanOperations
from busbar.bus.client.operations.realm import RealmOperations
from busbar.bus.client.references import References
from busbar.bus.contract import OPERATIONS

WIDTH: Final = 100
SECTION: Final = re.compile(r"^(Args|Raises|Returns):$")
GROUPS: Final = {
    "Watch": lambda name: name.startswith("watch_"),
    "Wait": lambda name: name.startswith("wait_"),
    "Look up": lambda name: name in vars(References),
    "Operations on clusters": lambda name: name in vars(ClusterOperations),
    "Operations on groups and workers": lambda name: name in vars(GroupOperations),
    "Plans, and changes of many objects": lambda name: name in vars(PlanOperations),
    "Operations on the realm": lambda name: name in vars(RealmOperations),
    "Further": lambda name: True,
}
"""The headings below the client, and which of its methods stand there; the first that takes it."""


def page() -> Iterator[str]:
    """The page's lines below its heading."""
    yield "What `import busbar` offers a program; [how to use it](../howto/python-client.md). All names are"
    yield "of `busbar` itself, but for results that are only returned. Parameters and errors of the"
    yield "operations: [operations](operations.md)."
    exported = {name: getattr(busbar, name) for name in sorted(busbar.__all__, key=str.casefold)}
    structs = {kind.__name__: kind for kind in _structs(exported.values())}
    yield from ("", "## Connect")
    yield from _function("connect", busbar.connect, 3, "async with")
    yield from (
        "",
        "### connect_sync",
        "",
        "`connect` with the same arguments, for programs without an event loop:",
    )
    yield "`with connect_sync(…) as bus` gives a `SyncBusClient`."
    yield from _client()
    yield from ("", "## SyncBusClient", "", *_doc(busbar.SyncBusClient))
    yield from _own(busbar.SyncBusClient)
    yield from ("", "## Errors")
    for name, kind in exported.items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            above = next(base for base in kind.__mro__[1:])
            yield from (
                "",
                f"### {name}",
                "",
                f"Subclass of `{above.__name__}`.",
                "",
                _first(kind),
                *_rest(kind),
            )
    yield from ("", "## Results and messages")
    for name in sorted(structs, key=str.casefold):
        yield from ("", f"### {name}", "", *_doc(structs[name]), "", *_members(structs[name]))


def _client() -> Iterator[str]:
    yield from ("", "## BusClient", "", _first(BusClient), "What `connect` gives; it is not made by itself.")
    left = {name: each for name, each in inspect.getmembers(BusClient) if not name.startswith("_")}
    lines = {name: number for number, name in enumerate(_written(BusClient))}
    for heading, takes in GROUPS.items():
        mine = sorted((name for name in left if takes(name)), key=lambda name: lines[name])
        yield from ("", f"### {heading}")
        for name in mine:
            each = left.pop(name)
            if isinstance(each, property):
                yield from ("", f"#### {name}", "", *_doc(each.fget))
            else:
                yield from _function(name, each, 4)


def _own(kind: type) -> Iterator[str]:
    """The methods that a class writes itself, not those that are another one's."""
    for name, each in vars(kind).items():
        if not name.startswith("_") and inspect.isfunction(each) and not hasattr(each, "__wrapped__"):
            yield from _function(name, each, 3)


def _written(kind: type) -> Iterator[str]:
    """Members in the order of the code, the last base first."""
    seen = dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base))
    yield from seen


def _function(name: str, function: Callable[..., Any], level: int, word: str | None = None) -> Iterator[str]:
    if word is None:
        word = "async def" if inspect.iscoroutinefunction(function) else "def"
    yield from ("", f"{'#' * level} {name}", "", "```python", *_signature(name, function, word))
    yield from ("```", "", *_doc(function))


def _signature(name: str, function: Callable[..., Any], word: str) -> Iterator[str]:
    found = inspect.signature(function)
    parts, keyword_only = [], False
    for each in found.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        kind = "" if each.annotation is each.empty else f": {_type(each.annotation)}"
        parts.append(
            each.name + kind + ("" if each.default is each.empty else f" = {_default(each.default)}")
        )
    with_block = word.endswith("with")
    back = " as bus:" if with_block else f" -> {_type(found.return_annotation)}"
    line = f"{word} {name}({', '.join(parts)}){back}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield from (f"{word} {name}(", *(f"    {part}," for part in parts), f"){back}")


def _default(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _type(annotation: Any) -> str:
    return re.sub(r"\bp\.", "", annotation if isinstance(annotation, str) else annotation.__name__)


def _doc(thing: Any) -> Iterator[str]:
    """A docstring as Markdown: arguments and errors as lists."""
    text = _text(inspect.cleandoc(thing.__doc__ or ""))
    items, last = False, ""
    for line in text.split("\n"):
        if SECTION.match(line):
            items = True
            last = ""
            yield from (
                f"*{ {'Args': 'Arguments', 'Raises': 'Errors', 'Returns': 'Returns'}[line[:-1]] }*",
                "",
            )
        elif items and (found := re.match(r" {4}(\w+): (.*)", line)):
            yield f"- `{found[1]}`: {found[2]}"
        elif not line:
            items = False
            if last:
                yield ""
        else:
            yield ("  " if items else "") + line.strip()
        last = line


def _text(text: str) -> str:
    """Prose in which only backticks mean something."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if number % 2 else re.sub(r"([*\[])", r"\\\1", part.replace("<", "&lt;"))
        for number, part in enumerate(parts)
    )


def _first(kind: Any) -> str:
    return _text(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "))


def _rest(kind: Any) -> Iterator[str]:
    rest = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[2]
    if rest:
        yield from ("", *_text(rest).split("\n"))


def _structs(exported: Iterable[Any]) -> list[type[msgspec.Struct]]:
    """The results and messages that are exported, what operations return, and what these hold."""
    found: dict[type[msgspec.Struct], None] = {}
    queue = [*exported, *(row.result for row in OPERATIONS.values())]
    while queue:
        kind = queue.pop()
        queue += typing.get_args(kind)
        plain = isinstance(kind, type) and not isinstance(kind, types.GenericAlias)
        if plain and issubclass(kind, msgspec.Struct) and kind not in found:
            found[kind] = None
            queue += typing.get_type_hints(kind).values()
    return list(found)


def _members(kind: type[msgspec.Struct]) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    fields = msgspec.structs.fields(kind)
    if not fields:
        return
    yield from ("| member | type |", "|---|---|")
    for field in fields:
        yield f"| `{field.name}` | `{_kind(hints[field.name])}` |"


def _kind(hint: Any) -> str:
    """A type as code has it, which a table can show."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(each) for each in inner))
    if origin is typing.Literal:
        return " or ".join(repr(each) for each in inner)
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(_kind(each) for each in inner)}]"
    return {type(None): "None", Any: "Any"}.get(hint) or str(getattr(hint, "__name__", hint))
