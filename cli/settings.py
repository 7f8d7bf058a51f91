"""Settings of the services: never a person's stored credentials for a manager or an agent."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from .context import (
    DEFAULT_REALM,
    DEFAULT_ROOT,
    Settings,
    environment,
    global_options,
    local,
    merge,
    read_up,
    state_path,
    stored_context,
)
from .errors import CliError, ExitCode

SECRETS = "secrets"


def service_settings(username: str, joined: Settings | None = None) -> Settings:
    """The settings of a service whose user is `username` unless options or environment name another.

    Its password is that of options or environment, else the file `secrets/{username}` of the state folder.
    `joined`: what a node has joined with, which then stands in the place of contexts and of `busbar up`.
    """
    env, state = os.environ, state_path(os.environ)
    if joined is not None:
        found = merge(global_options(), environment(env), joined, Settings())
        return replace(found, username=found.username or username)
    context = stored_context(global_options(), env)
    # A certificate is a credential too: with a person's, the service would be that person.
    nobody = {"username": None, "password_file": None, "tls_cert": None, "tls_key": None}
    stored = replace(context, **nobody) if context is not None else None
    found = merge(global_options(), environment(env), stored, replace(local(read_up(state)), **nobody))
    found = replace(found, realm=found.realm or DEFAULT_REALM, root=found.root or DEFAULT_ROOT)
    found = replace(found, username=found.username or username)
    if found.broker is None:
        raise CliError("no broker configured: use --broker URL", ExitCode.USAGE, "usage")
    if found.password is None and found.password_file is None:
        found = replace(found, password_file=secret_of(state, str(found.username)))
    return found


def secret_of(state: Path, username: str) -> str | None:
    """The file with a user's secret in the state folder, where there is one."""
    path = state / SECRETS / username
    return str(path) if path.is_file() else None
