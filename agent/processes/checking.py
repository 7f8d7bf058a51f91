"""Runs a router's own checker on files that are not in use yet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from busbar.bus.printable import printable

from .run_as import environment, identity
from .users import RunAs

CHECK_S: Final = 60.0
"""Seconds; crossbar's takes up to 10 on a slow host."""
_READ: Final = 64 * 1024
_MAX_LINE: Final = 500


class CheckerError(Exception):
    """The checker itself could not do its work, which says nothing about the files."""


async def check(
    argv: tuple[str, ...],
    folder: Path,
    env: Mapping[str, str],
    user: RunAs | None,
    timeout_s: float = CHECK_S,
    *,
    refuses_with: int | None = None,
) -> str | None:
    """Run it in `folder`, as `user`; None when it exits with 0, else its last line or why there is none.

    Whatever of its session is left then is killed. Takes at most `timeout_s` seconds. With `refuses_with`
    that exit code alone is a refusal.

    Raises:
        CheckerError: it can't be run, or ended with another exit code.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env={**environment(folder), **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            **identity(user),
        )
    except (OSError, ValueError) as error:
        raise CheckerError(f"can't run {argv[0]}: {error}") from error
    try:
        async with asyncio.timeout(timeout_s):
            last = await _last_line(process)
            code = await process.wait()
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if code != 0 and refuses_with not in (None, code):
        raise CheckerError(last or f"exit code {code}")
    return None if code == 0 else last or f"exit code {code}"


async def _last_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    tail = b""
    while chunk := await process.stdout.read(_READ):
        tail = (tail + chunk)[-_READ:]
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
    return printable(next((line for line in reversed(lines) if line), ""))[:_MAX_LINE]
