"""The version of this installation."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Final

DISTRIBUTION: Final = "busbar-mqtt"
"""The distribution's name; the import package is `busbar`, a name that is taken on the package index."""


@cache
def version() -> str:
    """The installed version; `unknown` where the code runs without having been installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
