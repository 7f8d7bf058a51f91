"""What keeps the accounts of a realm's users, nodes and persons alike, and what is done with them there."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from busbar.bus.client.client import CALL_S
from busbar.bus.client.connect import connect_with
from busbar.bus.client.dynamic_security import DynamicSecurity
from busbar.bus.client.errors import LoginRefusedError
from busbar.bus.topics import Topics

from ..calls.connect import options_of
from ..context import Settings, config_path, global_options, load_config, settings_in_force
from ..errors import EXPECTED, CliError, ExitCode, as_object, exit_code, sentence, usage
from . import accounts, join_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AccountBackend:
    """What keeps the accounts: the `busbar up` of the folder `state`, mosquitto's password file `passwords`,
    its dynamic security plugin (`dynsec`, as the user of the context `admin`), or something unknown."""

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

    @property
    def words(self) -> str:
        """The options that name it, for a command that is to be run, with a space before them."""
        if self.passwords is not None:
            return f" --passwords {shlex.quote(str(self.passwords))}"
        if self.admin is not None:
            return f" --dynsec-context {shlex.quote(self.admin)}"
        return " --dynsec" if self.dynsec else ""

    def has(self, kind: str, user: str) -> bool:
        """Whether this user has an account there; asked before anything is changed.

        Raises:
            CliError, BusError: we may not change accounts there, or the name is somebody else's.
        """
        if self.dynsec:
            realm = str(_settings().realm)
            return by_dynsec(self.admin, lambda at: at.has(kind, user, realm))
        if self.passwords is not None:
            return join_file.has_mosquitto_password(self.passwords, user)
        accounts.refuse_other(self.state, user, kind)
        return self.state is not None and accounts.kind_of(self.state, user) == kind

    def put(self, kind: str, user: str, password: str) -> None:
        """Make this user's account, or give it this password.

        Raises:
            CliError, BusError: it can't be done.
        """
        settings = _settings()
        root, realm = str(settings.root), str(settings.realm)
        if self.state is not None:
            accounts.put(self.state, user, kind, password)
        elif self.passwords is not None:
            join_file.put_mosquitto_password(self.passwords, user, password)
            join_file.tell_reload()
        elif self.dynsec:
            by_dynsec(self.admin, lambda at: at.put(kind, user, root, realm, password))

    def remove(self, kind: str, user: str) -> None:
        """Remove this user's account, which ends its connections; explains how where we can't.

        Raises:
            CliError, BusError: it can't be done.
        """
        if self.state is not None:
            accounts.remove(self.state, user, kind)
        elif self.dynsec:
            realm = str(_settings().realm)
            by_dynsec(self.admin, lambda at: at.remove(kind, user, realm))
        else:
            accounts.explain_external(user, "remove", kind)


def chosen(passwords: Path | None, dynsec: bool, admin: str | None) -> AccountBackend:
    """What these options name, else the `busbar up` in use. Raises CliError for two."""
    return AccountBackend(accounts.local_state(), passwords, dynsec or admin is not None, admin)


@contextmanager
def explain_partial_failure(done: str, left: str, again: str) -> Iterator[None]:
    """What fails or is interrupted in here says too what was done before, what is left, and how to do it.

    Raises:
        CliError: it has failed.
    """
    try:
        yield
    except (CliError, KeyboardInterrupt, *EXPECTED) as error:
        text = f"{sentence(error)}; {done}, but {left}: run '{again}'"
        raise CliError(text, exit_code(error), str(as_object(error)["code"])) from None


def by_dynsec(admin: str | None, work: Callable[[DynamicSecurity], Awaitable[T]]) -> T:
    """Work with the plugin of the broker in use, as the user in force, or as that of the context `admin`.

    Raises:
        CliError, BusError: it can't be done.
    """
    return asyncio.run(_with_dynsec(_settings_of(admin), work))


def is_own(backend: AccountBackend, user: str) -> bool:
    """Whether the plugin's accounts are changed as this very user."""
    return backend.dynsec and options_of(_settings_of(backend.admin)).username == user


def _settings() -> Settings:
    return settings_in_force(global_options(), os.environ)


def _settings_of(admin: str | None) -> Settings:
    settings = _settings()
    if admin is None:
        return settings
    known = load_config(config_path(os.environ)).contexts
    if admin not in known:
        raise usage(f"there is no context '{admin}'")
    return replace(known[admin], realm=settings.realm, root=settings.root)


async def _with_dynsec(settings: Settings, work: Callable[[DynamicSecurity], Awaitable[T]]) -> T:
    # MQTT 5 says whether one may write there, which 3.1.1 does not.
    options = replace(options_of(settings), protocol=5)
    topics = Topics(str(settings.realm), str(settings.root))
    try:
        async with connect_with(options, topics, CALL_S) as bus:
            return await work(bus.dynamic_security())
    except LoginRefusedError as error:
        raise CliError(str(error), ExitCode.NOT_AUTHORIZED, "not_authorized") from None
