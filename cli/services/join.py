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

from busbar.bus.clock import SystemClock
from busbar.bus.system.files import rename, write_atomically
from busbar.bus.system.regular_files import read_given

from ..calls.connect import connected
from ..context import Settings, state_path
from ..errors import CliError, ExitCode, usage
from ..printing import numbers
from ..settings import SECRETS
from .join_token import LONGEST, secret_of

MAX_TOKEN: Final = 256
"""Characters."""
_MAX_FILE: Final = 64 * 1024
"""Bytes; a join file, which is told from a token, may hold certificates."""
TIMEOUT_S: Final = 10.0
_USED: Final = "bad user name"
"""In the text of the CONNACK code that the embedded broker has for a used token."""


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


def redeem(joined: Settings, token: Callable[[], str], until: float | None = None) -> None:
    """Exchange a token for a new secret, in the password file of the settings.

    `until`: when the token expires, seconds since 1970, if that is known.

    Raises:
        CliError: the token is invalid or spent, or the broker can't be reached.
    """
    path = Path(str(joined.password_file))
    fresh = path.with_name(f".{path.name}.joining")
    # The secret of an interrupted exchange may be valid already, with the token spent.
    if not (fresh.exists() and can_connect(replace(joined, password_file=str(fresh)))):
        _exchange(joined, fresh, token(), until)
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
        text = read_line() if source == "-" else read_given(Path(source).expanduser(), _MAX_FILE).decode()
    except (OSError, ValueError) as error:
        raise usage(f"token file {source}: {error}") from None
    token = text.strip()
    if token.startswith("{"):
        raise usage(f"{source} is a join file: busbar agent join {source}")
    token = secret_of(token)
    if not token or len(token) > MAX_TOKEN or ":" in token or not token.isprintable():
        raise usage("not a join token: 'busbar node pair' prints one")
    return token


def read_line() -> str:
    """A token from standard input; a terminal does not show it. Raises OSError, ValueError."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("token: ")
    return sys.stdin.readline(LONGEST + 1)


def _exchange(joined: Settings, fresh: Path, token: str, until: float | None) -> None:
    from busbar.bus.broker.accounts import new_secret
    from busbar.bus.broker.join_tokens import join_password

    secret = new_secret()
    write_atomically(fresh, secret + "\n")  # first: once the token is spent, only this secret is valid
    refused = refusal(replace(joined, password_file=None, password=join_password(token, secret)))
    if refused is not None:
        fresh.unlink()
        raise CliError(
            f"the broker {joined.broker} did not take the token of node '{joined.username}':"
            f" {_why(str(joined.username), refused, until)}",
            ExitCode.NOT_AUTHORIZED,
            "not_authorized",
        )


def _why(node: str, refused: str, until: float | None) -> str:
    """Why a token was refused: the embedded broker tells that it was used, and the token when it expires."""
    again = f"'busbar node token {node}' prints a new one"
    if _USED in refused.lower():
        return f"it was used before; {again}"
    late = 0.0 if until is None else SystemClock().time_ns() / 1e9 - until
    if late > 0:
        return f"it expired {numbers.duration(late * 1000)} ago; {again}"
    if until is not None:
        return (
            "it is not known there: a newer one was made, the node was unpaired, or this is the broker of"
            f" another realm; {again}"
        )
    return (
        "it was used, has expired, is another node's, or the broker is not the embedded one, which alone"
        " redeems tokens ('busbar node token --join-file' and 'busbar agent join' are for every broker)"
    )


def can_connect(settings: Settings) -> bool:
    """Whether the broker accepts these credentials.

    Raises:
        CliError: it can't be reached.
    """
    return refusal(settings) is None


def refusal(settings: Settings) -> str | None:
    """What the broker says to these credentials where it refuses them; None where it accepts them.

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
        return str(error)
    finally:
        logging.getLogger("busbar").propagate = True  # `connected` turns it off, for commands
    return None
