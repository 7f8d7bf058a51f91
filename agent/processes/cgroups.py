"""A cgroup (version 2) of its own for each worker, where this agent may make them.

No process leaves it by forking, by a new session or by overwriting its environment, and one write kills all
in it. The agent may stay in the parent, unless memory is to be limited: the kernel forbids processes beside
child cgroups where controllers are. In a subgroup of its unit (`DelegateSubgroup=`) it makes them beside its
own. Where there is no such place, all functions find nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote, unquote

from . import proc_files

log = logging.getLogger("busbar.agent")

PROC: Final = Path("/proc")
SYSTEMD: Final = Path("/run/systemd/system")
"""There where systemd manages the cgroups of this machine or container."""
_NAME: Final = re.compile(r"busbar-([0-9a-f]{8})-([^/\s]+)")
_UNIT: Final = re.compile(r"[^/]+\.(?:service|scope|slice|mount|socket|swap)")
_DELEGATED: Final = ("user.delegate", "trusted.delegate")
"""The system's manager sets one on the cgroup of a unit with `Delegate=`, the first since version 251, for
all to read. A user's manager sets none (tried: 252)."""
ASK_S: Final = 5.0
"""Bound of a question to a user's manager, in seconds."""


def name_of(scope: str, token: str) -> str:
    """The cgroup of the worker process with this token, of the node `scope`."""
    return f"busbar-{_hash(scope)}-{quote(token, safe=':')}"


def _hash(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:8]


def find_parent(own: str, mountinfo: str, systemd: bool, delegated: Callable[[Path], bool]) -> Path:
    """Where workers' cgroups may be made: in the agent's own or that of its unit, if it is delegated to it.

    `own` and `mountinfo` are /proc/self/cgroup and /proc/self/mountinfo. Under systemd the innermost unit has
    to be delegated (`delegated` says whether its cgroup is): in others systemd alone may make cgroups.

    Raises:
        ValueError: nowhere, and why.
    """
    path = _unified(own)
    if path is None:
        raise ValueError("the kernel has no cgroup v2")
    mounted = _mounted(mountinfo, path)
    if mounted is None:
        raise ValueError("no cgroup2 file system that shows the agent's own cgroup is mounted")
    mount, inside = mounted
    if systemd:
        parts = inside.parts
        units = [end for end, part in enumerate(parts, 1) if _UNIT.fullmatch(part)]
        if not units or not delegated(mount.joinpath(*parts[: units[-1]])):
            unit = parts[units[-1] - 1] if units else "no unit"
            raise ValueError(f"its cgroup ({unit}) is not delegated to it (in a unit: Delegate=yes)")
        return mount.joinpath(*parts[: units[-1]])
    return mount / inside


def _unified(text: str) -> str | None:
    """The path of a process in cgroup v2, by its /proc/PID/cgroup."""
    found = (line[3:] for line in text.splitlines() if line.startswith("0::"))
    return next(found, None)


def _mounted(mountinfo: str, path: str) -> tuple[Path, PurePosixPath] | None:
    """A mount point of cgroup v2 that shows a path, and the path below it (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, point = (re.sub(r"\\(\d{3})", _octal, field) for field in mount.split()[3:5])
            with contextlib.suppress(ValueError):
                return Path(point), PurePosixPath(path).relative_to(root)
    return None


def _octal(found: re.Match[str]) -> str:
    return chr(int(found[1], 8))


def is_delegated(folder: Path) -> bool:
    """Whether systemd has delegated this unit's cgroup. What can't be found out counts as no."""
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) in (b"1", b"yes", b"true"):
                return True
    of_user = any(part.startswith("user@") for part in folder.parts[:-1])
    return of_user and _user_s_manager_delegates(folder.name)


def _user_s_manager_delegates(unit: str) -> bool:
    command = ["systemctl", "--user", "show", "--property=Delegate", "--value", "--", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "yes"


@cache
def parent() -> Path | None:
    """Where this agent makes its workers' cgroups: in its own. None where it may not, which the log says."""
    try:
        own, mountinfo = _read(PROC / "self/cgroup"), _read(PROC / "self/mountinfo")
        found = find_parent(own, mountinfo, SYSTEMD.is_dir(), is_delegated)
        if not os.access(found, os.W_OK | os.X_OK) or not os.access(found / "cgroup.procs", os.W_OK):
            raise ValueError(f"{found} may not be written")
    except ValueError as error:
        log.info("workers get no cgroup of their own: %s", error)
        return None
    log.info("workers get cgroups of their own in %s", found)
    return found


@cache
def limits_memory() -> bool:
    """Whether workers' cgroups can have a limit of memory.

    The controller is enabled for them where no process is in the way: not where the agent is in that cgroup.
    """
    above = parent()
    if above is None:
        return False
    controllers = above / "cgroup.subtree_control"
    if "memory" not in _read(controllers).split():
        with contextlib.suppress(OSError):
            controllers.write_text("+memory")
    found = "memory" in _read(controllers).split()
    log.info("memory of workers is limited %s", "by their cgroups" if found else "per process")
    return found


