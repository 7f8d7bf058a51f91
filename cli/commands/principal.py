"""busbar principal: users and their roles."""

from __future__ import annotations

from typing import Annotated

import typer
from busbar.bus.acl import PERSON
from busbar.bus.params import Principal
from busbar.bus.roles import Role, in_words

from .. import common_options as n
from .. import output
from ..connect import run
from ..services import accounts

app = n.command_group("Users and their roles. The broker authenticates; the manager authorises by role.")

COLUMNS: list[output.Column[Principal]] = [
    ("name", lambda row: row.name),
    ("role", lambda row: row.role),
    ("oid", lambda row: row.oid),
]
Name = Annotated[str, typer.Argument(help="User name at the broker.")]
RoleArgument = Annotated[Role, typer.Argument(help=f"{in_words()}.")]


@n.subcommand(app, "list", "list_principals")
def list_() -> None:
    found = run(lambda bus: bus.list_principals())
    output.show_list(sorted(found, key=lambda row: row.name), COLUMNS, "no principals")


@n.subcommand(app, "add", "add_principal")
def add(name: Name, role: RoleArgument) -> None:
    state = accounts.local_state()
    accounts.refuse_other(state, name, PERSON)
    made = run(lambda bus: bus.add_principal(name=name, role=role))
    if state is None:
        output.done(made, f"principal '{name}' is {made.role}")
        return accounts.explain_external(name, "add")
    secret = str(accounts.add(state, name, PERSON))
    text = f"principal '{name}' is {made.role}; its password is in {secret}"
    return output.done(output.merged(made, password_file=secret), text)


@n.subcommand(app, "role", "set_principal_role")
def role(name: Name, role: RoleArgument) -> None:
    changed = run(lambda bus: bus.set_principal_role(principal_name=name, role=role))
    output.done(changed, f"principal '{name}' is {changed.role}")


@n.subcommand(app, "remove", "remove_principal")
def remove(name: Name) -> None:
    gone = run(lambda bus: bus.remove_principal(principal_name=name))
    output.done(gone, f"principal '{name}' removed")
    state = accounts.local_state()
    if state is None:
        accounts.explain_external(name, "remove")
    else:
        accounts.remove(state, name, PERSON)
