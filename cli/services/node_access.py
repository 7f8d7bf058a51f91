"""What the manager's side does for a new node: its account, and the line or file with which it joins."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from busbar.bus.access.acl import NODE
from busbar.bus.addresses import is_loopback
from busbar.bus.client.client import CALL_S
from busbar.bus.client.connect import connect_with
from busbar.bus.client.dynamic_security import DynamicSecurity
from busbar.bus.clock import SystemClock
from busbar.bus.options import parse_urls
from busbar.bus.topics import Topics

from ..calls.connect import options_of
from ..context import Settings, config_path, global_options, load_config, settings_in_force
from ..errors import usage
from ..printing import numbers, output
from . import accounts, join_file
from .join_file import JoinFile
from .join_token import to_word

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Where:
    """Where accounts are: with the `busbar up` of the folder `state`, in mosquitto's password file
    `passwords`, with its dynamic security plugin (`dynsec`, as the user of the context `admin`), or
    elsewhere."""

    state: Path | None
    passwords: Path | None = None
    dynsec: bool = False
    admin: str | None = None

    def __post_init__(self) -> None:
        """Raises CliError for more than one of them."""
        if self.passwords is not None and self.dynsec:
            raise usage("--passwords or --dynsec: an account is in one place")
        if self.state is not None and (self.passwords is not None or self.dynsec):
            raise usage(
                "--passwords and --dynsec go with an outside broker: 'busbar up' has accounts of its own"
            )

    @property
    def is_known(self) -> bool:
        """Whether we can make accounts there."""
        return self.state is not None or self.passwords is not None or self.dynsec


def check(where: Where, node: str) -> None:
    """Before anything is changed. Raises CliError, BusError unless the account can be made."""
    if where.dynsec:
        realm = str(settings_in_force(global_options(), os.environ).realm)
        by_dynsec(where.admin, lambda at: at.check(NODE, node, realm))


def grant(where: Where, node: str, valid_s: float) -> JoinFile:
    """What a node is to join with: a token where the broker redeems those, else a new password.

    Raises:
        CliError: a file can't be read or written.
    """
    settings = settings_in_force(global_options(), os.environ)
    if where.state is None or not accounts.takes_tokens(where.state):
        return join_file.new_join_file(settings, node, token=None)
    until = SystemClock().time_ns() / 1e9 + valid_s
    token = accounts.token(where.state, node, valid_s)
    return join_file.new_join_file(settings, node, token=token, until=until)


def put_account(where: Where, made: JoinFile) -> None:
    """Give the node's account the password that it is to join with, where it has one.

    Raises:
        CliError, BusError: the account can't be made.
    """
    if made.password is None:
        return
    password = made.password
    if where.state is not None:
        accounts.put(where.state, made.node, NODE, password)
    elif where.passwords is not None:
        join_file.put_mosquitto_password(where.passwords, made.node, password)
        join_file.tell_reload()
    elif where.dynsec:
        by_dynsec(where.admin, lambda at: at.put(NODE, made.node, made.root, made.realm, password))


def remove_account(where: Where, node: str) -> None:
    """Remove a node's account from the plugin, which ends its connections.

    Raises:
        CliError, BusError: it can't be done.
    """
    realm = str(settings_in_force(global_options(), os.environ).realm)
    by_dynsec(where.admin, lambda at: at.remove(NODE, node, realm))


def by_dynsec(admin: str | None, work: Callable[[DynamicSecurity], Awaitable[T]]) -> T:
    """Work with the plugin of the broker in use, as the user in force, or as that of the context `admin`.

    Raises:
        CliError, BusError: it can't be done.
    """
    settings = settings_in_force(global_options(), os.environ)
    if admin is not None:
        known = load_config(config_path(os.environ)).contexts
        if admin not in known:
            raise usage(f"there is no context '{admin}'")
        settings = replace(known[admin], realm=settings.realm, root=settings.root)
    return asyncio.run(_with_dynsec(settings, work))


async def _with_dynsec(settings: Settings, work: Callable[[DynamicSecurity], Awaitable[T]]) -> T:
    # MQTT 5 says whether one may write there, which 3.1.1 does not.
    options = replace(options_of(settings), protocol=5)
    topics = Topics(str(settings.realm), str(settings.root))
    async with connect_with(options, topics, CALL_S) as bus:
        return await work(bus.dynamic_security())


def write_file(where: Where, path: Path, node: str, valid_s: float) -> None:
    """Write a node's join file, and make its account.

    Raises:
        CliError, BusError: a file can't be written, or the account not made.
    """
    made = grant(where, node, valid_s)
    join_file.write_join_file(
        path, msgspec.structs.replace(made, until=None)
    )  # which earlier versions do not know
    put_account(where, made)
    if not where.is_known:
        accounts.explain_external(node, "add")
        output.note(f"its password is the member 'password' of {path}")
    join_file.tell_join_file(path)


def print_line(where: Where, shown: object, node: str, valid_s: float) -> None:
    """Make a node's account or token, and print the line that joins it, with the secret in it.

    Raises:
        CliError, BusError: the account can't be made.
    """
    made = grant(where, node, valid_s)
    word = shlex.quote(to_word(made))
    put_account(where, made)
    if output.output_format() != "table":
        kept = {"token": made.token, "token_valid_s": valid_s}
        if made.token is None:
            kept = (
                {} if where.state is None else {"password_file": str(accounts.secret_file(where.state, node))}
            )
        return output.dump(output.merged(shown, join=word, **kept))
    if made.token is not None:
        output.say(f"on the new node, valid once, for {numbers.duration(valid_s * 1000)}:")
        output.say(f"busbar join {word}")
    else:
        # This one is good until the next: not for a list of processes, which shows arguments to everybody.
        output.say("on the new node; it holds the node's password, so keep the line to yourself:")
        output.say(f"echo {word} | busbar join -")
    _tell_loopback(made.broker)
    return None


def _tell_loopback(brokers: str) -> None:
    if any(is_loopback(each.host) for each in parse_urls(brokers).brokers):
        output.note(
            "that is this machine's own address: on another, put the one under which it reaches the broker"
            " after the @"
        )
