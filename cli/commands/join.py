"""busbar join: make this machine a node, from the line that `busbar node pair` prints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..context import state_path
from ..errors import usage
from ..printing import output

if TYPE_CHECKING:
    from ..services.join_file import JoinFile
    from ..services.systemd import Unit

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Token = Annotated[
    str,
    typer.Argument(
        metavar="TOKEN@BROKER", help="As 'busbar node pair' or 'node token' prints it; -: standard input."
    ),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="The agent's folder; with a system's unit /var/lib/busbar/agent."),
]
Host = Annotated[str | None, typer.Option("--host", help="Address under which clients reach its workers.")]
Label = Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")]
WithUnit = Annotated[
    bool | None,
    typer.Option("--unit/--no-unit", help="Whether systemd is to run the agent; default: where it is there."),
]
Scope = Annotated[
    Literal["system", "user"] | None,
    typer.Option(
        "--scope", help="The unit is the machine's or your own; default: the machine's if you are root."
    ),
]
User = Annotated[
    str, typer.Option("--user", help="With a unit of the machine: who it runs as; made where it is missing.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "--print", help="Say what it would do, and print the unit; do nothing.")
]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a join will do on this machine; `new_user` has to be made for the unit."""

    file: JoinFile
    folder: Path
    unit: Unit | None
    new_user: str | None


@app.command(help="Make this machine a node: with one line from 'busbar node pair', and nothing else.")
def join(
    token: Token,
    state: State = None,
    host: Host = None,
    label: Label = None,
    unit: WithUnit = None,
    scope: Scope = None,
    user: User = "busbar",
    dry_run: DryRun = False,
) -> None:
    from ..documents import definition
    from ..services import systemd
    from ..services.agent_join import join_node
    from ..services.join_check import is_expected

    plan = _plan(_read(token), state, unit, scope, user)
    labels = definition.pairs(label, "--label") or {}
    if dry_run:
        return _show(plan)
    if plan.new_user is not None:
        systemd.add_user(plan.new_user)
    access = join_node(plan.file, plan.folder, host, labels)
    run_it, changed = f"run it: busbar agent --state {plan.folder}", access.changed
    if plan.unit is not None:
        if plan.unit.scope == "system":
            systemd.give_to(str(plan.unit.user), access.made)
        if access.changed or not systemd.runs(plan.unit):
            systemd.set_up(plan.unit)
            changed = True
        run_it = f"service {plan.unit.name} runs"
    what = "has joined" if changed else "had joined already:"
    text = f"node '{plan.file.node}' {what} realm '{plan.file.realm}' at {plan.file.broker}; {run_it}"
    output.done({**_summary(plan), "changed": changed}, text)
    if plan.unit is not None and changed:
        systemd.tell_linger(plan.unit.scope)
    if not is_expected(plan.file, plan.folder):
        output.note(
            "no manager has an assignment for it yet: 'busbar node list' there shows whether"
            f" '{plan.file.node}' is paired"
        )
    return None


def _read(token: str) -> JoinFile:
    from ..services.join import read_line
    from ..services.join_token import from_word

    try:
        return from_word(read_line() if token == "-" else token)
    except (OSError, ValueError) as error:
        raise usage(f"the token on standard input: {error}") from None


def _plan(
    file: JoinFile,
    state: Path | None,
    wanted: bool | None,
    scope: Literal["system", "user"] | None,
    user: str,
) -> Plan:
    """Raises CliError for a unit that this user or machine can't have, and a folder that is another's."""
    from ..services import systemd
    from ..services.agent_join import check_folder

    found = scope or ("system" if os.geteuid() == 0 else "user")
    has_unit = wanted if wanted is not None else scope is not None or systemd.is_here(found, os.environ)
    of_machine = has_unit and found == "system"
    default = systemd.SERVICE_STATE if of_machine else state_path(os.environ) / "agents" / file.node
    folder = (state or default).expanduser().absolute()
    if has_unit:
        systemd.need_systemctl()
    if of_machine:
        systemd.need_root()
    check_folder(folder, file)
    unit = systemd.agent_unit(file.node, user, folder, found) if has_unit else None
    return Plan(file, folder, unit, user if of_machine and not systemd.has_user(user) else None)


def _show(plan: Plan) -> None:
    """Say what would be done. The token is not tried, since trying it would spend it."""
    from ..services import systemd

    shown = _summary(plan)
    text = systemd.render(plan.unit) if plan.unit is not None else None
    if output.output_format() != "table":
        return output.dump({**shown, "text": text})
    for name, value in shown.items():
        if value is not None:
            output.say(f"{name.replace('_', ' '):<10} {value}")
    if text is None:
        output.say(f"{'no unit':<10} run it: busbar agent --state {plan.folder}")
    for line in (text or "").splitlines():
        output.say(f"  {line}".rstrip())
    return None


def _summary(plan: Plan) -> dict[str, Any]:
    from ..services import systemd
    from ..services.join_token import describe_authority

    unit = plan.unit
    file = None if unit is None else systemd.folder_of(unit.scope, os.environ) / f"{unit.name}.service"
    return {
        "name": plan.file.node,
        "realm": plan.file.realm,
        "broker": plan.file.broker,
        "authority": describe_authority(plan.file),
        "secret": "its own, new" if plan.file.token is not None else "the token's",
        "state": str(plan.folder),
        "new_user": plan.new_user,
        "unit": None if file is None else str(file),
    }
