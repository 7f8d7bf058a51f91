"""Renders realms, and who may join them, to Crossbar.io's configuration. Pure except what `read` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from busbar.bus.routers.wamp import ANONYMOUS, METHODS, Realms, check_realms
from msgspec import UNSET, Struct, field

from .base import RuntimeConfigError, Transport
from .principals import principals_of
from .transport import ROOT, path_below

Rendered = dict[str, object]
"""Part of the node's configuration, as JSON."""
_REALM: Final = re.compile(r"[A-Za-z][A-Za-z0-9_@.-]{2,254}")
_EVERYTHING: Final = {"call": True, "register": True, "publish": True, "subscribe": True}
_OPEN: Final[Mapping[str, object]] = {
    "name": ANONYMOUS,
    "permissions": [{"uri": "", "match": "prefix", "allow": _EVERYTHING}],
}


def realms_of(plain: Transport) -> list[Rendered]:
    """The realms of a checked transport; one that is only named lets anonymous clients do everything.

    Raises:
        RuntimeConfigError: Crossbar would not take that name.
    """
    return [
        _realm(each, f"{ROOT}/realms/{index}") for index, each in enumerate(plain.get("realms", ["realm1"]))
    ]


def _realm(given: Any, pointer: str) -> Rendered:
    name = given if isinstance(given, str) else given["name"]
    if not _REALM.fullmatch(name):
        detail = "a realm's name has 3 characters or more, a letter first"
        raise RuntimeConfigError(pointer if isinstance(given, str) else f"{pointer}/name", detail)
    if isinstance(given, str):
        return {"name": name, "roles": [dict(_OPEN)]}
    return {
        **given,
        "roles": [role if "authorizer" in role else {"permissions": [], **role} for role in given["roles"]],
    }


class Secrets(Struct, frozen=True):
    """The node's files of secrets: below `root`, read with `read`."""

    root: Path | None
    read: Callable[[Path], bytes]
    used: dict[str, Path] = field(default_factory=dict)
    """What was read, by the pointer."""

    def content(self, reference: str, pointer: str) -> bytes:
        """What is in the file that a definition names.

        Raises:
            RuntimeConfigError: it names none below `root`, or it can't be read.
        """
        return self.at(path_below(self.root, reference, pointer, "secrets_root"), pointer)

    def at(self, path: Path, pointer: str) -> bytes:
        """What is in a file of the node.

        Raises:
            RuntimeConfigError: it can't be read.
        """
        self.used[pointer] = path
        try:
            return self.read(path)
        except OSError as error:
            detail = f"this node can't read {path}: {error.strerror or error}"
            raise RuntimeConfigError(pointer, detail) from error


def auth_of(given: Mapping[str, Any], realms: Realms, secrets: Secrets, pointer: str) -> Rendered:
    """The `auth` of a path, with the principals that stand in files of the node.

    Raises:
        RuntimeConfigError: such a file can't be read, or is invalid.
    """
    rendered: Rendered = {}
    for method, config in given.items():
        if method == "cookie":
            rendered[method] = {}
        elif method == "anonymous":
            rendered[method] = {"type": "static", **config}
            if config.get("type", "static") == "static":
                rendered[method] = {"role": ANONYMOUS, "type": "static", **config}
        else:
            assert method in METHODS
            rendered[method] = _method(method, config, realms, secrets, f"{pointer}/{method}")
    return rendered


def _method(
    method: str, config: Mapping[str, Any], realms: Realms, secrets: Secrets, pointer: str
) -> Rendered:
    rendered = {name: value for name, value in config.items() if name != "principals_file"}
    if "principals_file" in config:
        at = f"{pointer}/principals_file"
        content = secrets.content(config["principals_file"], at)
        found = principals_of(content, method, at, realms, config.get("default-role"))
        rendered["users" if method == "wampcra" else "principals"] = found
    return rendered


def roles_by_realm(plain: Transport) -> Realms:
    """The roles of each realm of a checked transport."""
    return check_realms(plain.get("realms", UNSET), f"{ROOT}/realms")
