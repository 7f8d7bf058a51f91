"""A document planned and applied: what it would change, which workers that touches, and doing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from busbar.bus import params as p
from busbar.bus.errors import BusError, pointer_step
from busbar.bus.plans import Applied, ObjectChange, Plan, WorkerStep
from busbar.bus.routers.definitions import normal, pointers, read
from msgspec.structs import replace

from ...slices import Slices
from ...store import Tx
from ...store.reads import Queries
from .base import ChangeContext, ChangeHandler, PlanHandler, ReadContext, ReadHandler
from .carrier import Carrier, Wish

_AT: Final = "/params/desired"
MAX_LEFT: Final = 200
"""Objects that stay, as far as they are named."""
MAX_STEPS: Final = 2_000
"""Worker steps that are named."""


def plan_changes(ctx: ReadContext, params: p.PlanChanges) -> Slices[Plan]:
    return planned(ctx, _wish(params), _AT)


def planned(ctx: ReadContext, wish: Wish, at: str) -> Slices[Plan]:
    """Carries a wish out on a copy of the state, and then lets the monitor's own passes run on that.

    Args:
        at: the pointer of the document in the request, for what is refused.
    """
    asker = ctx.asker
    assert asker is not None and ctx.rehearse is not None

    def attempt(tx: Tx) -> Slices[tuple[Carrier, bool]]:
        change = ChangeContext(tx, asker.who, asker.principal.oid, "", asker.quotas)
        carrier = Carrier(change, asker.principal, wish, at, keep_going=True)
        yield from carrier.in_slices()
        return carrier, bool(carrier.changes) and not carrier.refused

    def concluded(carrier: Carrier, steps: list[WorkerStep], complete: bool, before: Queries) -> Plan:
        made = [change.pointer for change in carrier.changes]
        found = [*pointers(wish.desired), *made, *_nodes(steps)]
        return Plan(
            changes=carrier.changes,
            workers=steps[:MAX_STEPS],
            refused=carrier.refused,
            left=carrier.left[:MAX_LEFT],
            fence={pointer: version_at(before, pointer) for pointer in dict.fromkeys(found)},
            complete=complete and len(steps) <= MAX_STEPS,
        )

    return ctx.rehearse(attempt, concluded)


def _nodes(steps: list[WorkerStep]) -> dict[str, None]:
    """The nodes that workers start on or leave: others may have come there meanwhile."""
    return {f"/nodes/{name}": None for step in steps for name in (step.before, step.node) if name}


def apply_changes(ctx: ChangeContext, params: p.ApplyChanges) -> Applied:
    wish, caller = _wish(params), ctx.tx.principal(ctx.who.authid)
    assert caller is not None
    check_fence(ctx.tx, params.fence)
    carrier = Carrier(ctx, caller, wish, _AT)
    carrier.carry_out()
    for change in carrier.changes:
        if change.pointer not in params.fence:
            raise BusError("version_conflict", f"{change.pointer} was not planned", ["/params/fence"])
    return applied(carrier)


def check_fence(store: Queries, fence: Mapping[str, int]) -> None:
    """Raises BusError `version_conflict` where an object is not at the version that was planned with."""
    for pointer, version in fence.items():
        present = version_at(store, pointer)
        if present != version:
            detail = f"{pointer} is at version {present}, not {version}: plan again"
            raise BusError("version_conflict", detail, [_in_fence(pointer)])


def applied(carrier: Carrier) -> Applied:
    """What was done."""
    done: list[ObjectChange] = [replace(change, members=[]) for change in carrier.changes]
    return Applied(done, carrier.left[:MAX_LEFT])


def _in_fence(pointer: str) -> str:
    return f"/params/fence/{pointer_step(pointer)}"


def _wish(params: p.PlanChanges | p.ApplyChanges) -> Wish:
    desired = normal(read(params.desired, _AT))
    if params.prune and desired.owner is None:
        detail = "pruning goes by the owner of the document, and it has none"
        raise BusError("invalid_argument", detail, [f"{_AT}/owner"])
    if params.stop and not params.prune:
        raise BusError("invalid_argument", "'stop' says how to prune", ["/params/stop"])
    return Wish(desired, params.prune, params.stop)


def version_at(store: Queries, pointer: str) -> int:
    """The version of the object at a pointer, 0 where there is none. Memberships and principals have times
    of their last change (ms)."""
    match pointer.split("/")[1:]:
        case ["clusters", name]:
            cluster = store.cluster_by_name(name)
            return cluster.version if cluster else 0
        case ["clusters", name, "groups", group_name]:
            cluster = store.cluster_by_name(name)
            group = store.group_by_name(cluster.oid, group_name) if cluster else None
            return group.version if group else 0
        case ["clusters", name, "nodes", node_name]:
            cluster, node = store.cluster_by_name(name), store.node_by_name(node_name)
            member = store.member(cluster.oid, node.oid) if cluster and node else None
            return member.changed // 1_000_000 if member else 0
        case ["nodes", name]:
            node = store.node_by_name(name)
            # Its assignment moves with each worker that comes or goes.
            return node.version + node.assignment_version if node else 0
        case ["principals", name]:
            principal = store.principal(name)
            return principal.changed // 1_000_000 if principal else 0
    raise BusError("invalid_argument", f"{pointer[:200]!r} points to no object", ["/params/fence"])


READS: Final[dict[str, ReadHandler]] = {}
PLANS: Final[dict[str, PlanHandler]] = {"plan_changes": plan_changes}
CHANGES: Final[dict[str, ChangeHandler]] = {"apply_changes": apply_changes}
