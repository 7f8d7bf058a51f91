"""What a path of type `reverseproxy` may forward to: the servers that the node's operator lists. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from .base import RuntimeConfigError

Targets = frozenset[tuple[str, int]]
"""Host in lower case, and port."""
_TARGET: Final = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")


def targets(given: Iterable[str]) -> Targets:
    """The servers of a list such as `127.0.0.1:9000`, `app.internal:80`.

    Raises:
        ValueError: with the entry that is none.
    """
    found = set()
    for each in given:
        matched = _TARGET.fullmatch(each)
        if matched is None or not 1 <= int(matched[2]) <= 65535:
            # Crossbar.io writes an IPv6 address into the Host header without its brackets.
            raise ValueError(f"'{each[:100]}' is no name or IPv4 address with a port, such as 127.0.0.1:9000")
        found.add((matched[1].lower(), int(matched[2])))
    return frozenset(found)


def check_target(host: str, port: int, allowed: Targets, pointer: str) -> None:
    """Refuse a server that this node's operator has not listed, exactly as it is written there.

    Raises:
        RuntimeConfigError: with the pointer to the service's `host`.
    """
    if not allowed:
        detail = "this node's configuration has no 'proxy_to', the servers that a proxy may forward to"
        raise RuntimeConfigError(f"{pointer}/host", detail)
    if (host.lower(), port) not in allowed:
        detail = f"{host}:{port} is none of the servers in this node's 'proxy_to'"
        raise RuntimeConfigError(f"{pointer}/host", detail)
