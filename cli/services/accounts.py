"""Adds and removes accounts of a local broker together with the manager's nodes and principals.

Only for the broker of a `busbar up` on this machine, embedded or a program; the accounts of an external one
are managed there, and `explain_external` prints how.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from busbar.bus.access.acl import PERSON

from ..context import HomelessError, Settings, global_options, read_up, settings_in_force, state_path
from ..errors import CliError, ExitCode
from ..printing import output
from ..settings import SECRETS
from .specs import PROGRAMS


def local_state() -> Path | None:
    """The state folder of the `busbar up` whose own broker is in use; None for another broker."""
    try:
        state = state_path(os.environ).absolute()
    except HomelessError:
        return None
    up = read_up(state)
    own = bool(up.get("embedded") or up.get("program"))
    own = own and settings_in_force(global_options(), os.environ).broker == up.get("broker")
    return state if own and os.access(state / "broker", os.W_OK) else None


def takes_tokens(state: Path) -> bool:
    """Whether the broker redeems join tokens: only the embedded one does."""
    return bool(read_up(state).get("embedded"))


def program_of(state: Path) -> str:
    """The name of the broker program of a `busbar up`."""
    named = read_up(state).get("program")
    return next((PROGRAMS[each] for each in PROGRAMS if each == named), "this broker")


def accounts_file(state: Path) -> Path:
    """The embedded broker's accounts file."""
    return state / "broker" / "accounts.json"


def secret_file(state: Path, name: str) -> Path:
    """The file of an account's secret."""
    return state / SECRETS / name


def kind_of(state: Path, name: str) -> str | None:
    """The kind of an account; None when there is none.

    Raises:
        CliError: the file can't be read.
    """
    from busbar.bus.broker.accounts import Accounts

    try:
        account = Accounts.load(accounts_file(state)).table.get(name)
    except (OSError, ValueError) as error:
        raise CliError(str(error)) from None
    return account.kind if account is not None else None


def refuse_other(state: Path | None, name: str, kind: str) -> None:
    """Raises CliError if the name is an account of another kind, which would lose its rights."""
    found = kind_of(state, name) if state is not None else None
    if found not in (None, kind):
        raise CliError(
            f"'{name}' is the account of a {found} at the broker", ExitCode.CONFLICT, "already_exists"
        )


def add(state: Path, name: str, kind: str) -> Path:
    """Create an account with a secret of its own; returns the secret's file."""
    from . import up_plan

    if kind_of(state, name) is None:
        # A previous holder of the name may still know a secret that was left behind.
        (state / SECRETS / name).unlink(missing_ok=True)
    up_plan.ensure_broker_account(state, name, kind, up_plan.ensure_secret(state, name))
    return state / SECRETS / name


def put(state: Path, name: str, kind: str, secret: str) -> None:
    """Give an account this secret, whether or not it has one.

    Raises:
        CliError: a file can't be written.
    """
    from busbar.bus.broker.accounts import ensure_account
    from busbar.bus.system.files import write_atomically

    try:
        write_atomically(state / SECRETS / name, secret + "\n")
        ensure_account(accounts_file(state), name, kind, secret)
    except (OSError, ValueError) as error:
        raise CliError(str(error)) from None


def remove(state: Path, name: str, kind: str) -> bool:
    """Remove an account of this kind, its secret and its token; it is disconnected within 2 seconds.

    The broker, which follows the manager, may have removed it already.
    """
    from busbar.bus.broker.join_tokens import revoke
    from busbar.bus.clock import SystemClock

    revoke(accounts_file(state), name, kind, SystemClock().time_ns() / 1e9)
    if kind_of(state, name) is not None:
        return False
    (state / SECRETS / name).unlink(missing_ok=True)
    return True


def token(state: Path, node: str, valid_s: float) -> str:
    """A single-use token with which a node gets credentials of its own.

    Raises:
        CliError: name or validity is invalid, or the name is an account of another kind.
    """
    from busbar.bus.broker.join_tokens import issue_token
    from busbar.bus.clock import SystemClock

    try:
        return issue_token(accounts_file(state), node, SystemClock().time_ns() / 1e9, valid_s)
    except (ValueError, OSError) as error:
        raise CliError(str(error), ExitCode.USAGE, "usage") from None


def explain_external(name: str, what: Literal["add", "remove"], kind: str) -> None:
    """Print what to do at an external broker."""
    from busbar.bus.access.nats_access import PASSWORDS, variable

    settings: Settings = settings_in_force(global_options(), os.environ)
    flag = "-D " if what == "remove" else ""
    output.note(
        f"the broker {settings.broker} keeps its own accounts: {what} user '{name}' there"
        f" (mosquitto: mosquitto_passwd {flag}PASSWORDFILE {name}, then reload it;"
        f" nats-server: {what} the line '{variable(name)}' in {PASSWORDS};"
        f" with client certificates the CN is '{name}'); see docs/howto/security.md"
    )
    if kind == PERSON:
        explain_rights(what)


def explain_rights(what: Literal["add", "remove"]) -> None:
    """Print how a broker that has rights in a file gets those of a person that was added, or loses them."""
    realm = settings_in_force(global_options(), os.environ).realm
    output.note(
        f"then {what} its rights, where the broker has them in a file: print that anew, and have the broker"
        f" read it: busbar --realm {realm} acl --broker mosquitto --manager MANAGER"
        " $(busbar principal list -o name | sed 's/^/--person /')"
        "; with --broker nats also $(busbar node list -q | sed 's/^/--node /')"
    )
