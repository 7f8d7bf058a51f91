"""busbar node: the machines that run workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from busbar.bus.access.acl import NODE
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.params import Node, NodeStatusName

from ..arguments import common_options as n
from ..arguments.completion import complete_label
from ..arguments.selectors import by_labels
from ..calls import wait
from ..calls.connect import run
from ..documents import definition as d
from ..errors import CliError, ExitCode
from ..guards import last_node
from ..printing import numbers, output
from ..services import accounts

if TYPE_CHECKING:
    from ..services.account_backend import AccountBackend

app = n.command_group("Nodes: the machines that run workers.")

COLUMNS: list[output.Column[Node]] = [
    ("name", lambda row: row.name),
    ("status", lambda row: row.status),
    ("workers", lambda row: row.workers),
    ("runtimes", lambda row: ", ".join(_with_version(row, name) for name in row.runtimes)),
    ("heard", lambda row: _ago(row.heard_ms_ago)),
    ("labels", lambda row: _labels(row)),
    ("conditions", lambda row: "; ".join(row.conditions)),
]
WIDE: list[output.Column[Node]] = [
    ("agent", lambda row: (row.capacity or {}).get("version")),
    ("cpus", lambda row: (row.capacity or {}).get("cpus")),
    ("memory", lambda row: numbers.size((row.capacity or {}).get("memory"))),
    ("at most", lambda row: (row.capacity or {}).get("max_workers")),
    ("cordoned", lambda row: row.cordoned),
    ("draining", lambda row: row.draining and f"{row.draining}{' (drained)' if row.drained else ''}"),
    ("behind", lambda row: _behind(row)),
    ("version", lambda row: row.version),
    ("oid", lambda row: row.oid),
]
Name = Annotated[str, typer.Argument(help="Its name; the agent's user name at the broker.")]


Valid = Annotated[
    float, typer.Option("--valid", min=1.0, max=86_400.0, help="Seconds that the token is valid.")
]
Keep = Annotated[
    bool,
    typer.Option("--keep-account", help="Let an absent agent connect once more, to stop its workers."),
]
JoinFile = Annotated[
    Path | None,
    typer.Option("--join-file", help="Write all that the node needs to this file, for 'busbar agent join'."),
]
VALID_S: Final = 900.0
"""Seconds."""
HEAR_S: Final = 1.0
"""Seconds that an unpaired node has to confirm before its account is removed."""


def _labels(row: Node) -> str:
    return ", ".join(f"{key}={value}" for key, value in (row.labels or {}).items())


def _with_version(row: Node, runtime: str) -> str:
    detail = (row.runtime_details or {}).get(runtime)
    return f"{runtime} {detail.version}" if detail is not None and detail.version else runtime


def _behind(row: Node) -> int | str:
    """How many versions of its assignment the node has not applied yet."""
    return max(0, row.assignment_version - (row.applied or {}).get("version", 0)) or ""


def _ago(ms: int | None) -> str:
    return "never" if ms is None else f"{numbers.duration(ms)} ago"


@n.subcommand(app, "list", "list_nodes", "get_node")
def list_(
    status: Annotated[
        NodeStatusName | None, typer.Option("--status", help="Only nodes in this status.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            "-l",
            help="Only with this label: key=value, or key; may be repeated, for all.",
            autocompletion=complete_label,
        ),
    ] = None,
    quiet: n.Quiet = False,
) -> None:
    matches = by_labels(label)
    if quiet and not label:
        return output.show_names(run(lambda bus: bus.list_nodes(return_names=True, filter_by_status=status)))
    found = [row for row in run(lambda bus: all_nodes(bus, status)) if matches(row.labels)]
    found.sort(key=lambda row: row.name)
    if quiet:
        return output.show_names([row.name for row in found])
    return output.show_list(found, COLUMNS, "no nodes", wide=WIDE)


async def all_nodes(bus: BusClient, status: NodeStatusName | None = None) -> list[Node]:
    """The nodes of the realm, or those in one state."""
    oids = await bus.list_nodes(filter_by_status=status)
    return await bus.fetch_nodes(oids)


@n.subcommand(app, "show", "get_node_by_name", "get_node")
def show(node: n.NodeArgument) -> None:
    found = run(lambda bus: bus.find_node(node))
    if output.output_format() != "table":
        return output.show_object(found)
    shown = output.merged(found, runtimes=[_with_version(found, name) for name in found.runtimes])
    del shown["runtime_details"]
    return output.show_object(shown)


@n.subcommand(app, "pair", "pair_node", more="Print the line that joins it: 'busbar join TOKEN@BROKER'.")
def pair(
    node: Name,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="key=value; may be repeated.", autocompletion=complete_label),
    ] = None,
    valid: Valid = VALID_S,
    join_file: JoinFile = None,
    passwords: n.Passwords = None,
    dynsec: n.Dynsec = False,
    dynsec_context: n.DynsecContext = None,
) -> None:
    from ..services import account_backend, node_access
    from ..services.join_file import check_writable

    backend = account_backend.chosen(passwords, dynsec, dynsec_context)
    check_writable(join_file, passwords)
    backend.has(NODE, node)
    labels = d.pairs(label, "--label")
    made = run(lambda bus: bus.pair_node(name=node, labels=labels))
    if join_file is not None:
        output.done(output.merged(made, join_file=str(join_file)), f"node '{node}' paired, {made.status}")
        return node_access.write_file(backend, join_file, node, valid)
    if not backend.is_known or output.output_format() == "table":
        output.done(made, f"node '{node}' paired, {made.status}")
    if not backend.is_known:
        accounts.explain_external(node, "add", NODE)
        return output.note(
            f"with mosquitto 'busbar node token {node}' does it, with --dynsec or --passwords, and prints the"
            " line that joins the node"
        )
    return node_access.print_line(backend, made, node, valid)


@n.subcommand(
    app,
    "token",
    "get_node_by_name",
    instead="Print a new line that joins a node, or write a new join file; revokes earlier ones.",
)
def token(
    node: n.NodeArgument,
    valid: Valid = VALID_S,
    join_file: JoinFile = None,
    passwords: n.Passwords = None,
    dynsec: n.Dynsec = False,
    dynsec_context: n.DynsecContext = None,
) -> None:
    from ..services import account_backend, node_access
    from ..services.join_file import check_writable

    backend = account_backend.chosen(passwords, dynsec, dynsec_context)
    if not backend.is_known and join_file is None:
        raise CliError(
            "this broker keeps its own accounts: use --dynsec or --passwords for mosquitto's, or --join-file"
        )
    check_writable(join_file, passwords)
    found = run(lambda bus: bus.find_node(node))
    if found.status == "unpaired":
        raise CliError(f"node '{found.name}' is not paired", ExitCode.NOT_FOUND, "no_such_object")
    if join_file is not None:
        output.done({"name": found.name, "join_file": str(join_file)}, str(join_file))
        return node_access.write_file(backend, join_file, found.name, valid)
    return node_access.print_line(backend, {"name": found.name}, found.name, valid)


@app.command("join", help="On a new node: redeem a join token for credentials, stored in a file.")
def join(
    node: Name,
    token: Annotated[str, typer.Option("--token", help="File with the token; -: standard input.")] = "-",
) -> None:
    from ..services.join import join as exchange
    from ..settings import service_settings

    joined = exchange(service_settings(node), node, token)
    output.done({"name": node, "password_file": joined.password_file}, str(joined.password_file))


@n.subcommand(app, "drain", "drain_node")
def drain(
    node: n.NodeArgument,
    reason: Annotated[str | None, typer.Option(help="Reason, shown with the node.")] = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    run(lambda bus: _drain(bus, node, reason, wait, timeout, expect_version), dry_run=dry_run)


async def _drain(
    bus: BusClient, node: str, reason: str | None, waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await bus.find_node(node)
    title, reached = f"node '{found.name}'", None
    async with bus.watch_statuses(kind="node", name=found.name) as watch:
        changed = await bus.drain_node(node_oid=found.oid, reason=reason, expect_version=expect_version)
        if waits:
            reached = await wait.until(watch, goals.drained(changed.version), title, timeout, oid=found.oid)
    drained = reached is not None or changed.drained
    output.done(output.merged(changed, reached), f"{title} is drained" if drained else f"{title} is draining")


@n.subcommand(app, "undrain", "undrain_node")
def undrain(node: n.NodeArgument, expect_version: n.Expect = None, dry_run: n.DryRun = False) -> None:
    async def work(bus: BusClient) -> Node:
        return await bus.undrain_node(node_oid=await bus.node_oid(node), expect_version=expect_version)

    changed = run(work, dry_run=dry_run)
    output.done(changed, f"node '{changed.name}' takes workers again")


@n.subcommand(app, "cordon", "cordon_node", more="Unlike a drain, it moves nothing.")
def cordon(
    node: n.NodeArgument,
    reason: Annotated[str | None, typer.Option(help="Reason, shown with the node.")] = None,
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    async def work(bus: BusClient) -> Node:
        oid = await bus.node_oid(node)
        return await bus.cordon_node(node_oid=oid, reason=reason, expect_version=expect_version)

    changed = run(work, dry_run=dry_run)
    stay = f"; {changed.workers} stay{'s' * (changed.workers == 1)}" if changed.workers else ""
    output.done(changed, f"node '{changed.name}' takes no new workers{stay}")


@n.subcommand(app, "uncordon", "uncordon_node")
def uncordon(node: n.NodeArgument, expect_version: n.Expect = None, dry_run: n.DryRun = False) -> None:
    async def work(bus: BusClient) -> Node:
        return await bus.uncordon_node(node_oid=await bus.node_oid(node), expect_version=expect_version)

    changed = run(work, dry_run=dry_run)
    drained = ", once it is no longer drained" if changed.draining is not None else ""
    output.done(changed, f"node '{changed.name}' takes workers again{drained}")


@n.subcommand(app, "label", "label_node")
def label(
    node: n.NodeArgument,
    labels: Annotated[
        list[str],
        typer.Argument(help="key=value sets a label, key- takes it away.", autocompletion=complete_label),
    ],
    expect_version: n.Expect = None,
    dry_run: n.DryRun = False,
) -> None:
    asked = d.label_changes(labels)

    async def work(bus: BusClient) -> Node:
        oid = await bus.node_oid(node)
        return await bus.label_node(node_oid=oid, labels=asked, expect_version=expect_version)

    changed = run(work, dry_run=dry_run)
    shown = _labels(changed)
    output.done(changed, f"node '{changed.name}' has {f'labels {shown}' if shown else 'no labels'}")


@n.subcommand(app, "unpair", "unpair_node", more="With the embedded broker, its account is removed too.")
def unpair(
    node: n.NodeArgument,
    expect_version: n.Expect = None,
    keep_account: Keep = False,
    dynsec: n.Dynsec = False,
    dynsec_context: n.DynsecContext = None,
    yes: last_node.Yes = False,
    dry_run: n.DryRun = False,
) -> None:
    from ..services import account_backend

    backend = account_backend.chosen(None, dynsec, dynsec_context)

    async def work(bus: BusClient, may: bool) -> tuple[Node, bool]:
        found = await bus.find_node(node)
        if backend.is_known and found.status == "unpaired":
            return found, True  # only its account is left to remove
        if not may:
            await last_node.check(bus, found.oid)
        gone = await bus.unpair_node(
            node_oid=found.oid, keep_account=keep_account, expect_version=expect_version
        )
        return gone, await _has_heard(bus, gone)

    gone, heard = last_node.run_asking(work, yes, dry_run=dry_run)
    output.done(gone, f"node '{gone.name}' unpaired")
    if not heard:
        output.note("its agent has not confirmed it yet: workers may run on there until it hears of it")
    if not keep_account or not backend.is_known:
        _remove_account(backend, gone.name, "unpaired", f"busbar node unpair {gone.name}{backend.words}")


async def _has_heard(bus: BusClient, gone: Node) -> bool:
    """Wait a moment for the node to apply its empty assignment, before the broker closes its account."""
    end = bus.clock.monotonic() + HEAR_S
    while gone.status == "unpaired" and gone.boot and bus.clock.monotonic() < end:
        if (gone.applied or {}).get("version", 0) >= gone.assignment_version:
            return True
        await bus.clock.sleep(0.05)
        gone = await bus.find_node(gone.oid)
    return not gone.boot


@n.subcommand(app, "forget", "forget_node", more="With the embedded broker, its account is removed too.")
def forget(
    node: n.NodeArgument,
    expect_version: n.Expect = None,
    dynsec: n.Dynsec = False,
    dynsec_context: n.DynsecContext = None,
    dry_run: n.DryRun = False,
) -> None:
    from ..services import account_backend

    backend = account_backend.chosen(None, dynsec, dynsec_context)

    async def work(bus: BusClient) -> Node:
        return await bus.forget_node(node_oid=await bus.node_oid(node), expect_version=expect_version)

    gone = run(work, dry_run=dry_run)
    output.done(gone, f"node '{gone.name}' forgotten")
    alone = "mosquitto_ctrl dynsec deleteClient" if backend.dynsec else "busbar broker remove-account"
    _remove_account(backend, gone.name, "forgotten", f"{alone} {gone.name}")


def _remove_account(backend: AccountBackend, node: str, done: str, again: str) -> None:
    """Raises CliError."""
    from ..services.account_backend import explain_partial_failure

    with explain_partial_failure(f"node '{node}' is {done}", "its account is not removed", again):
        backend.remove(NODE, node)
