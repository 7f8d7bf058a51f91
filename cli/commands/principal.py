"""busbar principal: users and their roles."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer
from busbar.bus.access.acl import PERSON
from busbar.bus.client.client import BusClient
from busbar.bus.clock import rfc3339
from busbar.bus.params import Principal, RemovedPrincipal, Transferred
from busbar.bus.roles import Role, in_words

from ..arguments import common_options as n
from ..arguments.completion import complete_cluster, complete_node, complete_principal
from ..calls.connect import run
from ..errors import CliError, ExitCode
from ..printing import output
from ..services import accounts

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


@n.subcommand(app, "add", "add_principal")
def add(
    name: Name,
    role: RoleArgument,
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="Give the name of a removed principal or an unpaired node again."),
    ] = False,
) -> None:
    state = accounts.local_state()
    accounts.refuse_other(state, name, PERSON)
    made = run(lambda bus: bus.add_principal(name=name, role=role, reuse=reuse))
    if state is None:
        output.done(made, f"principal '{name}' is {made.role}")
        return accounts.explain_external(name, "add")
    secret = str(accounts.add(state, name, PERSON))
    text = f"principal '{name}' is {made.role}; its password is in {secret}"
    return output.done(output.merged(made, password_file=secret), text)


@n.subcommand(app, "role", "set_principal_role")
def role(name: n.PrincipalArgument, role: RoleArgument) -> None:
    changed = run(lambda bus: bus.set_principal_role(principal_name=name, role=role))
    output.done(changed, f"principal '{name}' is {changed.role}")


@n.subcommand(app, "remove", "remove_principal")
def remove(name: n.PrincipalArgument) -> None:
    gone = run(lambda bus: bus.remove_principal(principal_name=name))
    output.done(gone, f"principal '{name}' removed")
    if gone.clusters or gone.nodes:
        output.note(
            f"it still owns {_counted(gone)}; to hand them over: busbar principal transfer TO --from {name}"
        )
    state = accounts.local_state()
    if state is None:
        accounts.explain_external(name, "remove")
    else:
        accounts.remove(state, name, PERSON)


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
