"""Asks a program for its version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Final

from busbar.bus.printable import printable

from .run_as import environment, identity
from .users import RunAs

ASK_S: Final = 10.0
"""Seconds that a program has to answer."""
_READ: Final = 4096
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+[0-9A-Za-z.+~_-]{0,40}")
_LONGEST: Final = 64


async def ask_version(argv: tuple[str, ...], user: RunAs | None, timeout_s: float = ASK_S) -> str | None:
    """The first version number in what it prints, else the first line; None when it says nothing in time.

    Whatever of its session is left then is killed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd="/",
            env=dict(environment(Path("/"))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            **identity(user),
        )
    except (OSError, ValueError):
        return None
    said = b""
    try:
        assert process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while len(said) < _READ and (chunk := await process.stdout.read(_READ)):
                said += chunk
    except TimeoutError:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await process.wait()
    return version_in(said.decode(errors="replace"))


def version_in(text: str) -> str | None:
    """The version in a program's output."""
    found = _VERSION.search(text)
    if found is not None:
        return found[0]
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return printable(line)[:_LONGEST] or None
