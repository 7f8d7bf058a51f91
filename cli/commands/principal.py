"""busbar principal: users and their roles."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .. import common_options as n
from .. import output
from ..connect import run
from ..services import accounts

app = n.noun("Users and their roles. The broker proves who somebody is; the manager decides what he may do.")

COLUMNS: list[output.Column] = [("name", "name"), ("role", "role"), ("oid", "oid")]
Name = Annotated[str, typer.Argument(help="User name at the broker.")]
Role = Annotated[Literal["owner", "operator", "viewer"], typer.Argument(help="owner, operator or viewer.")]


@n.verb(app, "list", "list_principals")
def list_() -> None:
    found = run(lambda s: s.call("list_principals"))
    output.show_list(sorted(found, key=lambda row: row["name"]), COLUMNS, "no principals")


@n.verb(app, "add", "add_principal")
def add(name: Name, role: Role) -> None:
    state = accounts.local_state()
    accounts.refuse_other(state, name, accounts.PERSON)
    made = run(lambda s: s.call("add_principal", principal={"name": name, "role": role}))
    if state is None:
        output.done(made, f"principal '{name}' is {made['role']}")
        return accounts.explain_external(name, "add")
    secret = str(accounts.add(state, name, accounts.PERSON))
    text = f"principal '{name}' is {made['role']}; the password lies in {secret}"
    return output.done({**made, "password_file": secret}, text)


@n.verb(app, "role", "set_principal_role")
def role(name: Name, role: Role) -> None:
    changed = run(lambda s: s.call("set_principal_role", principal_name=name, role=role))
    output.done(changed, f"principal '{name}' is {changed['role']}")


@n.verb(app, "remove", "remove_principal")
def remove(name: Name) -> None:
    gone = run(lambda s: s.call("remove_principal", principal_name=name))
    output.done(gone, f"principal '{name}' removed")
    state = accounts.local_state()
    if state is None:
        accounts.explain_external(name, "remove")
    else:
        accounts.remove(state, name, accounts.PERSON)
