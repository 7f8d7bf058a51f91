"""What `busbar agent join` does on a new node: credentials and settings into the agent's state folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
from busbar.bus.files import is_locked, write_atomically

from ..errors import CliError, ExitCode
from .join import can_connect, redeem, store_password
from .join_file import CA, JOINED, SECRET, Joined, JoinFile, read_joined


def join_node(file: JoinFile, folder: Path, host: str | None, labels: dict[str, str]) -> list[Path]:
    """Store what a join file gives, once the broker has accepted it; returns the files and folders made.

    Raises:
        CliError: the folder is another node's or in use, or the broker refuses or can't be reached.
        OSError: the folder can't be written.
    """
    before = read_joined(folder)
    if before is not None and before.node != file.node:
        raise CliError(
            f"{folder} has joined as node '{before.node}': use another --state, or 'busbar agent reset'",
            ExitCode.CONFLICT,
            "already_exists",
        )
    if is_locked(folder / "lock"):
        raise CliError(f"an agent runs with {folder}: stop it first", ExitCode.CONFLICT, "already_exists")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    joined = Joined(
        node=file.node,
        broker=file.broker,
        realm=file.realm,
        root=file.root,
        has_ca=file.ca is not None,
        host=host or (before.host if before else None),
        labels=labels or (before.labels if before else {}),
    )
    if file.ca is not None:
        write_atomically(folder / CA, file.ca)
    settings = joined.settings(folder)
    if file.password is not None:
        store_password(settings, file.password)
    elif not ((folder / SECRET).exists() and can_connect(settings)):  # else the token was spent before
        redeem(settings, lambda: str(file.token))
    write_atomically(folder / JOINED, msgspec.json.encode(joined))
    return [folder, *(path for name in (CA, SECRET, JOINED) if (path := folder / name).exists())]
