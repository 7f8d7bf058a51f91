"""What the page may change: each change is planned first, and done only as it was planned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from busbar.bus.client.client import BusClient
from busbar.bus.plans import Plan, WorkerStep

from ..declared import change_lines
from ..numbers import duration
from .board import Board
from .rows import shown

SHOWN: Final = 100
"""Lines of a plan."""


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
        if (self.action, self.kind) not in WORK:
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
class Planned:
    """What a change would do, in lines; `refused` says why it can't be. `version` is the object's."""

    lines: list[str]
    refused: list[str]
    version: int | None


@dataclass(frozen=True, slots=True)
class Work:
    """How a change is planned, and how it is done at that version."""

    plan: Callable[[BusClient, Board, Change], Awaitable[Planned]]
    do: Callable[[BusClient, Change, int | None], Awaitable[object]]


# --- plans -------------------------------------------------------------------------------------------------


async def _declared(
    bus: BusClient, cluster: str, version: int, wish: Callable[[dict[str, Any]], object]
) -> Planned:
    """What the manager would do if the cluster's definition were changed by `wish`."""
    document = await bus.get_definitions(clusters=[cluster])
    wish(document["clusters"][cluster])
    return planned(await bus.plan_changes(desired=document), version)


def planned(plan: Plan, version: int) -> Planned:
    """A plan in lines."""
    lines = [line for change in plan.changes for line in change_lines(change)]
    lines += list(_steps(plan.workers))
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more lines"]
    if not plan.complete:
        lines.append("more workers are touched than are planned ahead")
    refused = [f"{each.pointer}: {each.detail}" for each in plan.refused]
    return Planned(shown_all(lines or ["nothing changes"]), shown_all(refused), version)


def shown_all(lines: list[str]) -> list[str]:
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


async def _plan_cluster(bus: BusClient, _: Board, change: Change) -> Planned:
    found = await bus.find_cluster(change.object)

    def wish(definition: dict[str, Any]) -> None:
        definition["running"] = change.action == "start"

    return await _declared(bus, found.name, found.version, wish)


async def _plan_rollback(bus: BusClient, _: Board, change: Change) -> Planned:
    found = await bus.find_cluster(change.object)
    plan = await bus.plan_routercluster_rollback(routercluster_oid=found.oid, revision=change.value or 0)
    return planned(plan, found.version)


async def _plan_group(bus: BusClient, _: Board, change: Change) -> Planned:
    group = await bus.find_group(change.object)
    cluster = change.object.partition("/")[0]

    def wish(definition: dict[str, Any]) -> None:
        members = definition["groups"][group.name]
        if change.action == "scale":
            members["scale"] = change.value
        else:
            members["stopped"] = change.action == "stop"

    return await _declared(bus, cluster, group.version, wish)


async def _plan_restart_group(bus: BusClient, _: Board, change: Change) -> Planned:
    group = await bus.find_group(change.object)
    lines = [
        f"all {group.scale} workers of {change.object} are replaced by new processes, one after the other",
        f"meanwhile at most {group.max_unavailable} of {group.scale} do not serve",
        f"and at most {group.max_surge} more than {group.scale} run",
    ]
    return Planned(shown_all(lines), [], group.version)


async def _plan_restart_worker(bus: BusClient, _: Board, change: Change) -> Planned:
    worker = await bus.find_worker(change.object)
    where = f" on {worker.node}" if worker.node else ""
    lines = [f"worker {change.object}{where} is replaced by a new process; its clients have to connect again"]
    if worker.uptime_ms is not None:
        lines.append(f"it has run for {duration(worker.uptime_ms)}")
    return Planned(shown_all(lines), [], None)


async def _plan_drain(bus: BusClient, board: Board, change: Change) -> Planned:
    node = await bus.find_node(change.object)
    on = sorted(key.partition("/")[2] for key, row in board.objects.items() if _is_on(row, node.name))
    if change.action == "undrain":
        return Planned([f"{node.name} takes workers again; none is moved for it"], [], node.version)
    lines = [f"{node.name} takes no new workers", *(f"move {name} away from {node.name}" for name in on)]
    if on:
        lines.append("one of each group at a time: the next goes when its successor is ready")
    return Planned(shown_all(lines[:SHOWN]), [], node.version)


def _is_on(row: dict[str, Any], node: str) -> bool:
    return row.get("kind") == "worker" and row.get("node") == node


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
        routercluster_oid=worker.cluster_oid, workergroup_oid=worker.workergroup_oid, worker_oid=worker.oid
    )


async def _do_node(bus: BusClient, change: Change, version: int | None) -> object:
    oid = await bus.node_oid(change.object)
    if change.action == "drain":
        return await bus.drain_node(node_oid=oid, reason="drained on the page", expect_version=version)
    return await bus.undrain_node(node_oid=oid, expect_version=version)


WORK: Final[dict[tuple[str, str], Work]] = {
    ("start", "routercluster"): Work(_plan_cluster, _do_cluster),
    ("stop", "routercluster"): Work(_plan_cluster, _do_cluster),
    ("rollback", "routercluster"): Work(_plan_rollback, _do_rollback),
    ("start", "workergroup"): Work(_plan_group, _do_group),
    ("stop", "workergroup"): Work(_plan_group, _do_group),
    ("scale", "workergroup"): Work(_plan_group, _do_group),
    ("restart", "workergroup"): Work(_plan_restart_group, _do_group),
    ("restart", "worker"): Work(_plan_restart_worker, _do_worker),
    ("drain", "node"): Work(_plan_drain, _do_node),
    ("undrain", "node"): Work(_plan_drain, _do_node),
}
"""Every change that the page offers, by action and kind of object."""


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
