"""The version of this installation."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Final

DISTRIBUTION: Final = "busbar-mqtt"
"""What the package index calls us; `busbar` is the import package and belongs to somebody else there."""


@cache
def version() -> str:
    """The installed version; `unknown` where the code runs without having been installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
