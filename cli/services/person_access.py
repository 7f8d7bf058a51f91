"""A person's account beside its role: made, given a new password, and removed, wherever accounts are.

The manager is asked first, and what is interrupted between the two is completed by the same command.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final

from busbar.bus.access.acl import PERSON
from busbar.bus.addresses import netloc
from busbar.bus.broker.accounts import new_secret
from busbar.bus.errors import BusError
from busbar.bus.options import parse_urls
from busbar.bus.params import Principal
from busbar.bus.system.files import write_atomically

from ..context import global_options, settings_in_force, state_path
from ..errors import CliError, ExitCode, exit_code, sentence, usage
from ..printing import output
from . import accounts
from .account_backend import AccountBackend, explain_partial_failure, is_own
from .up_plan import private_folder

PASSWORDS: Final = "passwords"
"""The folder, in the state folder, of passwords at outside brokers; `busbar up` has its own in `secrets`."""


def check_add(backend: AccountBackend, name: str) -> bool:
    """Before anything is changed: whether there is an account of ours.

    Raises:
        CliError, BusError: the account can't be made.
    """
    try:
        had = backend.has(PERSON, name)
    except BusError as error:
        if error.code != "already_exists":
            raise
        hint = f"busbar acl --broker dynsec --person {name} --dynsec-context CONTEXT"
        text = f"{sentence(error)}; if it is that person's, give it the role (its password stays): '{hint}'"
        raise CliError(text, exit_code(error), error.code) from None
    if had and backend.passwords is not None:
        raise CliError(
            f"{backend.passwords} has a user '{name}', maybe another's: leave --passwords out to keep it,"
            f" or remove it first: mosquitto_passwd -D {backend.passwords} {name}",
            ExitCode.CONFLICT,
            "already_exists",
        )
    _prepare(backend, name)
    return had


def check_password(backend: AccountBackend, name: str) -> None:
    """Before anything is changed. Raises CliError, BusError unless the account can get a password."""
    if not backend.is_known:
        raise CliError("this broker keeps its own accounts: use --dynsec or --passwords for mosquitto's")
    _refuse_own(backend, name)
    backend.has(PERSON, name)
    _prepare(backend, name)


def check_remove(backend: AccountBackend, name: str) -> bool:
    """Before anything is changed: whether there is an account of ours.

    Raises:
        CliError, BusError: the account can't be removed.
    """
    _refuse_own(backend, name)
    # The account of another kind stays, as the embedded broker has it.
    return backend.dynsec and backend.has(PERSON, name)


def _refuse_own(backend: AccountBackend, name: str) -> None:
    """Raises CliError where the plugin would close the connection on which it is asked."""
    if is_own(backend, name):
        raise usage(
            f"'{name}' is the user that this would be done as, and whom the broker disconnects for it:"
            " name another by --dynsec-context"
        )


def add(backend: AccountBackend, made: Principal) -> None:
    """Make the account of a principal that there is now, and print what became of it, and what is left.

    Raises:
        CliError: it can't be made; says how to go on.
    """
    text, again = f"principal '{made.name}' is {made.role}", f"busbar principal add {made.name} {made.role}"
    if not backend.is_known:
        output.done(made, text)
        return accounts.explain_external(made.name, "add", PERSON)
    with explain_partial_failure(text, "its account is not made", again + backend.words):
        if backend.state is None:
            file = _give(backend, made.name)
        else:
            file = accounts.add(backend.state, made.name, PERSON)
    return _tell(backend, made, text, file)


def renew(backend: AccountBackend, found: Principal) -> None:
    """Give a principal's account a new password, and print its file.

    Raises:
        CliError: it can't be given.
    """
    left = f"the account of '{found.name}' may still have the earlier one"
    again = f"busbar principal password {found.name}{backend.words}"
    with explain_partial_failure(f"{_file(backend, found.name)} has a new password", left, again):
        file = _give(backend, found.name)
    _tell(backend, found, f"principal '{found.name}' has a new password", file)


def remove(backend: AccountBackend, name: str) -> None:
    """Remove the account of a principal that was removed; explains how where we can't.

    Raises:
        CliError: it can't be removed; says how to go on.
    """
    again = f"busbar principal remove {name}{backend.words}"
    with explain_partial_failure(f"principal '{name}' is removed", "its account is not", again):
        backend.remove(PERSON, name)
        if backend.dynsec:
            _file(backend, name).unlink(missing_ok=True)


def _give(backend: AccountBackend, name: str) -> Path:
    """A new password, in its file before the account has it: none is lost. Raises CliError, BusError."""
    secret, file = new_secret(), _file(backend, name)
    if backend.state is None:
        try:
            write_atomically(file, secret + "\n")
        except OSError as error:
            raise CliError(f"password file {file}: {error.strerror or error}") from None
    backend.put(PERSON, name, secret)
    return file


def _prepare(backend: AccountBackend, name: str) -> None:
    """Raises CliError unless the file of the password can be written."""
    if backend.is_known and backend.state is None:
        private_folder(_file(backend, name).parent)
        if backend.passwords is not None and not os.access(backend.passwords.resolve().parent, os.W_OK):
            raise usage(f"folder {backend.passwords.resolve().parent} can't be written")


def _file(backend: AccountBackend, name: str) -> Path:
    """The file of a person's password."""
    if backend.state is not None:
        return accounts.secret_file(backend.state, name)
    settings = settings_in_force(global_options(), os.environ)
    first = parse_urls(str(settings.broker)).brokers[0]
    realm = f"{settings.realm}@{netloc(first.host, first.port)}"
    return state_path(os.environ).absolute() / PASSWORDS / realm / name


def _tell(backend: AccountBackend, shown: Principal, text: str, file: Path) -> None:
    output.done(output.merged(shown, password_file=str(file)), f"{text}; the password is in {file}")
    if backend.state is not None:
        return
    if backend.passwords is not None:
        accounts.explain_rights("add")
    settings = settings_in_force(global_options(), os.environ)
    authority = " --tls-ca CA_FILE" if settings.tls_ca else ""
    output.note(
        f"hand that file over; on the machine of '{shown.name}': busbar context add {settings.realm}"
        f" --broker {shlex.quote(str(settings.broker))} --realm {settings.realm} --username {shown.name}"
        f" --password-file FILE{authority}"
    )
