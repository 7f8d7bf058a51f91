"""Results on stdout, as table, JSON, YAML or references; notes on stderr.

All text of a command leaves through this file, which lets no control character of others through.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TextIO, TypeVar

from busbar.bus.printable import escaped, json_text, printable

from ..context import global_options
from ..errors import usage
from . import numbers
from .formats import EXPRESSIONS

COLOURS: Final[Mapping[str, str]] = {
    "RUNNING": "green",
    "online": "green",
    "DEGRADED": "yellow",
    "STARTING": "yellow",
    "STOPPING": "yellow",
    "late": "yellow",
    "BACKOFF": "red",
    "ERROR": "red",
    "UNKNOWN": "red",
    "PENDING": "red",
    "lost": "red",
    "STOPPED": "bright_black",
    "offline": "bright_black",
}
"""Colours of states on a terminal."""
TINTS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""Colours that tell lines of different origin apart."""

COUNTS: Final = frozenset({"applied", "capacity", "clusters", "limits", "nodes", "workers"})
"""Members that hold a few numbers by name."""
REASONS: Final = frozenset({"reason", "conditions"})
"""Headings of columns that stay the last."""

T = TypeVar("T")
Column = tuple[str, Callable[[T], object]]
"""A heading, and the cell below it as a function of the row."""


def output_format() -> str:
    """The format asked for, as `formats` has them (checked before the command runs); `wide` is a table."""
    form = global_options().output or "table"
    return "table" if form == "wide" else form


def is_wide() -> bool:
    """Whether tables are to have more columns."""
    return global_options().output == "wide"


def reference(shown: object) -> str:
    """How other commands name an object: `edge`, or `edge/web-3` of what is in a cluster.

    Raises:
        CliError: it has no name.
    """
    found = merged(shown)
    name, cluster = found.get("name"), found.get("cluster")
    if not isinstance(name, str):
        raise usage("-o name: what is shown has no name")
    return f"{cluster}/{name}" if cluster else name


def show_list(
    rows: Sequence[T],
    columns: Sequence[Column[T]],
    empty: str = "none",
    name: Callable[[T], str] = reference,
    wide: Sequence[Column[T]] = (),
) -> None:
    """Print objects: as a table of these columns, all members as JSON or YAML, or the name of each.

    Args:
        wide: more columns for `-o wide`; before a last one that gives reasons, which may be long.
    """
    if output_format() == "name":
        return show_names([name(row) for row in rows])
    if output_format() != "table":
        _check_members(rows[0] if rows else None, of_list=True)
        return dump(list(rows))
    if not rows:
        return note(empty)
    if is_wide():
        last = columns[-1:] if columns[-1][0] in REASONS else ()
        columns = [*columns[: len(columns) - len(last)], *wide, *last]
    cells = [[as_text(get(row)).replace("\n", " ") for _, get in columns] for row in rows]
    print_table([heading for heading, _ in columns], cells, headed=global_options().headers)


def show_names(names: Sequence[str]) -> None:
    """Print names, one a line."""
    if output_format() not in ("table", "name"):
        return dump(list(names))
    for name in names:
        say(name)
    return None


def show_object(shown: object, first: Sequence[str] = ("name", "status")) -> None:
    """Print one object: the members named first, then the others, oids last."""
    if output_format() == "name":
        return say(reference(shown))
    if output_format() != "table":
        _check_members(shown, of_list=False)
        return dump(shown)
    found = merged(shown)
    keys = [key for key in first if key in found]
    keys += sorted((key for key in found if key not in keys), key=lambda key: "oid" in key)
    width = max(map(len, keys), default=0)
    for key in keys:
        text = _for_people(key, found[key])
        if text:
            lines = text.split("\n")
            say(f"{key:<{width}}  ", State(lines[0]))
            for line in lines[1:]:
                say(f"{'':<{width}}  {line}")
    return None


def _check_members(row: object, *, of_list: bool) -> None:
    """Refuse an expression that names a member which objects of this type never have.

    Raises:
        CliError: it does.
    """
    from msgspec import Struct, structs

    if output_format().startswith(EXPRESSIONS) and isinstance(row, Struct):
        from .expressions import check

        check(output_format(), [field.encode_name for field in structs.fields(row)], of_list=of_list)


def _for_people(key: str, value: object) -> str:
    """A member's value: sizes, spans and moments with units."""
    if key in COUNTS and isinstance(value, Mapping):
        known = {name: each for name, each in value.items() if each is not None}
        return ", ".join(f"{name} {_for_people(name, each)}" for name, each in known.items())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "_ms" in key:
            return numbers.duration(value)
        if key in ("lost_after", "start_deadline"):
            return f"{value:g} s"
        if key in ("memory", "max_payload"):
            return numbers.size(int(value))
        if key == "cpu_s":
            return numbers.seconds(value)
        if key == "rss":
            return numbers.size(int(value))
        if key == "changed":
            from busbar.bus.clock import rfc3339

            return rfc3339(int(value))
    return as_text(value)


def done(found: object, text: str) -> None:
    """Print the result of a change: a sentence, or the object itself."""
    if output_format() != "table":
        return dump(found)
    say(text)
    return None


def merged(*objects: object, **more: object) -> dict[str, object]:
    """The members of all objects as plain values; later ones win, None is skipped."""
    from msgspec import to_builtins

    found: dict[str, object] = {}
    for each in objects:
        found |= {} if each is None else to_builtins(each)
    return found | more


