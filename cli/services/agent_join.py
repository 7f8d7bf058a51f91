"""What joining does on a new node: credentials and settings into the agent's state folder."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from busbar.bus.system.files import is_locked, write_atomically

from ..context import Settings
from ..errors import CliError, ExitCode, usage
from .join import can_connect, redeem, store_password
from .join_file import CA, JOINED, SECRET, Joined, JoinFile, read_joined

_OWNER = "owner.json"
"""The agent's file of whom its folder was made for."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a state folder has after a join: its files and folders that were made, and whether any is new."""

    made: list[Path]
    changed: bool


def join_node(file: JoinFile, folder: Path, host: str | None, labels: dict[str, str]) -> Access:
    """Store what a join file or a token gives, once the broker has accepted it.

    A folder that has joined with the same, and is let in, stays as it is: its agent may run.

    Raises:
        CliError: the folder is another node's, in use, or can't be written; the broker refuses or can't be
            reached.
    """
    before = check_folder(folder, file)
    joined = Joined(
        node=file.node,
        broker=file.broker,
        realm=file.realm,
        root=file.root,
        has_ca=file.ca is not None,
        host=host or (before.host if before else None),
        labels=labels or (before.labels if before else {}),
    )
    same = joined == before and _text_of(folder / CA) == file.ca
    settings = joined.settings(folder)
    if same and (folder / SECRET).exists() and can_connect(settings):
        return Access(_files(folder), changed=False)
    if not same and is_locked(folder / "lock"):  # what it has read already
        raise CliError(f"an agent runs with {folder}: stop it first", ExitCode.CONFLICT, "already_exists")
    try:
        _store(file, folder, joined, settings)
    except OSError as error:
        raise usage(f"folder {folder} can't be written: {error.strerror or error}") from None
    return Access(_files(folder), changed=True)


def check_folder(folder: Path, file: JoinFile) -> Joined | None:
    """What the folder has joined with before; None for a new one.

    Raises:
        CliError: it is another node's, or can't be read or written.
    """
    # Unlike Path.exists, it takes what may not be looked at for missing.
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        what = "is no folder" if not there.is_dir() else "can't be written by this user"
        raise usage(f"{there} {what}: use another --state, or sudo")
    before = read_joined(folder)
    node, realm = (before.node, before.realm) if before is not None else _owner(folder)
    if (node, realm) not in ((None, None), (file.node, file.realm)):
        raise CliError(
            f"{folder} has joined as node '{node}' of realm '{realm}', not '{file.node}' of '{file.realm}':"
            " use another --state, or 'busbar agent reset'",
            ExitCode.CONFLICT,
            "already_exists",
        )
    return before


def _owner(folder: Path) -> tuple[str | None, str | None]:
    """Node and realm of an agent that has used the folder without joining."""
    with contextlib.suppress(OSError, ValueError):
        found = msgspec.json.decode((folder / _OWNER).read_bytes(), type=dict[str, str])
        return found.get("node"), found.get("realm")
    return None, None


def _store(file: JoinFile, folder: Path, joined: Joined, settings: Settings) -> None:
    """Raises CliError as `join_node`, and OSError. A refused join leaves nothing behind."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = _text_of(folder / CA)
    try:
        if file.ca is not None:
            write_atomically(folder / CA, file.ca)
        if file.password is not None:
            store_password(settings, file.password)
        elif not ((folder / SECRET).exists() and can_connect(settings)):  # else the token was spent before
            redeem(settings, lambda: str(file.token), file.until)
    except CliError as error:
        if kept is not None:
            write_atomically(folder / CA, kept)
        else:
            (folder / CA).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # one that holds something stays
            for path in made:
                path.rmdir()
        raise _explained(error, file) from None
    write_atomically(folder / JOINED, msgspec.json.encode(joined))


def _explained(error: CliError, file: JoinFile) -> CliError:
    """The error, with what a certificate that is not trusted means here."""
    if "certificate" not in str(error).lower():
        return error
    whose = "the one that the token names" if file.ca is not None else "one that this machine trusts"
    text = f"{error}; its certificate has to be for that name, and from an authority: {whose}"
    return CliError(text, ExitCode.UNREACHABLE, "unreachable")


def _files(folder: Path) -> list[Path]:
    return [folder, *(path for name in (CA, SECRET, JOINED) if (path := folder / name).exists())]


def _text_of(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="ascii")
    return None
