"""busbar principal: users and their roles."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from busbar.bus.client.client import BusClient
from busbar.bus.clock import rfc3339
from busbar.bus.errors import BusError
from busbar.bus.params import Principal, RemovedPrincipal, Transferred
from busbar.bus.roles import Role, in_words

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster, complete_node, complete_principal
from ..calls.connect import run
from ..errors import CliError, ExitCode
from ..printing import output

if TYPE_CHECKING:
    from ..services.account_backend import AccountBackend

app = n.command_group("Users and their roles. The broker authenticates; the manager authorises by role.")

COLUMNS: list[output.Column[Principal]] = [
    ("name", lambda row: row.name),
    ("role", lambda row: row.role),
    ("oid", lambda row: row.oid),
]
WIDE: list[output.Column[Principal]] = [("changed", lambda row: rfc3339(row.changed))]
Name = Annotated[str, typer.Argument(help="User name at the broker.")]
RoleArgument = Annotated[Role, typer.Argument(help=f"{in_words()}.")]


@n.subcommand(app, "list", "list_principals")
def list_() -> None:
    found = run(lambda bus: bus.list_principals())
    output.show_list(sorted(found, key=lambda row: row.name), COLUMNS, "no principals", wide=WIDE)


@n.subcommand(
    app,
    "add",
    "add_principal",
    "list_principals",
    more="Its account is made too, where the broker is that of 'busbar up', or with --passwords or --dynsec.",
)
def add(
    name: Name,
    role: RoleArgument,
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="Give the name of a removed principal or an unpaired node again."),
    ] = False,
    passwords: n.Passwords = None,
    dynsec: n.Dynsec = False,
    dynsec_context: n.DynsecContext = None,
) -> None:
    from ..services import account_backend, person_access

    backend = account_backend.chosen(passwords, dynsec, dynsec_context)
    had = person_access.check_add(backend, name)
    made = run(lambda bus: _add(bus, name, role, reuse, backend, had))
    person_access.add(backend, made)


async def _add(
    bus: BusClient, name: str, role: Role, reuse: bool, backend: AccountBackend, had: bool
) -> Principal:
    """One that is there with this role and has no account was left so by an interruption: it gets one."""
    try:
        return await bus.add_principal(name=name, role=role, reuse=reuse)
    except BusError as error:
        if error.code != "already_exists" or not backend.is_known:
            raise
        found = await _known(bus, name)
        if found is not None and not had and found.role == role:
            return found
        if found is not None and had:
            output.note(f"it has an account; a new password: busbar principal password {name}{backend.words}")
        raise


@n.subcommand(
    app,
    "password",
    "list_principals",
    instead="Give a principal's account a new password, in the file that is printed; ends the earlier one.",
)
def password(
    name: n.PrincipalArgument,
    passwords: n.Passwords = None,
    dynsec: n.Dynsec = False,
    dynsec_context: n.DynsecContext = None,
) -> None:
    from ..services import account_backend, person_access

    backend = account_backend.chosen(passwords, dynsec, dynsec_context)
    found = run(lambda bus: _find(bus, name))
    person_access.check_password(backend, name)
    person_access.renew(backend, found)


async def _find(bus: BusClient, name: str) -> Principal:
    found = await _known(bus, name)
    if found is None:
        raise BusError("no_such_object", f"no principal named '{name}'")
    return found


async def _known(bus: BusClient, name: str) -> Principal | None:
    return next((row for row in await bus.list_principals() if row.name == name), None)


@n.subcommand(app, "role", "set_principal_role")
def role(name: n.PrincipalArgument, role: RoleArgument) -> None:
    changed = run(lambda bus: bus.set_principal_role(principal_name=name, role=role))
    output.done(changed, f"principal '{name}' is {changed.role}")


@n.subcommand(
    app,
    "remove",
    "remove_principal",
    more="Its account is removed too, where the broker is that of 'busbar up', or with --dynsec.",
)
def remove(
    name: n.PrincipalArgument, dynsec: n.Dynsec = False, dynsec_context: n.DynsecContext = None
) -> None:
    from ..services import account_backend, person_access

    backend = account_backend.chosen(None, dynsec, dynsec_context)
    has = person_access.check_remove(backend, name)
    gone = run(lambda bus: _remove(bus, name, completes=backend.dynsec and has))
    person_access.remove(backend, name)
    output.done(gone or {"name": name}, f"principal '{name}' removed")
    if gone is not None and (gone.clusters or gone.nodes):
        output.note(
            f"it still owns {_counted(gone)}; to hand them over: busbar principal transfer TO --from {name}"
        )


async def _remove(bus: BusClient, name: str, completes: bool) -> RemovedPrincipal | None:
    """`completes`: one that is gone has left its account, as after an interruption."""
    try:
        return await bus.remove_principal(principal_name=name)
    except BusError as error:
        if error.code == "no_such_object" and completes:
            return None
        raise


@n.subcommand(app, "transfer", "transfer_principal")
def transfer(
    to: Annotated[str, typer.Argument(help="The new owner.", autocompletion=complete_principal)],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Everything of this principal, present or removed.",
            autocompletion=complete_principal,
        ),
    ] = None,
    oid: Annotated[str | None, typer.Option("--from-oid", help="The same by its oid.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="This cluster alone.", autocompletion=complete_cluster)
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", help="This node alone.", autocompletion=complete_node)
    ] = None,
) -> None:
    if sum(given is not None for given in (source, oid, cluster, node)) != 1:
        raise CliError("say what to hand over: one of --from, --from-oid, --cluster, --node", ExitCode.USAGE)
    given = run(partial(_transfer, to=to, source=source, oid=oid, cluster=cluster, node=node))
    output.done(given, f"'{to}' is the owner of {_counted(given)}")


async def _transfer(
    bus: BusClient, to: str, source: str | None, oid: str | None, cluster: str | None, node: str | None
) -> Transferred:
    found_cluster = await bus.get_routercluster_by_name(routercluster_name=cluster) if cluster else None
    found_node = await bus.get_node_by_name(node_name=node) if node else None
    return await bus.transfer_principal(
        principal_name=to,
        from_name=source,
        from_oid=oid,
        routercluster_oid=found_cluster.oid if found_cluster else None,
        node_oid=found_node.oid if found_node else None,
    )


def _counted(row: Transferred | RemovedPrincipal) -> str:
    return f"{row.clusters} router clusters and {row.nodes} nodes"
