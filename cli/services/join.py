"""Exchanges a node's token for credentials of its own, which only the node knows."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from busbar.bus.files import rename, write_atomically

from ..connect import connected
from ..context import Settings, state_path
from ..errors import CliError, ExitCode, usage
from ..settings import SECRETS

MAX_TOKEN: Final = 256
"""Characters."""
TIMEOUT_S: Final = 10.0


def join(settings: Settings, node: str, source: str) -> Settings:
    """Exchange the token in the file `source` (`-`: standard input); returns the node's settings.

    The secret goes to the password file of the settings, else to `secrets/NODE` of the state folder.

    Raises:
        CliError: the token is invalid or spent, or the broker can't be reached.
    """
    path = Path(settings.password_file or state_path(os.environ) / SECRETS / node).expanduser().absolute()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    joined = replace(settings, username=node, password=None, password_file=str(path))
    redeem(joined, lambda: read_token(source))
    return joined


def redeem(joined: Settings, token: Callable[[], str]) -> None:
    """Exchange a token for a new secret, in the password file of the settings.

    Raises:
        CliError: the token is invalid or spent, or the broker can't be reached.
    """
    path = Path(str(joined.password_file))
    fresh = path.with_name(f".{path.name}.joining")
    # The secret of an interrupted exchange may be valid already, with the token spent.
    if not (fresh.exists() and can_connect(replace(joined, password_file=str(fresh)))):
        _exchange(joined, fresh, token())
    rename(fresh, path, durable=True)


def store_password(joined: Settings, password: str) -> None:
    """Write a node's password into the password file of the settings, once the broker accepts it.

    Raises:
        CliError: the broker refuses it, or can't be reached.
    """
    if not can_connect(replace(joined, password_file=None, password=password)):
        raise CliError(
            f"the broker {joined.broker} refused the password of node '{joined.username}': has it read its"
            " accounts again?",
            ExitCode.NOT_AUTHORIZED,
            "not_authorized",
        )
    write_atomically(Path(str(joined.password_file)), password + "\n")


def read_token(source: str) -> str:
    """The token from a file or standard input, never from an argument, which any user could read.

    Raises:
        CliError: there is no token.
    """
    try:
        if source != "-":
            text = Path(source).expanduser().read_text(encoding="utf-8")
        elif sys.stdin.isatty():
            from getpass import getpass

            text = getpass("token: ")
        else:
            text = sys.stdin.readline(MAX_TOKEN)
    except (OSError, ValueError) as error:
        raise usage(f"token file {source}: {error}") from None
    token = text.strip()
    if token.startswith("{"):
        raise usage(f"{source} is a join file: busbar agent join {source}")
    if not token or len(token) > MAX_TOKEN or ":" in token or not token.isprintable():
        raise usage("not a join token: 'busbar node pair' prints one")
    return token


def _exchange(joined: Settings, fresh: Path, token: str) -> None:
    from busbar.bus.broker.accounts import new_secret
    from busbar.bus.broker.join_tokens import join_password

    secret = new_secret()
    write_atomically(fresh, secret + "\n")  # first: once the token is spent, only this secret is valid
    if not can_connect(replace(joined, password_file=None, password=join_password(token, secret))):
        fresh.unlink()
        raise CliError(
            f"the broker {joined.broker} did not take the token of node '{joined.username}': it was used, has"
            " expired, is another node's, or the broker is not the embedded one, which alone redeems tokens"
            " ('busbar node token --join-file' and 'busbar agent join' are for every broker)",
            ExitCode.NOT_AUTHORIZED,
            "not_authorized",
        )


def can_connect(settings: Settings) -> bool:
    """Whether the broker accepts these credentials.

    Raises:
        CliError: it can't be reached.
    """

    async def connect() -> None:
        async with connected(settings, TIMEOUT_S):
            pass

    try:
        asyncio.run(connect())
    except CliError as error:
        if error.exit_code != ExitCode.NOT_AUTHORIZED:
            raise
        return False
    finally:
        logging.getLogger("busbar").propagate = True  # `connected` turns it off, for commands
    return True
