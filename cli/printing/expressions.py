"""-o jsonpath=... and -o template=...: what is printed of an object. Imported where one is given.

An expression is JSONPath (RFC 9535), in kubectl's braces or without, and with or without `$`. A template is
text with such expressions in braces, each relative to one object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import jsonpath
from busbar.bus.printable import json_text, printable
from jsonpath.exceptions import JSONPathError
from jsonpath.segments import JSONPathChildSegment
from jsonpath.selectors import NameSelector

from ..errors import CliError, usage

_INNER: Final = r"""((?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^"'{}])*)"""
_PART: Final = re.compile(rf"\{{\{{{_INNER}\}}\}}|\{{{_INNER}\}}|(\\[nt\\])|([{{}}])")
"""`{{...}}` and `{...}`, an escape, or a brace of neither."""
_ESCAPES: Final = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
_CONTROL: Final = re.compile(r"(range|end|if|else|with)\b")
ITEMS: Final = "items"
MAX_CHARACTERS: Final = 4096
Query = Any  # jsonpath's path, or several of them put together


class Path(NamedTuple):
    """A compiled expression, and the name of a member that it begins with."""

    query: Query
    first: str | None


def text_of(form: str, value: Any, *, stream: bool = False) -> str:
    """A plain value as text of a format `jsonpath=EXPRESSION` or `template=TEXT`, with its line ends.

    Raises:
        CliError: the expression is wrong, or can't be carried out on the value.
    """
    kind, _, text = form.partition("=")
    if kind == "template":
        parts = template(text)
        rows = value if isinstance(value, list) and not stream else [value]
        return "".join(f"{_filled(parts, row)}\n" for row in rows)
    path = expression(text)
    # A list can also be had as kubectl has it: as the member `items`.
    root = {ITEMS: value} if path.first == ITEMS and isinstance(value, list) else value
    return "".join(f"{_shown(found)}\n" for found in _find(path, root, "jsonpath"))


def check(form: str, members: Collection[str] | None = None, *, of_list: bool = False) -> None:
    """Check a format; with the names of an object's members also that what it names is one of them.

    Args:
        of_list: it is for a list of such objects.

    Raises:
        CliError: what is wrong.
    """
    kind, _, text = form.partition("=")
    if kind == "template":
        names = [part.first for part in template(text) if isinstance(part, Path)]
    else:
        path = expression(text)
        names = [_of_row(path, members) if of_list else path.first]
    for name in names:
        if members is not None and name is not None and name not in members:
            raise usage(f"-o {kind}: there is no member '{name}'{_instead(name, members)}")


def _of_row(path: Path, members: Collection[str] | None) -> str | None:
    """The member of a row that an expression on a list names, as `items[*].name` and `$[*].name` do."""
    segments: Sequence[Any] = getattr(path.query, "segments", ())
    rest = segments[1:] if path.first == ITEMS else segments
    if members is not None and rest and _name(rest[0]) is not None:
        raise usage(f"-o jsonpath: this is a list: say {{.items[*].{_name(rest[0])}}}")
    return _name(rest[1]) if len(rest) > 1 and isinstance(rest[0], JSONPathChildSegment) else None


def _instead(name: str, members: Collection[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), sorted(members), 1)
    return f"; did you mean '{close[0]}'?" if close else f": there are {', '.join(sorted(members))}"


@cache
def expression(text: str) -> Path:
    """Compile an expression.

    Raises:
        CliError: it is none.
    """
    plain = text.strip()
    if plain.startswith("{") and not plain.endswith("}"):
        raise usage(f"-o jsonpath: '{plain}': the brace at its beginning has no partner")
    if plain.startswith("{") and plain.endswith("}"):
        if _PART.fullmatch(plain) is None:
            raise usage(
                "-o jsonpath is one expression, such as {.items[*].name}: for several, or text between them, "
                "use -o template='{name} {status}', which is printed for each object"
            )
        plain = plain[1:-1].strip()
    return _compiled(plain, "jsonpath")


@cache
def template(text: str) -> Sequence[str | Path]:
    """The parts of a template: text, and compiled expressions.

    Raises:
        CliError: a brace has no partner, or holds no expression.
    """
    parts: list[str | Path] = []
    end = 0
    for match in _PART.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        doubled, single, escape, brace = match.groups()
        if brace:
            raise usage(f"-o template: '{brace}' at character {match.start() + 1} has no partner")
        parts.append(_ESCAPES[escape] if escape else _field((doubled or single or "").strip()))
    found = [part for part in (*parts, text[end:]) if part]
    if not any(isinstance(part, Path) for part in found):
        raise usage("-o template names members in braces, such as template='{name} {status}'")
    return found


def _field(inner: str) -> str | Path:
    if inner[:1] == '"':
        try:
            return str(json.loads(inner))
        except ValueError:
            raise usage(f"-o template: {inner} is no text in quotes") from None
    if _CONTROL.match(inner):
        raise usage(f"-o template: '{inner}': the template is printed for each object; it has members alone")
    return _compiled(inner, "template")


def _compiled(text: str, kind: str) -> Path:
    plain = f"${text[1:]}" if text[:1] == "@" else text
    example = "{.items[*].name}" if kind == "jsonpath" else "{name} {status}"
    if not plain:
        raise usage(f"-o {kind} needs an expression, such as {kind}='{example}'")
    if len(plain) > MAX_CHARACTERS:
        raise usage(f"-o {kind}: longer than {MAX_CHARACTERS} characters")
    try:
        query = jsonpath.compile(plain)
    except JSONPathError as error:
        at = f" at character {error.token.index + 1}" if error.token is not None else ""
        raise usage(f"-o {kind}: '{plain}': {error.message}{at}; it is written as {example}") from None
    except (RecursionError, ValueError) as error:
        raise usage(f"-o {kind}: '{plain}': {error or 'nested too deeply'}") from None
    segments = getattr(query, "segments", ())
    return Path(query, _name(segments[0]) if segments else None)


def _name(segment: Any) -> str | None:
    """The member that a segment such as `.name` names."""
    selectors = list(segment.selectors) if isinstance(segment, JSONPathChildSegment) else []
    only = selectors[0] if len(selectors) == 1 else None
    return only.name if isinstance(only, NameSelector) else None


def _find(path: Path, value: Any, kind: str) -> list[Any]:
    try:
        found: list[Any] = path.query.findall(value)
    except (JSONPathError, RecursionError) as error:
        raise CliError(f"-o {kind}: {getattr(error, 'message', error)}") from None
    return found


def _filled(parts: Sequence[str | Path], row: Any) -> str:
    return "".join(
        part if isinstance(part, str) else " ".join(map(_shown, _find(part, row, "template")))
        for part in parts
    )


def _shown(value: Any) -> str:
    """A value on one line: text as it is, nothing for null, all else as JSON."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) else json_text(value)