def dump(value: object, *, stream: bool = False) -> None:
    """Print a value as JSON or YAML or what an expression says, of a list in `jsonl` each item on a line.

    Args:
        stream: it is one of many, a line or a document each.
    """
    from msgspec import to_builtins

    text = document(
        to_builtins(value), output_format(), stream=stream, ascii_only=not _is_unicode(sys.stdout)
    )
    print(text, end="", flush=stream)


def document(value: Any, form: str, *, stream: bool = False, ascii_only: bool = False) -> str:
    """A plain value as text of a format, `json`, `jsonl`, `yaml` or an expression, with its line end."""
    if form.startswith(EXPRESSIONS):
        from .expressions import text_of

        return text_of(form, value, stream=stream)
    if form == "jsonl":
        items = value if isinstance(value, list) and not stream else [value]
        return "".join(document(item, "json", stream=True, ascii_only=ascii_only) for item in items)
    if form != "yaml":
        return json_text(value, indent=None if stream else 2, ascii_only=ascii_only) + "\n"
    import yaml  # type: ignore[import-untyped]

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml is not typed
        def ignore_aliases(self, data: object) -> bool:
            return True

        def text(self, data: str) -> Any:
            # Only in double quotes can a character be escaped.
            plain = data.replace("\n", "").isprintable()
            return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else '"')

    Dumper.add_representer(str, Dumper.text)
    return escaped(
        yaml.dump(
            value,
            Dumper=Dumper,
            sort_keys=False,
            allow_unicode=not ascii_only,
            default_flow_style=False,
            explicit_start=stream,
        )
    )


def show_document(render: Callable[..., str]) -> None:
    """Print a whole document, which `render(ascii_only=…)` makes of printable characters and line ends."""
    print(render(ascii_only=not _is_unicode(sys.stdout)), end="")


class State(str):
    """A state, which a terminal shows in its colour."""


class Tinted(str):
    """Text that a terminal shows in one of some colours, the same for the same `key`."""

    key = 0


def tinted(text: str, key: int) -> Tinted:
    """The text in the colour of that number."""
    made = Tinted(text)
    made.key = key
    return made


def say(*parts: str, flush: bool = False) -> None:
    """Print one line to stdout. Whatever the parts hold, it is one line, and moves no cursor."""
    print(_line(parts, sys.stdout), flush=flush)


CLEAR: Final = "\x1b[H\x1b[2J"


def clear() -> None:
    """Empty the terminal, where stdout is one that can."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        print(CLEAR, end="")


def again(text: str, to: TextIO | None = None) -> None:
    """Print once more what a command has printed; to stdout unless said otherwise."""
    print(text, end="", file=to or sys.stdout, flush=True)


def note(*parts: str, flush: bool = False) -> None:
    """Print one line to stderr: what is not part of the result."""
    print(_line(parts, sys.stderr), file=sys.stderr, flush=flush)


def note_object(value: Any) -> None:
    """Print an object to stderr in the format asked for: an error."""
    form = output_format()
    text = document(value, form, stream=form == "json", ascii_only=not _is_unicode(sys.stderr))
    print(text, end="", file=sys.stderr)


def _line(parts: Sequence[str], to: TextIO) -> str:
    if not has_colours(to):
        return "".join(map(printable, parts))
    return "".join(paint(p) if isinstance(p, (State, Tinted)) else printable(p) for p in parts)


def has_colours(to: TextIO) -> bool:
    """Whether escape sequences are wanted there: a terminal that knows them, and no NO_COLOR."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return to.isatty()


def _is_unicode(to: TextIO) -> bool:
    return (to.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8", "utf-16", "utf-32")


def as_text(value: object) -> str:
    """A value for people, a line for each item of a list; empty for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return "\n".join(as_text(item) for item in value)
    if isinstance(value, (dict, list)):
        return json_text(value)
    return "\n".join(printable(line) for line in str(value).split("\n"))


def paint(text: str) -> str:
    """A state or a tinted text with its colour, where a terminal shows it."""
    if isinstance(text, Tinted):
        return f"\x1b[{TINTS[text.key % len(TINTS)]}m{printable(text)}\x1b[0m"
    text = printable(text)
    if text not in COLOURS or not has_colours(sys.stdout):
        return text
    codes = {"green": 32, "yellow": 33, "red": 31, "bright_black": 90}
    return f"\x1b[{codes[COLOURS[text]]}m{text}\x1b[0m"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, headed: bool = True) -> None:
    """A table: by rich on a terminal; plain columns for scripts, which also starts faster."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        return _rich_table(headings, rows, headed=headed)
    for line in plain_table(headings, rows)[0 if headed else 1 :]:
        say(line)
    return None


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, two spaces apart."""
    table = [[heading.upper() for heading in headings], *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    return ["  ".join(text.ljust(widths[i]) for i, text in enumerate(row)).rstrip() for row in table]


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, headed: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Empty columns are omitted; only the last one, the reason, wraps.
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, show_header=headed)
    for i in kept:
        table.add_column(headings[i], no_wrap=i != kept[-1])
    for row in rows:
        table.add_row(*(Text(row[i], style=COLOURS.get(row[i], "")) for i in kept))
    width = sum(3 + max(len(headings[i]), *(len(row[i]) for row in rows)) for i in kept[:-1]) + 20
    console = Console(color_system="auto" if has_colours(sys.stdout) else None)
    # On a narrow terminal wrapped lines are better than truncated states and addresses.
    console.width = max(console.width, width)
    console.print(table)
