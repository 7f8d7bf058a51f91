"""Files of definitions planned and applied: what is shown, and what is waited for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from busbar.bus.backoff import Backoff
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.client.goals import Goal
from busbar.bus.clock import SystemClock
from busbar.bus.errors import BusError
from busbar.bus.params import OperationPlan, Plan
from busbar.bus.plans import MemberChange, ObjectChange, WorkerStep
from busbar.bus.printable import json_text
from busbar.bus.routers.definitions import read_all

from ..documents.documents import Document, located, place, read_document
from ..errors import BY_CODE, CliError, ExitCode
from ..printing import output
from . import wait

ATTEMPTS: Final = 5
"""How often the same plan is made again when the realm has changed meanwhile."""
PAUSE: Final = Backoff(base=0.1, cap=2.0)
ROUNDS: Final = 4
"""How often a file is applied with --wait: what is to be deleted stops first."""
SHOWN: Final = 60
"""Characters of a value."""
_SIGNS: Final = {"create": "+", "update": "~", "delete": "-", "start": ">", "stop": "!"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, and how it is to be applied."""

    document: Document
    prune: bool
    stop: bool

    @property
    def words(self) -> dict[str, Any]:
        """The parameters that planning and applying share."""
        return {"desired": self.document.value, "prune": self.prune, "stop": self.stop}


@dataclass(frozen=True, slots=True)
class Applying:
    """How a file is planned, and a plan applied."""

    plan: Callable[[], Awaitable[Plan]]
    apply: Callable[[Plan], Awaitable[object]]


def wanted(file: str, prune: bool, stop: bool) -> Wanted:
    """Read a file. Raises CliError: it is not valid; what is wrong is printed."""
    document = read_document(file)
    _, errors = read_all(document.value)
    for error in errors[1:]:
        output.note(f"error: {located(document, error)}")
    if errors:
        raise CliError(located(document, errors[0]), ExitCode.USAGE, errors[0].code)
    return Wanted(document, prune, stop)


# --- showing -----------------------------------------------------------------------------------------------


def show_plan(plan: Plan, document: Document | None = None) -> None:
    """Print a plan for people. `document`: the file that it is about."""
    for change in plan.changes:
        for line in change_lines(change):
            output.say(line)
    show_workers(plan.workers, complete=plan.complete)
    for left in plan.left:
        output.note(f"stays: {_name(left.pointer)}, {_of(left.owner)}")
    for refused in plan.refused:
        where = (
            place(document.name, document.line, refused.pointer)
            if document
            else f"{_name(refused.pointer)}: "
        )
        output.note(f"refused: {where}{refused.detail} ({refused.code})")


def show_workers(steps: Sequence[WorkerStep], *, complete: bool) -> None:
    """Print what would happen to workers, for people."""
    if steps:
        output.say("workers, in this order:")
        output.print_table(["", "worker", "what", "where", "reason"], [_cells(step) for step in steps])
    if not complete:
        output.note("! the plan is longer than it is worked out ahead: more workers are touched")


def _of(owner: str | None) -> str:
    return f"created by '{owner}'" if owner else "created without a file"


def _name(pointer: str) -> str:
    """`/clusters/edge/groups/web` as `group edge/web`."""
    match pointer.split("/")[1:]:
        case ["clusters", cluster, "groups", name]:
            return f"group {cluster}/{name}"
        case ["clusters", cluster, "nodes", name]:
            return f"node {name} of cluster {cluster}"
        case [section, name]:
            return f"{section.removesuffix('s')} {name}"
    return pointer


def change_lines(change: ObjectChange) -> Iterator[str]:
    """A change for people."""
    yield f"{_SIGNS[change.action]} {change.action} {_name(change.pointer)}"
    for member in change.members:
        yield f"    {member.pointer}: {_value(member, 'before')} -> {_value(member, 'after')}"


