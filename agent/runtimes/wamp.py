"""Renders realms and roles to Crossbar.io's configuration. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from busbar.bus.wamp import ANONYMOUS

from .base import RuntimeConfigError, Transport
from .transport import ROOT

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
