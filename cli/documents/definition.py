"""Options that describe a cluster or a group, as the parameters of the contract."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import UNSET, UnsetType

from ..errors import usage

T = TypeVar("T")


def or_unset(value: T | None) -> T | UnsetType:
    """An option's value; UNSET when it was not given."""
    return UNSET if value is None else value


_PORT: Final = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?")
_YAML_INT: Final = re.compile(r"-?(0|[1-9][0-9]*)")
DEFAULT_TYPE: Final = "mqtt"
"""Default type when only a port is given: every node has the runtime `amqtt`."""


def transport(text: str | None, kind: str | None, port: str | None) -> dict[str, Any] | None:
    """The transport of --transport, with --type and --port set in it; None when none was given.

    Raises:
        CliError: it can't be read.
    """
    found = transport_patch(text, kind, port)
    if found and port is not None:
        found.setdefault("type", DEFAULT_TYPE)
    return found


def transport_patch(text: str | None, kind: str | None, port: str | None) -> dict[str, Any] | None:
    """As `transport`, with nothing but what was given: a merge patch onto a present transport."""
    found = read_object(text, "--transport") if text is not None else {}
    if kind is not None:
        found["type"] = kind
    if port is not None and found.get("listeners"):
        raise usage("--port is that of a single endpoint: write it into the listener")
    if port is not None:
        endpoint = found.setdefault("endpoint", {"type": "tcp"})
        if not isinstance(endpoint, dict):
            raise usage("--transport: its endpoint is no object")
        endpoint["port"] = read_port(port)
    return found or None


def read_port(text: str) -> int | str:
    """A port, or a range of ports such as `8080-8090`, in plain decimal digits.

    Raises:
        CliError: it is neither.
    """
    if not _PORT.fullmatch(text):
        raise usage(f"--port {text}: give a port, or a range such as 8080-8090")
    return text if "-" in text else int(text)


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
        raise usage(f"{option} expects an object: '{{\"type\": …}}', a file, or - for stdin")
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
    return _parse_yaml(content)


def _parse_yaml(content: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.load(content, yaml_loader())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def yaml_loader() -> Any:
    """YAML in which `+1`, `010`, `1_0` and `1:30`, numbers to YAML and ambiguous to people, are refused, and
    members that stand twice."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is not typed
        def construct_yaml_int(self, node: Any) -> Any:
            if not _YAML_INT.fullmatch(node.value):
                line = node.start_mark.line + 1
                raise ValueError(f"line {line}: {node.value!r} is no plain number (text needs quotes)")
            return super().construct_yaml_int(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: {str(key.value)!r} stands here for the second time")
                seen.add(str(key.value))
            return super().construct_mapping(node, deep=deep)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return Loader


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


def label_changes(items: Sequence[str]) -> dict[str, str | None]:
    """`key=value` and `key-` arguments as changes: the value, or None for a label that is taken away.

    Raises:
        CliError: an item is neither, or a label stands twice.
    """
    found: dict[str, str | None] = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark and item.endswith("-"):
            key = item[:-1]
        elif not mark:
            key = ""
        if not key:
            raise usage(f"{item}: write key=value to set a label, key- to take it away")
        if key in found:
            raise usage(f"label '{key}' stands twice")
        found[key] = value if mark else None
    return found
