"""busbar backup, busbar restore, busbar manager take-over: back up and restore the manager's store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..arguments import common_options as n
from ..context import state_path
from ..errors import CliError, ExitCode
from ..printing import output

app = n.command_group("Copy the manager's store into one file, even while it runs.")
restore_app = n.command_group("Replace the manager's store with a backup.")

State = Annotated[Path | None, typer.Option("--state", help="Folder of the manager's SQLite file.")]
Epoch = Annotated[
    int | None,
    typer.Option(
        "--epoch", min=0, max=2**52, help="Continue above this epoch; default: the clock, in seconds."
    ),
]


@app.command(help="Copy the manager's store into one verified file of mode 0600, even while it runs.")
def backup(
    file: Annotated[Path, typer.Argument(help="The copy.")],
    state: State = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a file of this name.")] = False,
) -> None:
    from busbar.manager.leader.state_folder import backup as copy
    from busbar.manager.store import StoreRefusedError

    target = file.expanduser().absolute()
    if target.exists() and not replace:
        raise CliError(f"{target} exists: use --replace", ExitCode.CONFLICT, "already_exists")
    try:
        copy(_folder(state), target, _now())
    except StoreRefusedError as error:
        raise CliError(str(error)) from None
    output.done({"file": str(target), "bytes": target.stat().st_size}, f"{target} is a verified copy")


@restore_app.command(help="Replace the manager's store with a backup; the manager must be stopped.")
def restore(
    file: Annotated[Path, typer.Argument(help="A file that 'busbar backup' made.")],
    state: State = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also do 'busbar manager take-over'.")
    ] = False,
    epoch: Epoch = None,
) -> None:
    from busbar.manager.leader.state_folder import restore as put
    from busbar.manager.store import StoreRefusedError

    folder = _folder(state)
    try:
        aside = put(folder, file.expanduser().absolute(), _now())
    except StoreRefusedError as error:
        raise CliError(str(error)) from None
    kept = f"; the previous store is kept as {aside}" if aside else ""
    text = f"restored into {folder}{kept}"
    if take_over:
        next_epoch = _take_over(folder, epoch)
        text += f"; the manager publishes with epoch {next_epoch} from its next start"
    else:
        text += "; it publishes nothing before 'busbar manager take-over'"
    output.done({"state": str(folder), "kept": str(aside) if aside else None, "speaks": take_over}, text)


def take_over(state: State = None, epoch: Epoch = None) -> None:
    """Let a store that was restored from a backup publish from the manager's next start on."""
    folder = _folder(state)
    next_epoch = _take_over(folder, epoch)
    output.done(
        {"state": str(folder), "epoch": next_epoch},
        f"{folder} takes over with epoch {next_epoch}: agents follow it, an original that still runs exits",
    )


def _take_over(folder: Path, epoch: int | None) -> int:
    """The default epoch is the clock in seconds, which exceeds any count of starts."""
    from busbar.bus.clock import SystemClock
    from busbar.manager.leader.state_folder import take_over as tell
    from busbar.manager.store import StoreRefusedError

    now = SystemClock().time_ns() // 1_000_000_000
    try:
        told = f"restored from a backup, told to take over on {_now()}"
        return tell(folder, now if epoch is None else epoch, now, told)
    except StoreRefusedError as error:
        raise CliError(str(error)) from None


def _folder(state: Path | None) -> Path:
    return (state or state_path(os.environ) / "manager").expanduser().absolute()


def _now() -> str:
    from busbar.bus.clock import SystemClock, rfc3339

    return rfc3339(SystemClock().time_ns())
