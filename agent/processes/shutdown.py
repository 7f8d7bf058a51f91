"""Whether the workers end with the agent: the machine shuts down, or its container or unit stops.

In all of these the agent sees nothing but a SIGTERM. What can't be found out counts as no.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

ASK_S: Final = 1.0
"""Bound of one question to systemd, in seconds."""
CONTAINER_INITS: Final = frozenset({"tini", "docker-init", "dumb-init", "catatonit", "podman-init", "busbar"})
"""Programs that run as PID 1 of a container with one service, and end with it."""
KEEPS: Final = frozenset({"process", "none"})
"""KillMode values with which systemd leaves a unit's other processes alone."""

Ask = Callable[..., Awaitable[str | None]]


async def ends_with_us() -> bool:
    """As told above, of this process."""
    return ends_with_container(os.getpid(), os.getppid(), _read("/proc/1/comm")) or await ends_with_unit(
        os.environ, _read("/proc/self/cgroup"), systemctl
    )


def ends_with_container(pid: int, parent: int, init: str) -> bool:
    """Whether this process, or its parent, is PID 1 of a container."""
    return pid == 1 or (parent == 1 and init.strip() in CONTAINER_INITS)


async def ends_with_unit(environ: Mapping[str, str], cgroup: str, ask: Ask) -> bool:
    """Whether systemd stops the machine, a user's manager with all that it started, or the whole unit: that
    of which this process, or its parent, is the main one."""
    if await ask("is-system-running") == "stopping":
        return True
    scope = ["--user"] if "/user@" in cgroup else []
    if scope and await ask(*scope, "is-system-running") == "stopping":
        return True
    unit = unit_of(cgroup) if "INVOCATION_ID" in environ else None
    if unit is None:
        return False
    mode = await ask(*scope, "show", "--property=KillMode", "--value", "--", unit)
    main = await ask(*scope, "show", "--property=MainPID", "--value", "--", unit)
    return bool(mode) and mode not in KEEPS and main in (str(os.getpid()), str(os.getppid()))


def unit_of(cgroup: str) -> str | None:
    """The service that a process belongs to, by its `/proc/PID/cgroup`."""
    names = [part for line in cgroup.splitlines() for part in line.split(":", 2)[-1].split("/")]
    units = [name for name in names if name.endswith(".service")]
    return units[-1] if units else None


async def systemctl(*arguments: str) -> str | None:
    """What `systemctl` prints; None where there is no systemd, or no answer in time."""
    if not _has_systemd():
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            "systemctl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(ASK_S):
            out, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return None
    return out.decode(errors="replace").strip()


def _has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
