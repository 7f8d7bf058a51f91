"""Changes a config file line by line, so that comments and the order of what stays survive. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

_HEADER: Final = re.compile(r"\s*\[")
_CURRENT: Final = re.compile(r"\s*current\s*=")


def quoted(value: str) -> str:
    """A TOML string."""
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def header(name: str) -> str:
    """The line that begins a context."""
    return f"[contexts.{quoted(name)}]"


def set_current(lines: list[str], name: str | None) -> list[str]:
    """Name the current context at the top, or none."""
    top = next((i for i, line in enumerate(lines) if _HEADER.match(line)), len(lines))
    found = next((i for i in range(top) if _CURRENT.match(lines[i])), None)
    made = (
        []
        if name is None
        else [f"current = {quoted(name)}{_comment(lines[found]) if found is not None else ''}"]
    )
    if found is not None:
        return [*lines[:found], *made, *lines[found + 1 :]]
    return [*made, *([""] if made and lines and lines[0].strip() else []), *lines]


def rename(lines: list[str], old: str, new: str) -> list[str]:
    """Give a context another name."""
    at = _begin(lines, old)
    return lines if at is None else [*lines[:at], header(new) + _comment(lines[at]), *lines[at + 1 :]]


def remove(lines: list[str], name: str) -> list[str]:
    """Delete a context and the comments within it."""
    at = _begin(lines, name)
    return lines if at is None else [*lines[:at], *lines[_end(lines, at) :]]


def put(lines: list[str], name: str, members: Mapping[str, str]) -> list[str]:
    """Set a context's members, all of them: those that are not given are deleted."""
    at = _begin(lines, name)
    if at is None:
        gap = [""] if lines and lines[-1].strip() else []
        return [*lines, *gap, header(name), *(f"{key} = {quoted(value)}" for key, value in members.items())]
    end, kept, seen = _end(lines, at), list[str](), set[str]()
    for line in lines[at + 1 : end]:
        key = line.partition("=")[0].strip().strip("\"'")
        if line.lstrip().startswith("#") or "=" not in line:
            kept.append(line)
        elif key in members:
            seen.add(key)
            kept.append(f"{key} = {quoted(members[key])}{_comment(line)}")
    new = [f"{key} = {quoted(value)}" for key, value in members.items() if key not in seen]
    blank = next((i for i in range(len(kept), 0, -1) if kept[i - 1].strip()), 0)
    return [*lines[: at + 1], *kept[:blank], *new, *kept[blank:], *lines[end:]]


def _begin(lines: list[str], name: str) -> int | None:
    spelled = {f"[contexts.{each}]" for each in (name, quoted(name), f"'{name}'")}
    return next((i for i, line in enumerate(lines) if _bare(line) in spelled), None)


def _end(lines: list[str], at: int) -> int:
    """Where the next table begins, with the comments right above it."""
    end = next((i for i in range(at + 1, len(lines)) if _HEADER.match(lines[i])), len(lines))
    while end < len(lines) and lines[end - 1].lstrip().startswith("#"):
        end -= 1
    return max(end, at + 1)


def _bare(line: str) -> str:
    return line[: len(line) - len(_comment(line))].strip()


def _comment(line: str) -> str:
    """The comment at the end of a line, with the space before it."""
    match = re.fullmatch(r"""(?:[^"'#]|"(?:[^"\\]|\\.)*"|'[^']*')*?(\s*#.*)""", line)
    return match[1] if match else ""
