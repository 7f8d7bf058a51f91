"""Files of definitions: YAML, TOML or JSON in, with the line of each member; out with a line for editors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from busbar.bus.errors import BusError, pointer_step
from busbar.bus.routers.definitions import SCHEMA_MEMBER

from ..errors import CliError, ExitCode, usage
from .definition import yaml_loader

Format = Literal["yaml", "toml", "json", "jsonl"]
SCHEMA_FILE: Final = "busbar.schema.json"
"""What the schema's file is called by the line at a file's top."""
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_VALUES: Final = 200_000
Line = Callable[[str], int | None]


class Document(NamedTuple):
    """A file as plain values; `line` tells where the member at a pointer stands, None where it can't."""

    value: dict[str, Any]
    line: Line
    name: str


def read_document(path: str) -> Document:
    """Read a file, or `-` for stdin, as its name ends: .toml, .json, or YAML.

    Raises:
        CliError: it can't be read, or is no object of plain values.
    """
    name = "stdin" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        if len(text) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        value, line = _parse(text, path)
        if not isinstance(value, dict):
            raise ValueError("it is no object with members such as 'clusters'")
        _check_plain(value, line, name)
    except OSError as error:
        raise usage(f"{name}: {error.strerror}") from None
    except RecursionError:
        raise usage(f"{name}: it is nested too deeply") from None
    except ValueError as error:
        raise usage(f"{name}: {' '.join(str(error).split())}") from None
    return Document(value, line, name)


def _parse(text: str, path: str) -> tuple[Any, Line]:
    if path.endswith(".toml"):
        import tomllib

        return tomllib.loads(text), _unknown
    if path.endswith(".json"):
        return json.loads(text, object_pairs_hook=_members), _lines(text)
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.load(text, yaml_loader()), _lines(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a member twice")
    return found


def _unknown(pointer: str) -> None:
    return None


def _lines(text: str) -> Line:
    """Where members stand, from YAML's own nodes; JSON is read as YAML. Looked up only when asked for."""

    @cache
    def root() -> Any:
        import yaml

        try:
            return yaml.compose(text, yaml.SafeLoader)
        except yaml.YAMLError:
            return None

    def line(pointer: str) -> int | None:
        import yaml

        node, found = root(), None
        for name in pointer.split("/")[1:]:
            if not isinstance(node, yaml.MappingNode):
                break
            pairs = {pointer_step(str(key.value)): (key, value) for key, value in node.value}
            if name not in pairs:
                break
            key, node = pairs[name]
            found = key.start_mark.line + 1
        return found

    return line


def _check_plain(value: Any, line: Line, name: str) -> None:
    """Check that a file has nothing but objects, lists, text and numbers.

    Raises:
        CliError: a name that is no text, or a date: YAML makes them of words without quotes.
        ValueError: it has too many values.
    """
    for count, (at, each) in enumerate(_values(value, "")):
        if count >= MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values, those that aliases repeat included")
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, str):
                    _wrong(f"{key!r} is no text: a name needs quotes", at, line, name)
        elif not isinstance(each, (list, str, int, float, bool, type(None))):
            _wrong(f"{each} is neither text nor a number: text needs quotes", at, line, name)


def _values(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Everything in it, each before what it holds."""
    yield at, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _values(each, f"{at}/{pointer_step(key)}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _values(each, f"{at}/{index}")


def _wrong(detail: str, at: str, line: Line, name: str) -> None:
    raise CliError(place(name, line, at) + detail, ExitCode.USAGE, "invalid_argument")


def place(name: str, line: Line, pointer: str) -> str:
    """Where something is wrong, as the beginning of a sentence: `realm.yaml:7: /clusters/edge: `."""
    number = line(pointer)
    return f"{name}{f':{number}' if number else ''}: {pointer or '/'}: "


def located(document: Document, error: BusError) -> str:
    """An error of a document as one line for people."""
    pointer = error.pointers[0] if error.pointers else ""
    return f"{place(document.name, document.line, pointer)}{error.detail}"


# --- writing -----------------------------------------------------------------------------------------------


def render(value: Mapping[str, Any], form: Format, *, ascii_only: bool = False) -> str:
    """A document as text, with a line that names its schema to editors.

    Raises:
        CliError: TOML has no word for null.
    """
    from ..printing.output import document

    if form == "toml":
        return f"#:schema ./{SCHEMA_FILE}\n{_safe(toml(value), ascii_only=ascii_only)}"
    if form in ("json", "jsonl"):
        return document({SCHEMA_MEMBER: f"./{SCHEMA_FILE}", **value}, form, ascii_only=ascii_only)
    head = f"# yaml-language-server: $schema=./{SCHEMA_FILE}\n"
    return head + document(value, form, ascii_only=ascii_only)


def _safe(text: str, *, ascii_only: bool) -> str:
    """The text with what is not printable, and stands in strings alone, as TOML escapes it."""
    wanted = (lambda char: char.isascii() and char.isprintable()) if ascii_only else str.isprintable
    return "".join(char if wanted(char) or char == "\n" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def toml(value: Mapping[str, Any]) -> str:
    """A plain object as TOML.

    Raises:
        CliError: it holds a null.
    """
    import tomlkit
    from tomlkit.exceptions import ConvertError

    try:
        return tomlkit.dumps(value)
    except ConvertError:
        raise CliError("TOML has no null, which the definitions have: use -o yaml or -o json") from None
