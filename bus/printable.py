"""Text that others chose, made safe where it leaves for a terminal, a log or a script. Pure.

Control characters (C0, DEL, C1), format characters (bidi overrides, zero-width ones, tags), line and
paragraph separators move cursors, forge lines, or show something else than what is there.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

for _codec in ("unicode_escape", "utf-16-be"):
    codecs.lookup(_codec)  # read from its file now: a process may be out of descriptors when it logs


def printable(text: str) -> str:
    r"""The text on one line: what is not printable stands as `\n`, `\x9b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""A plain value as JSON that reads back the same, with what is not printable as `\u202e`."""
    return escaped(json.dumps(value, indent=indent, ensure_ascii=ascii_only))


def escaped(document: str) -> str:
    r"""The text of JSON, or of YAML with unprintable text in double quotes, in printable characters."""
    if document.isprintable():
        return document
    return "".join(char if char.isprintable() or char == "\n" else _units(char) for char in document)


def _units(char: str) -> str:
    """A character as the UTF-16 code units of JSON; YAML knows those of one unit too."""
    data = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[i : i + 2].hex()}" for i in range(0, len(data), 2))
