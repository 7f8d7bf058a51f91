"""Options that describe a cluster or a group, as the parameters of the contract."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import UNSET, UnsetType

from .errors import usage

T = TypeVar("T")


def or_unset(value: T | None) -> T | UnsetType:
    """An option's value; UNSET when it was not given."""
    return UNSET if value is None else value


DEFAULT_TYPE: Final = "mqtt"
"""Default type when only a port is given: every node has the runtime `amqtt`."""


def transport(text: str | None, kind: str | None, port: str | None) -> dict[str, Any] | None:
    """The transport of --transport, with --type and --port set in it; None when none was given.

    Raises:
        CliError: it can't be read.
    """
    found = read_object(text, "--transport") if text is not None else {}
    if kind is not None:
        found["type"] = kind
    if port is not None:
        found.setdefault("type", DEFAULT_TYPE)
        endpoint = found.setdefault("endpoint", {"type": "tcp"})
        endpoint["port"] = int(port) if port.isdecimal() else port
    return found or None


def read_object(text: str, option: str) -> dict[str, Any]:
    """A JSON object given as itself, as a JSON or YAML file, or on stdin (`-`).

    Raises:
        CliError: it can't be read, or is no object.
    """
    try:
        found = _parse(text)
    except OSError as error:
        raise usage(f"{option} {text}: {error.strerror}") from None
    except ValueError as error:
        raise usage(f"{option}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise usage(f"{option} wants an object: '{{\"type\": …}}', a file, or - for stdin")
    return found


def _parse(text: str) -> Any:
    if text.lstrip().startswith(
        ("{", "[", '"')
    ):  # JSON that is no object is reported as such, not as a missing file
        return json.loads(text)
    if text == "-":
        return json.loads(sys.stdin.read())
    content = Path(text).read_text(encoding="utf-8")
    if not text.endswith((".yaml", ".yml")):
        return json.loads(content)
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def pairs(items: Sequence[str] | None, option: str) -> dict[str, str] | None:
    """`key=value` options as a mapping; None when there is none.

    Raises:
        CliError: an item has no `=`.
    """
    if not items:
        return None
    found = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark or not key:
            raise usage(f"{option} {item}: write key=value")
        found[key] = value
    return found
