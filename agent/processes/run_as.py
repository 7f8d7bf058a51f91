"""Another user for the workers of a runtime, where the agent is root."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import procfs
from .users import RunAs


def run_as(name: str) -> RunAs:
    """Look a user up.

    Raises:
        ValueError: this process may not become that user; the text says why.
    """
    if os.geteuid() != 0:
        raise ValueError(f"only an agent that runs as root can start workers as {name!r}")
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"this host has no user {name!r}") from None
    if found.pw_uid == 0:
        raise ValueError(f"{name!r} is root, as the agent is: leave it out")
    procfs.expect_user(found.pw_uid)
    groups = tuple(sorted(set(os.getgrouplist(name, found.pw_gid))))
    return RunAs(name, found.pw_uid, found.pw_gid, groups)


def identity(user: RunAs | None) -> dict[str, Any]:
    """The arguments of `subprocess.Popen` that start a program as the user, or as the agent's own."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": user.groups}


def environment(folder: Path) -> dict[str, str]:
    """What every program that the agent starts gets of the environment; its home is `folder`."""
    return {
        "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
        "HOME": str(folder),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }


def hand_over(folder: Path, user: RunAs | None) -> None:
    """Make a worker's folder (0700) the user's, or the agent's own; nobody's processes may be using it.

    Only what belonged to the folder's former owner changes hands: not a file of others that it has linked to.

    Raises:
        OSError: such as no permission.
        ValueError: the user can't enter a folder above it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if user is not None:
        _check_reachable(folder, user)
    uid, gid = (user.uid, user.gid) if user is not None else (os.geteuid(), os.getegid())
    former = folder.lstat().st_uid
    if former == uid or os.geteuid() != 0:
        return
    for _, folders, files, descriptor in os.fwalk(folder):
        for name in (*folders, *files):
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid == former:
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(folder, uid, gid, follow_symlinks=False)


@contextmanager
def files_as(user: RunAs | None) -> Iterator[None]:
    """Files are opened, made and removed with the user's rights in the block, which may not await.

    A worker owns its folder, and a link that it leaves there must not lead root elsewhere. Only this thread
    is affected (setfsuid, not seteuid, which changes all).
    """
    if user is None:
        yield
        return
    import ctypes  # for this alone

    libc = ctypes.CDLL(None)
    libc.setfsgid(user.gid)
    libc.setfsuid(user.uid)
    try:
        if libc.setfsuid(-1) != user.uid:  # it reports no error but the id in force
            raise PermissionError(f"the agent may not write files as {user.name!r}")
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


def _check_reachable(folder: Path, user: RunAs) -> None:
    for parent in folder.absolute().parents:
        found = parent.stat()
        in_group = found.st_gid in (user.gid, *user.groups)
        shift = 6 if found.st_uid == user.uid else 3 if in_group else 0
        if not found.st_mode >> shift & 1:
            raise ValueError(f"user {user.name!r} can't enter {parent}, above the worker's folder: chmod o+x")