@contextlib.contextmanager
def entry(scope: str, token: str, memory: int | None = None) -> Iterator[Callable[[], None] | None]:
    """Make a worker's cgroup; the value, called in its forked process before exec, moves it there.

    None where no cgroup can be made. It is removed again if the block fails. `memory`: bytes that all its
    processes may use together; when more is needed, all are killed.

    Raises:
        OSError: that limit can't be set.
    """
    above = parent()
    if above is None:
        if memory is not None:
            raise OSError(errno.ENOTSUP, "no cgroup to limit its memory")
        yield None
        return
    folder = above / name_of(scope, token)
    try:
        folder.mkdir()
        if memory is not None:
            (folder / "memory.max").write_text(str(memory))
            (folder / "memory.oom.group").write_text("1")
        fd = _open_for_child(folder / "cgroup.procs")
    except OSError as error:
        log.warning("no cgroup for a worker: %s: %s", folder, error.strerror)
        remove(folder)
        if memory is not None:
            raise
        yield None
        return

    def enter() -> None:
        # Between fork and exec: takes no lock, and a worker outside its cgroup is found as elsewhere.
        with contextlib.suppress(OSError):
            os.write(fd, b"0")

    try:
        yield enter
    except BaseException:
        remove(folder)
        raise
    finally:
        os.close(fd)


def _open_for_child(path: Path) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    if fd < 3:  # the agent has none of its own; the child's standard files take its place
        os.close(fd)
        raise OSError(errno.EBADF, "the agent has no standard files")
    return fd


def tokens_of(pid: int) -> list[str]:
    """Tokens of the workers' cgroups that a process is in, the outermost first.

    Raises:
        OSError: unknown, such as when the agent has no file descriptor left.
    """
    return [token for _, token in _named(_path_of(pid))]


def token_in_scope(pid: int, scope: str) -> str | None:
    """The token of the cgroup of a worker of this node that a process is in. Raises as `tokens_of`."""
    return next((token for hashed, token in _named(_path_of(pid)) if hashed == _hash(scope)), None)


def _named(path: str) -> list[tuple[str, str]]:
    names = (_NAME.match(part) for part in path.split("/") if part.startswith("busbar-"))
    return [(found[1], unquote(found[2])) for found in names if found]


def _path_of(pid: int) -> str:
    try:
        return _unified(proc_files.read_text(pid, "cgroup")) or ""
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def by_token() -> dict[str, Path]:
    """The cgroups of workers in this agent's own."""
    above, found = parent(), dict[str, Path]()
    if above is not None:
        with contextlib.suppress(OSError):
            found = {token: above / name for name in os.listdir(above) for _, token in _named(name)}
    return found


def folders(token: str, pids: Iterable[int] = ()) -> set[Path]:
    """The cgroup of a worker: in this agent's own, or, made by another, where its `pids` are."""
    own = by_token().get(token)
    found = {own} if own is not None else set[Path]()
    for pid in pids if not found else ():
        parts = PurePosixPath(_path_of(pid)).parts
        ends = [end for end, part in enumerate(parts, 1) if [t for _, t in _named(part)] == [token]]
        mounted = (
            _mounted(_read(PROC / "self/mountinfo"), str(PurePosixPath(*parts[: ends[0]]))) if ends else None
        )
        if mounted is not None:
            found.add(mounted[0] / mounted[1])
    return found


def holds(token: str, pid: int) -> bool:
    """Whether a process is in the cgroup of this token in this agent's own, where nobody else can put it."""
    own = by_token().get(token)
    return own is not None and pid in pids_in(own)


def pids_in(folder: Path) -> set[int]:
    """Exactly the living processes of a cgroup and of those in it; none once it is gone."""
    found = set[int]()
    for inner, _, _ in os.walk(folder):
        found.update(int(pid) for pid in _read(Path(inner) / "cgroup.procs").split())
    return found - {0}  # what another pid namespace hides


def kill(folder: Path) -> None:
    """Kill all processes in it at once, also those that fork meanwhile (Linux 5.14; else it does nothing)."""
    with contextlib.suppress(OSError):
        fd = os.open(folder / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)


def cpu_s(folder: Path) -> float | None:
    """CPU seconds of all processes that were ever in it; None when it is gone."""
    lines = (line.split() for line in _read(folder / "cpu.stat").splitlines())
    return next((int(line[1]) / 1e6 for line in lines if line[0] == "usage_usec"), None)


def remove(folder: Path) -> None:
    """Remove a cgroup and those in it, if no process is left."""
    for inner, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(inner)


def remove_empty(scope: str, keep: str | None) -> None:
    """Remove empty ones of a node's workers, such as a crashed agent has left; not that of `keep`."""
    above = parent()
    if above is None:
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(above):
            if any(hashed == _hash(scope) and token != keep for hashed, token in _named(name)):
                remove(above / name)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
