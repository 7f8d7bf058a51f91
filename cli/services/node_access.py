"""What the manager's side does for a new node: its account, and the line or file with which it joins."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec
from busbar.bus.access.acl import NODE
from busbar.bus.addresses import is_loopback
from busbar.bus.clock import SystemClock
from busbar.bus.options import parse_urls

from ..context import global_options, settings_in_force
from ..printing import numbers, output
from . import accounts, join_file
from .account_backend import AccountBackend, explain_partial_failure
from .join_file import JoinFile
from .join_token import to_word


def grant(backend: AccountBackend, node: str, valid_s: float) -> JoinFile:
    """What a node is to join with: a token where the broker redeems those, else a new password.

    Raises:
        CliError: a file can't be read or written.
    """
    settings = settings_in_force(global_options(), os.environ)
    if backend.state is None or not accounts.takes_tokens(backend.state):
        return join_file.new_join_file(settings, node, token=None)
    until = SystemClock().time_ns() / 1e9 + valid_s
    token = accounts.token(backend.state, node, valid_s)
    return join_file.new_join_file(settings, node, token=token, until=until)


def _put_account(backend: AccountBackend, made: JoinFile) -> None:
    """Give the node's account the password that it is to join with, where it has one.

    Raises:
        CliError: the account can't be made.
    """
    if made.password is not None:
        again = f"busbar node token {made.node}{backend.words}"
        with explain_partial_failure(
            f"node '{made.node}' is paired", "its account has no new password", again
        ):
            backend.put(NODE, made.node, made.password)


def write_file(backend: AccountBackend, path: Path, node: str, valid_s: float) -> None:
    """Write a node's join file, and make its account.

    Raises:
        CliError: a file can't be written, or the account not made.
    """
    made = grant(backend, node, valid_s)
    join_file.write_join_file(
        path, msgspec.structs.replace(made, until=None)
    )  # which earlier versions do not know
    _put_account(backend, made)
    if not backend.is_known:
        accounts.explain_external(node, "add", NODE)
        output.note(f"its password is the member 'password' of {path}")
    join_file.tell_join_file(path)


def print_line(backend: AccountBackend, shown: object, node: str, valid_s: float) -> None:
    """Make a node's account or token, and print the line that joins it, with the secret in it.

    Raises:
        CliError: the account can't be made.
    """
    made = grant(backend, node, valid_s)
    word = shlex.quote(to_word(made))
    _put_account(backend, made)
    if output.output_format() != "table":
        kept = {"token": made.token, "token_valid_s": valid_s}
        if made.token is None:
            kept = (
                {}
                if backend.state is None
                else {"password_file": str(accounts.secret_file(backend.state, node))}
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
