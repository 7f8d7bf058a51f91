"""busbar node: the machines that run workers."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from busbar.bus.topics import NO_CLUSTER

from .. import common_options as n
from .. import definition as d
from .. import output, wait
from ..connect import Session, run
from ..errors import CliError, ExitCode
from ..services import accounts

app = n.noun("Nodes: the machines that run workers.")

COLUMNS: list[output.Column] = [
    ("name", "name"),
    ("status", "status"),
    ("workers", "workers"),
    ("runtimes", lambda row: ", ".join(row.get("runtimes") or [])),
    ("heard", lambda row: _ago(row.get("heard_ms_ago"))),
    ("labels", lambda row: ", ".join(f"{k}={v}" for k, v in (row.get("labels") or {}).items())),
    ("conditions", lambda row: "; ".join(row.get("conditions") or [])),
]
Name = Annotated[str, typer.Argument(help="Its name; the agent's user name at the broker.")]


Valid = Annotated[
    float, typer.Option("--valid", min=1.0, max=86_400.0, help="Seconds that the token is valid.")
]
Keep = Annotated[
    bool,
    typer.Option("--keep-account", help="Let an absent agent connect once more, to stop its workers."),
]
VALID_S: Final = 900.0
"""Seconds."""
HEAR_S: Final = 1.0
"""Seconds that an unpaired node has to confirm before it is shut out."""


def _ago(ms: int | None) -> str:
    return "never" if ms is None else f"{output.duration(ms)} ago"


@n.verb(app, "list", "list_nodes", "get_node")
def list_(
    status: Annotated[str | None, typer.Option("--status", help="Only nodes in this status.")] = None,
    quiet: n.Quiet = False,
) -> None:
    async def work(s: Session) -> Any:
        found = await s.call("list_nodes", return_names=True if quiet else None, filter_by_status=status)
        return found if quiet else await s.every("get_node", "node_oid", found)

    found = run(work)
    if quiet:
        return output.show_names(found)
    return output.show_list(sorted(found, key=lambda row: row["name"]), COLUMNS, "no nodes")


@n.verb(app, "show", "get_node_by_name", "get_node")
def show(node: n.NodeArgument) -> None:
    output.show_object(run(lambda s: s.node(node)))


@n.verb(app, "pair", "pair_node", more="With the embedded broker, print a join token.")
def pair(
    node: Name,
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")] = None,
    valid: Valid = VALID_S,
) -> None:
    state = accounts.local_state()
    accounts.refuse_other(state, node, accounts.NODE)
    wanted = d.definition(name=node, labels=d.pairs(label, "--label"))
    made = run(lambda s: s.call("pair_node", node=wanted))
    if state is None or output.output_format() == "table":
        output.done(made, f"node '{node}' paired, {made['status']}")
    if state is None:
        return accounts.explain_external(node, "add")
    return accounts.print_token(state, made, node, valid)


@n.verb(
    app,
    "token",
    "get_node_by_name",
    instead="Print a new token with which a node can join; revokes an unused one.",
)
def token(node: n.NodeArgument, valid: Valid = VALID_S) -> None:
    state = accounts.local_state()
    if state is None:
        raise CliError("this broker is not a local 'busbar up': its operator gives out credentials")
    found = run(lambda s: s.node(node))
    if found["status"] == "unpaired":
        raise CliError(f"node '{found['name']}' is not paired", ExitCode.NOT_FOUND, "no_such_object")
    accounts.print_token(state, {"name": found["name"]}, found["name"], valid)


@app.command("join", help="On a new node: redeem a join token for credentials, stored in a file.")
def join(
    node: Name,
    token: Annotated[str, typer.Option("--token", help="File with the token; -: standard input.")] = "-",
) -> None:
    from ..services.join import join as exchange
    from ..settings import service_layer

    joined = exchange(service_layer(node), node, token)
    output.done({"name": node, "password_file": joined.password_file}, str(joined.password_file))


@n.verb(app, "drain", "drain_node")
def drain(
    node: n.NodeArgument,
    reason: Annotated[str | None, typer.Option(help="Reason, shown with the node.")] = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    run(lambda s: _drain(s, node, reason, wait, timeout, expect_version))


async def _drain(
    s: Session, node: str, reason: str | None, waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await s.node(node)
    title = f"node '{found['name']}'"
    async with wait.Follow(s, s.topics.status(NO_CLUSTER, "node", found["name"])) as follow:
        changed = await s.call(
            "drain_node", node_oid=found["oid"], reason=reason, expect_version=expect_version
        )
        if waits:
            goal = wait.drained(changed["version"])
            changed = {**changed, **(await follow.until(goal, title, timeout) or {})}
    output.done(changed, f"{title} is drained" if changed["drained"] else f"{title} is draining")


@n.verb(app, "undrain", "undrain_node")
def undrain(node: n.NodeArgument, expect_version: n.Expect = None) -> None:
    async def work(s: Session) -> Any:
        oid = (await s.node(node))["oid"]
        return await s.call("undrain_node", node_oid=oid, expect_version=expect_version)

    changed = run(work)
    output.done(changed, f"node '{changed['name']}' takes workers again")


@n.verb(app, "unpair", "unpair_node", more="With the embedded broker, its account is removed too.")
def unpair(node: n.NodeArgument, expect_version: n.Expect = None, keep_account: Keep = False) -> None:
    state = accounts.local_state()

    async def work(s: Session) -> Any:
        found = await s.node(node)
        if state is not None and found["status"] == "unpaired":
            return found, True  # what is left to do is its account
        kept = {"keep_account": True} if keep_account else {}
        gone = await s.call("unpair_node", node_oid=found["oid"], expect_version=expect_version, **kept)
        return gone, await _has_heard(s, gone)

    gone, heard = run(work)
    output.done(gone, f"node '{gone['name']}' unpaired")
    if not heard:
        output.note("its agent has not confirmed it yet: workers may run on there until it hears of it")
    if state is None:
        accounts.explain_external(gone["name"], "remove")
    elif not keep_account:
        accounts.remove(state, gone["name"], accounts.NODE)


async def _has_heard(s: Session, gone: dict[str, Any]) -> bool:
    """Give the node a moment to learn that it is to run nothing, before the broker shuts it out."""
    end = s.clock.monotonic() + HEAR_S
    while gone["status"] == "unpaired" and gone["boot"] and s.clock.monotonic() < end:
        if (gone["applied"] or {}).get("version", 0) >= gone["assignment_version"]:
            return True
        await s.clock.sleep(0.05)
        gone = await s.node(gone["oid"])
    return not gone["boot"]
