"""The input of an explanation, and the collector of its statements. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from busbar.bus.causes import CAUSES, FACTS, MAX_STATEMENTS, MAX_TEXT
from busbar.bus.results import Statement
from msgspec import Struct
from msgspec.structs import replace

from ..planner.liveness import Fleet, judge_nodes
from ..planner.model import ClusterView, GroupView, Snapshot, WorkerView
from ..planner.placement import Candidates, Load
from ..store.rows import ClusterRow, GroupRow, NodeRow, WorkerRow

HISTORY: Final = 12
"""Earlier events of one object that are told."""


class Past(Struct, frozen=True):
    """A stored event. `at_ms` is milliseconds since 1970, `by` who caused it, `data` the event's own.

    An empty `sequence` is a moment that has no event.
    """

    sequence: str
    at_ms: int
    subject: str
    verb: str
    reason: str | None = None
    by: str | None = None
    data: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Scene:
    """What is known when an explanation is asked for.

    `now` is on the clock of the snapshot's times. The rows are those that the question is about; `nodes` are
    by oid. `events` are by the oid of their object, oldest first. `unaccepted` is the condition of a group
    whose transport not all nodes accept.
    """

    snapshot: Snapshot
    now: float
    cluster: ClusterRow | None = None
    group: GroupRow | None = None
    worker: WorkerRow | None = None
    node: NodeRow | None = None
    nodes: Mapping[str, NodeRow] = field(default_factory=dict)
    groups: Sequence[GroupRow] = ()
    workers: Sequence[WorkerRow] = ()
    events: Mapping[str, Sequence[Past]] = field(default_factory=dict)
    unaccepted: str | None = None

    @cached_property
    def fleet(self) -> Fleet:
        """The nodes as the planner judges them now."""
        return judge_nodes(self.snapshot, self.now)[0]

    @cached_property
    def load(self) -> Load:
        """The workers per node, as the planner counts them."""
        return Load(self.snapshot)

    def cluster_view(self, oid: str) -> ClusterView | None:
        """The planner's view of a cluster; None where it is at rest."""
        return self.snapshot.clusters.get(oid)

    def group_view(self, cluster_oid: str, oid: str) -> GroupView | None:
        cluster = self.cluster_view(cluster_oid)
        return next((group for group in cluster.groups if group.oid == oid), None) if cluster else None

    def worker_view(self, row: WorkerRow) -> WorkerView | None:
        group = self.group_view(row.cluster_oid, row.group_oid)
        return next((worker for worker in group.workers if worker.oid == row.oid), None) if group else None

    def candidates(self, cluster: ClusterView, group: GroupView) -> Candidates:
        """The nodes for a worker of a group, under the planner's own rule."""
        return Candidates(self.fleet, self.load, cluster, group)

    def last(self, oid: str | None, *verbs: str) -> Past | None:
        """The last event of an object with one of these verbs."""
        return next((past for past in reversed(self.events.get(oid or "", ())) if past.verb in verbs), None)


class Told:
    """Collects statements: bounded in number and length, none twice."""

    def __init__(self) -> None:
        self._statements: list[Statement] = []
        self._left = 0

    def say(self, code: str, text: str, past: Past | None = None, about: str | None = None) -> None:
        """One more sentence; `past` is the event that it is about.

        Raises:
            KeyError: for a code that `bus.causes` does not have.
        """
        if code not in CAUSES and code not in FACTS:
            raise KeyError(code)
        event, at_ms = (past.sequence or None, past.at_ms) if past else (None, None)
        self._add(Statement(code, _cut(text), event, at_ms, about))

    def repeat(self, statement: Statement, about: str) -> None:
        """Say what was said of another object."""
        if not any((each.code, each.text) == (statement.code, statement.text) for each in self._statements):
            self._add(replace(statement, object=statement.object or about))

    @property
    def is_well(self) -> bool:
        """Whether no cause was said."""
        return is_well(self._statements)

    def _add(self, statement: Statement) -> None:
        if statement in self._statements:
            return
        if len(self._statements) >= MAX_STATEMENTS - 2:  # room for `more` and `nothing_wrong`
            self._left += 1
            return
        self._statements.append(statement)

    def all(self, title: str, *, as_said: bool = False) -> list[Statement]:
        """Everything said, and that nothing is wrong, where no cause is among it. What has an event comes
        first, by its number; `as_said`: all in the order in which it was said."""
        found = list(self._statements)
        if not as_said:
            found.sort(key=lambda each: (each.event is None, each.event or ""))
        if self._left:
            found.append(Statement("more", f"{self._left} more statements are left out"))
        if is_well(found):
            found.append(Statement("nothing_wrong", _cut(f"nothing is wrong: {title}")))
        return found


def is_well(statements: Iterable[Statement]) -> bool:
    """Whether none of them is a cause."""
    return not any(statement.code in CAUSES for statement in statements)


ORDERS: Final = frozenset(
    {"created", "starting", "stopping", "added", "scaled", "updating"}
    | {"paired", "unpaired", "draining", "undrained", "cordoned", "uncordoned", "labelled", "forgotten"}
)
"""The verbs of events that somebody's request causes; the manager itself causes the others."""


def by(past: Past | None) -> str:
    """Who ordered what an event tells, as the end of a sentence: ` by alice`; empty where nobody did."""
    return f" by {past.by}" if past and past.by and past.verb in ORDERS else ""


def because(past: Past) -> str:
    """An event's reason, as the end of a sentence; empty where it tells no more than `by`."""
    if not past.reason or (past.by and past.reason.endswith(f"by {past.by}")):
        return ""
    return f": {past.reason}"


def colon(reason: str | None) -> str:
    """A reason as the end of a sentence; empty where there is none."""
    return f": {reason}" if reason else ""


def seconds(value: float) -> str:
    """Seconds for people: 20 s, 3 min, 5 h."""
    value = max(0.0, value)
    for limit, unit, word in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if value < limit:
            return f"{value / unit:.0f} {word}"
    return f"{value / 86_400:.0f} d"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s'[count == 1 :]}"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."
