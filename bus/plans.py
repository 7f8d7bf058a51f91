"""What a change of many objects would do, and what it did: the results of planning and applying. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from .errors import pointer_step

Action = Literal["create", "update", "delete", "start", "stop"]
Step = Literal["start", "stop", "move", "restart", "wait", "hold"]
MAX_MEMBERS: Final = 64
"""Changed members of one object that a plan names."""


class MemberChange(Struct, frozen=True):
    """A member of an object that would have another value; null: it has none."""

    pointer: str
    before: Any = None
    after: Any = None


class ObjectChange(Struct, frozen=True):
    """What would happen to one object. `stop` of what is to be deleted: it is deleted by applying again.

    `owner` is the file that has created it. No more than 64 `members` are named.
    """

    pointer: str
    action: Action
    owner: str | None = None
    members: list[MemberChange] = msgspec.field(default_factory=list)


class WorkerStep(Struct, frozen=True):
    """What would happen to a worker, `cluster/worker`. Steps of the same `order` go together.

    `node` is where it is then, `before` where it was. `wait`: no node has room, or, where it has a `node`, it
    stays there for now; `hold`: the update of a group can't go on, and `worker` is that group,
    `cluster/group`.
    """

    order: int
    worker: str
    action: Step
    node: str | None = None
    before: str | None = None
    reason: str = ""


class MoveOrder(Struct, frozen=True):
    """That a worker is to go to the node with this oid. Of orders to one node, the lower goes first."""

    node: str
    order: int
    reason: str


class Relocation(Struct, frozen=True):
    """A worker, `cluster/worker`, that would move from the node `before` to `node`, and why.

    Those of the same `order` go together; null: it has to wait, and `waits` says for what.
    """

    worker: str
    worker_oid: str
    before: str
    node: str
    node_oid: str
    reason: str
    order: int | None = None
    waits: str | None = None


class Refused(Struct, frozen=True):
    """A change that is not possible, and why; `code` is that of an error."""

    pointer: str
    code: str
    detail: str


class Left(Struct, frozen=True):
    """An object that the file does not name, and that stays; `owner` is the file that has created it."""

    pointer: str
    owner: str | None


class Plan(Struct, frozen=True):
    """What applying would do now. `fence` holds the versions that this was planned with (0: no such object).

    `workers` are those touched until the realm is at rest, if every node does what it is told and every
    worker starts; not `complete`: there are more of them than were planned ahead.
    """

    changes: list[ObjectChange]
    workers: list[WorkerStep]
    refused: list[Refused]
    left: list[Left]
    fence: dict[str, int]
    complete: bool = True


class Applied(Struct, frozen=True):
    """What was done, without the members; no changes: everything was as it should be."""

    changes: list[ObjectChange]
    left: list[Left]


class OperationPlan(Struct, frozen=True):
    """What a change would do to workers until the realm is at rest, if every node does what it is told and
    every worker starts; not `complete`: there are more of them than were planned ahead.

    Done with `version` as its expected version, the change is of what was planned; null: it names no
    versioned object.
    """

    workers: list[WorkerStep]
    version: int | None = None
    complete: bool = True


class RebalancePlan(Struct, frozen=True):
    """What a rebalance would move now; no `moves`: the realm, or what of it was asked for, is in balance.

    `under_way` are workers that earlier orders move. `refused` are clusters that the caller may not change.
    `hold`: nothing is moved, and why. Not `complete`: there are more moves than were looked for.
    `misplaced`: workers on nodes without the labels that their groups require, and that no other node takes,
    each with what its node lacks.
    """

    moves: list[Relocation]
    under_way: list[str]
    refused: list[Refused]
    fence: dict[str, int]
    hold: str | None = None
    complete: bool = True
    misplaced: list[str] = msgspec.field(default_factory=list)


class OrderedMove(Struct, frozen=True):
    """A worker, `cluster/worker`, that was ordered to `node`, and its version with that order."""

    worker: str
    worker_oid: str
    before: str | None
    node: str
    version: int


class Rebalanced(Struct, frozen=True):
    """What was ordered; it is carried out one worker of a group at a time."""

    moves: list[OrderedMove]


def member_changes(before: dict[str, Any], after: dict[str, Any]) -> list[MemberChange]:
    """The members that differ, the innermost ones of objects; at most `MAX_MEMBERS`."""
    found: list[MemberChange] = []
    for change in _differences(before, after, ""):
        found.append(change)
        if len(found) == MAX_MEMBERS:
            break
    return found


def _differences(before: dict[str, Any], after: dict[str, Any], at: str) -> Iterator[MemberChange]:
    for name in dict.fromkeys((*before, *after)):
        old, new, pointer = before.get(name), after.get(name), f"{at}/{pointer_step(name)}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, pointer)
        elif old != new or (name in before) != (name in after):
            yield MemberChange(pointer, old, new)
