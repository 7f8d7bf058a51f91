"""What the page may change: each change is planned first, and done only as it was planned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from busbar.bus.client.client import BusClient
from busbar.bus.plans import OperationPlan, Plan, WorkerStep

from ..calls.declared import change_lines
from ..calls.dry_run import Planned, PlanningClient
from .rows import shown

SHOWN: Final = 100
"""Lines of a plan."""
_ENDS: Final = frozenset({"restart", "move", "stop"})
"""Steps that end the connections of a worker's clients."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that somebody asks for: of which object, and, of a scale or a revision, to which number.

    Raises:
        ValueError: there is no such change.
    """

    action: str
    kind: str
    object: str
    value: int | None = None

    def __post_init__(self) -> None:
        if (self.action, self.kind) not in DEEDS:
            raise ValueError(f"a {self.kind} has no action {self.action}")
        if (self.value is not None) != (self.action in VALUED):
            raise ValueError(f"{self.action} is given a number, or none")
        if self.value is not None and not 0 <= self.value <= 1_000_000:
            raise ValueError("the number is too large")

    @classmethod
    def of(cls, form: dict[str, str]) -> Change:
        """From a form: `action`, `object` as the page's key, `value`.

        Raises:
            ValueError: it is none.
        """
        kind, _, target = form.get("object", "").partition("/")
        value = form.get("value", "")
        if value and not (value.isascii() and value.isdigit() and len(value) < 8):
            raise ValueError("a whole number is wanted")
        return cls(form.get("action", ""), kind, target, int(value) if value else None)


VALUED: Final = frozenset({"scale", "rollback"})


@dataclass(frozen=True, slots=True)
class Shown:
    """What a change would do, in lines; `refused` says why it can't be. `version` is the object's."""

    lines: list[str]
    refused: list[str]
    version: int | None


async def plan(bus: BusClient, change: Change) -> Shown:
    """What the manager says that a change would do.

    Raises:
        BusError: it would be refused.
    """
    try:
        await do(PlanningClient(bus), change)
    except Planned as planned:
        return _shown(planned.plan, f"/clusters/{change.object}")
    raise AssertionError("a deed asks for a change")


async def do(bus: BusClient, change: Change, version: int | None = None) -> None:
    """Have it done, if its object is at that version. Raises BusError."""
    await DEEDS[change.action, change.kind](bus, change, version)


# --- plans -------------------------------------------------------------------------------------------------


def _shown(plan: Plan | OperationPlan, pointer: str) -> Shown:
    """A plan in lines; `pointer`: the cluster that is rolled back."""
    lines: list[str] = []
    refused: list[str] = []
    if isinstance(plan, Plan):
        lines = [line for change in plan.changes for line in change_lines(change)]
        refused = [f"{each.pointer}: {each.detail}" for each in plan.refused]
        version = plan.fence.get(pointer)
    else:
        version = plan.version
    lines += _steps(plan.workers)
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more lines"]
    if not plan.complete:
        lines.append("more workers are touched than are planned ahead")
    if any(step.action in _ENDS for step in plan.workers):
        lines.append("clients of workers that stop, move or restart have to connect again")
    return Shown(_clean(lines or ["no worker is touched"]), _clean(refused), version)


def _clean(lines: list[str]) -> list[str]:
    """Lines with what is not printable made visible."""
    return [str(shown(line)) for line in lines]


def _steps(workers: list[WorkerStep]) -> Iterator[str]:
    for each in workers:
        where = f" from {each.before} to {each.node}" if each.action == "move" else ""
        if not where and (each.node or each.before):
            where = f" on {each.node or each.before}"
        yield f"{each.order}. {each.action} {each.worker}{where}" + (
            f": {each.reason}" if each.reason else ""
        )


# --- deeds -------------------------------------------------------------------------------------------------


async def _do_cluster(bus: BusClient, change: Change, version: int | None) -> object:
    call = bus.start_routercluster if change.action == "start" else bus.stop_routercluster
    oid = await bus.cluster_oid(change.object)
    return await call(routercluster_oid=oid, expect_version=version)


async def _do_rollback(bus: BusClient, change: Change, version: int | None) -> object:
    oid = await bus.cluster_oid(change.object)
    return await bus.rollback_routercluster(
        routercluster_oid=oid, revision=change.value or 0, expect_version=version
    )


async def _do_group(bus: BusClient, change: Change, version: int | None) -> object:
    group = await bus.find_group(change.object)
    ref: dict[str, Any] = {"routercluster_oid": group.cluster_oid, "workergroup_oid": group.oid}
    match change.action:
        case "scale":
            scale = change.value or 0
            return await bus.scale_routercluster_workergroup(**ref, scale=scale, expect_version=version)
        case "start":
            return await bus.start_routercluster_workergroup(**ref, expect_version=version)
        case "stop":
            return await bus.stop_routercluster_workergroup(**ref, expect_version=version)
    return await bus.restart_routercluster_workergroup(**ref, expect_version=version)


async def _do_worker(bus: BusClient, change: Change, version: int | None) -> object:
    worker = await bus.find_worker(change.object)
    return await bus.restart_routercluster_worker(
        routercluster_oid=worker.cluster_oid,
        workergroup_oid=worker.workergroup_oid,
        worker_oid=worker.oid,
        expect_version=version,
    )


async def _do_node(bus: BusClient, change: Change, version: int | None) -> object:
    oid = await bus.node_oid(change.object)
    if change.action == "drain":
        return await bus.drain_node(node_oid=oid, reason="drained on the page", expect_version=version)
    return await bus.undrain_node(node_oid=oid, expect_version=version)


DEEDS: Final[dict[tuple[str, str], Callable[[BusClient, Change, int | None], Awaitable[object]]]] = {
    ("start", "routercluster"): _do_cluster,
    ("stop", "routercluster"): _do_cluster,
    ("rollback", "routercluster"): _do_rollback,
    ("start", "workergroup"): _do_group,
    ("stop", "workergroup"): _do_group,
    ("scale", "workergroup"): _do_group,
    ("restart", "workergroup"): _do_group,
    ("restart", "worker"): _do_worker,
    ("drain", "node"): _do_node,
    ("undrain", "node"): _do_node,
}
"""Every change that the page offers, by action and kind of object; each is done at the version given."""


async def revisions(bus: BusClient, cluster: str) -> list[dict[str, Any]]:
    """What a cluster can be rolled back to, the last first."""
    oid = await bus.cluster_oid(cluster)
    found = await bus.list_routercluster_revisions(routercluster_oid=oid, limit=20)
    return [
        {
            "revision": each.revision,
            "time": each.time,
            "caller": shown(each.caller),
            "changed": shown(each.changed),
        }
        for each in found[1:]
    ]
