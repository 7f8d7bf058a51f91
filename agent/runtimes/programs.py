"""Whether programs can run on this host; writes a launch spec's files."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from busbar.bus.system.files import write_atomically
from busbar.bus.system.programs import find_program
from busbar.bus.system.regular_files import read_regular

from ..processes.run_as import files_as, hand_over
from .base import LaunchSpec


def why_not_runnable(program: str, beside: str | None = None) -> str | None:
    """Why a program can't be run; None when it can."""
    if find_program(program, beside):
        return None
    if "/" in program and Path(program).exists():
        return f"not executable: {program}"
    return f"program not found: {program}"


def prepare(launch: LaunchSpec, folder: Path) -> None:
    """Create the worker's folder (mode 0700) and write its files (0600), each atomically, as its user.

    Raises:
        OSError: such as no space or no permission.
        ValueError: a path that leaves the folder, or a folder that the worker's user can't enter.
    """
    hand_over(folder, launch.run_as)
    with files_as(launch.run_as):
        _write(launch, folder)


def _write(launch: LaunchSpec, folder: Path) -> None:
    for name in launch.remove:
        _within(folder, name).unlink(missing_ok=True)
    _write_files({**launch.files, **launch.peer_files}, folder)
    for name, template in launch.secrets.items():
        path = _within(folder, name)
        if path.is_symlink() or not path.is_file():
            _write_files({name: template.format(secret=secrets.token_hex(24))}, folder)


def rewrite_peers(launch: LaunchSpec, folder: Path) -> None:
    """Write the files that name the peers of a running worker; raises as `prepare`."""
    with files_as(launch.run_as):
        _write_files(launch.peer_files, folder)


def _write_files(files: Mapping[str, str], folder: Path) -> None:
    for name, content in files.items():
        path = _within(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A full disk must not stop a restart with the same configuration.
        if not _holds(path, content):
            write_atomically(path, content, durable=False)  # rewritten at each start


def _holds(path: Path, content: str) -> bool:
    try:
        if path.is_symlink() or path.stat().st_mode & 0o777 != 0o600:
            return False
        wanted = content.encode("utf-8")
        return read_regular(path, len(wanted)) == wanted
    except OSError:
        return False


def _within(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"'{name}' is not inside the worker's folder")
    path = folder
    for part in parts[:-1]:
        path /= part
        if path.is_symlink():
            raise ValueError(f"'{name}' is behind a symbolic link in the worker's folder: remove it")
    return path / parts[-1]
