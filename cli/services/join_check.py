"""Whether the manager of a realm expects a node that has just joined."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from ..calls.connect import connected
from ..errors import CliError
from .join_file import JoinFile, read_joined

HEAR_S: Final = 3.0
"""Seconds for a retained message to come."""


def is_expected(file: JoinFile, folder: Path) -> bool:
    """Whether the broker holds an assignment for the node, as it does for one that is paired."""
    joined = read_joined(folder)

    async def look() -> bool:
        if joined is None:
            return False
        async with connected(joined.settings(folder), HEAR_S) as bus:
            return await bus.probe().has_assignment(file.node, HEAR_S)

    try:
        return asyncio.run(look())
    except CliError:
        return False