def _value(member: MemberChange, which: str) -> str:
    value = getattr(member, which)
    text = "(none)" if value is None else json_text(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _cells(step: WorkerStep) -> list[str]:
    where = step.node or step.before or ""
    if step.action == "move":
        where = f"{step.before} -> {step.node}"
    return [str(step.order), step.worker, step.action, where, step.reason]


def hints(plan: Plan, desired: Mapping[str, Any]) -> Iterator[str]:
    """What keeps clusters that were created from running."""
    done = {(change.action, change.pointer) for change in plan.changes}
    for action, pointer in sorted(done):
        name = _cluster(pointer)
        if action != "create" or pointer.count("/") != 2 or name is None:
            continue
        if not (desired["clusters"].get(name) or {}).get("nodes"):
            yield f"cluster '{name}' has no nodes, so no worker has a place: name some under 'nodes'"
        if ("start", pointer) not in done:
            start = f"'running: true' in the file, or 'busbar cluster start {name}', starts it"
            yield f"cluster '{name}' is STOPPED: {start}"


def as_object(plan: Plan | OperationPlan, **more: Any) -> dict[str, Any]:
    """A plan for `-o json`, without the fence, which is the manager's."""
    found = output.merged(plan, **more)
    found.pop("fence", None)
    return found


def refuse(plan: Plan) -> None:
    """Raises CliError: something of it is refused."""
    if plan.refused:
        first, more = plan.refused[0], len(plan.refused) - 1
        rest = f", and {more} more" if more else ""
        code = BY_CODE.get(first.code, ExitCode.FAILED)
        raise CliError(f"nothing was changed: {first.pointer}: {first.detail}{rest}", code, first.code)


# --- applying ----------------------------------------------------------------------------------------------


async def apply_planned(by: Applying, plan: Plan) -> Plan:
    """Apply a plan; where versions have moved it is made again, as long as it stays the same.

    Raises:
        BusError: `version_conflict`: applying would do something else than was shown now.
    """
    for attempt in range(ATTEMPTS):
        try:
            await by.apply(plan)
            return plan
        except BusError as error:
            if error.code != "version_conflict" or attempt == ATTEMPTS - 1:
                raise
            await SystemClock().sleep(PAUSE.delay(attempt + 1, random.random()))
            again = await by.plan()
            if (again.changes, again.workers, again.refused) != (plan.changes, plan.workers, plan.refused):
                raise
            plan = again
    raise AssertionError("unreachable")


async def settle(bus: BusClient, by: Applying, plan: Plan, timeout: float) -> None:
    """Wait until what was applied is so; what has stopped to be deleted is deleted then.

    Raises:
        WaitTimeoutError, GoalLostError: as `wait.until`.
    """
    clock = SystemClock()
    ends = clock.monotonic() + timeout
    for _ in range(ROUNDS):
        for cluster in dict.fromkeys(_cluster(change.pointer) for change in plan.changes):
            if cluster is not None:
                await _cluster_settles(bus, cluster, lambda: max(ends - clock.monotonic(), 0.1))
        if not any(change.action == "stop" for change in plan.changes):
            return
        plan = await by.plan()
        if plan.refused or not plan.changes:
            return refuse(plan)
        plan = await apply_planned(by, plan)
    return None


def _cluster(pointer: str) -> str | None:
    match pointer.split("/")[1:]:
        case ["clusters", name, *_]:
            return name
    return None


async def settled_by(bus: BusClient, cluster: str, timeout: float) -> None:
    """Wait until a cluster is as it is to be. Raises as `settle`."""
    clock = SystemClock()
    ends = clock.monotonic() + timeout
    await _cluster_settles(bus, cluster, lambda: max(ends - clock.monotonic(), 0.1))


async def _cluster_settles(bus: BusClient, name: str, left: Any) -> None:
    """Until a cluster runs, and each of its groups with what it is to run; or until it is stopped."""
    try:
        cluster = await bus.find_cluster(name)
    except BusError as error:
        if error.code == "no_such_object":
            return
        raise
    oids = await bus.list_routercluster_workergroups(routercluster_oid=cluster.oid)
    groups = await bus.fetch_groups(cluster.oid, oids)
    running = cluster.status not in ("STOPPED", "STOPPING", "PAUSED")
    for group in groups:
        goal: Goal = goals.updated(group.version, group.revision)
        if group.stop_ordered or not running:
            goal = goals.stopped(group.version)
        async with bus.watch_statuses(kind="workergroup", cluster=name, name=group.name) as watch:
            await wait.until(watch, goal, f"group '{name}/{group.name}'", left(), oid=group.oid)
    goal = goals.started(cluster.version) if running else goals.stopped(cluster.version)
    async with bus.watch_statuses(kind="routercluster", cluster=name, name=name) as watch:
        await wait.until(watch, goal, f"cluster '{name}'", left(), oid=cluster.oid)
