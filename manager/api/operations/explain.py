"""Why an object is as it is: finds it, gathers what is known of it, and has it explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from busbar.bus import params as p
from busbar.bus.clock import rfc3339
from busbar.bus.errors import BusError
from busbar.bus.events import EVENTS
from busbar.bus.messages import Event
from busbar.bus.states import WorkerState
from busbar.bus.topics import NO_CLUSTER

from ...explain.groups import explain_cluster, explain_group
from ...explain.nodes import REFUSED, explain_node
from ...explain.requests import EVENTS as REQUEST_EVENTS
from ...explain.requests import explain_request
from ...explain.scene import HISTORY, Past, Scene, is_well
from ...explain.workers import explain_worker
from ...planner.model import Snapshot
from ...publish.statuses import unaccepted_condition
from ...store.rows import ClusterRow, GroupRow, NodeRow, WorkerRow
from .base import ChangeHandler, ReadContext, ReadHandler

WITHIN: Final = 10_000
"""The last changes, refusals and events among which a request is looked for."""
EVENTS_WITHIN: Final = 50_000
"""The last events among which those of an object are looked for: some 15 ms."""
NODE_VERBS: Final = ("late", "lost", "offline", "unpaired", "draining", "cordoned")
"""The events of a node that tell why it takes no workers."""
_PENDING: Final = frozenset({WorkerState.PENDING, WorkerState.UNKNOWN, WorkerState.STOPPED})
_decode = msgspec.json.Decoder(Event).decode


def explain(ctx: ReadContext, params: p.Explain) -> p.Explanation:
    snapshot = ctx.snapshot()
    with ctx.reads.consistent():
        kind, found = _resolve(ctx, params)
        return _EXPLAIN[kind](ctx, snapshot, found)


# --- finding


def _resolve(ctx: ReadContext, params: p.Explain) -> tuple[str, Any]:
    """The kind and the row of what is asked for; of a request its id.

    Raises:
        BusError: `no_such_object`, or `invalid_argument` when it could be several.
    """
    wanted = [params.kind] if params.kind else [*_FIND]
    hits = [(kind, row) for kind in wanted if kind in _FIND and (row := _FIND[kind](ctx, params.object))]
    if len(hits) > 1:
        kinds = " and a ".join(kind for kind, _ in hits)
        raise BusError("invalid_argument", f"'{params.object}' is a {kinds}: say the kind", ["/params/kind"])
    if hits:
        return hits[0]
    if "/" not in params.object and params.kind in (None, "request"):
        return "request", params.object
    what = params.kind or "cluster, node, worker group or worker"
    raise BusError("no_such_object", f"there is no {what} '{params.object}'", ["/params/object"])


def _find_cluster(ctx: ReadContext, text: str) -> ClusterRow | None:
    return ctx.reads.cluster_by_name(text) or ctx.reads.cluster(text)


def _find_node(ctx: ReadContext, text: str) -> NodeRow | None:
    return ctx.reads.node_by_name(text) or ctx.reads.node(text)


def _find_group(ctx: ReadContext, text: str) -> GroupRow | None:
    where, slash, name = text.partition("/")
    cluster = _find_cluster(ctx, where) if slash else None
    return ctx.reads.group_by_name(cluster.oid, name) if cluster else ctx.reads.group(text)


def _find_worker(ctx: ReadContext, text: str) -> WorkerRow | None:
    where, slash, name = text.partition("/")
    cluster = _find_cluster(ctx, where) if slash else None
    return ctx.reads.worker_named(cluster.oid, name) if cluster else ctx.reads.worker(text)


_FIND: Final[dict[str, Callable[[ReadContext, str], Any]]] = {
    "routercluster": _find_cluster,
    "node": _find_node,
    "workergroup": _find_group,
    "worker": _find_worker,
}


# --- gathering


class _Gatherer:
    """The objects whose events are told; `events` reads those of all of them at once."""

    def __init__(self, ctx: ReadContext) -> None:
        self._ctx = ctx
        self._topics: list[str] = []
        self._oids: set[str] = set()

    def add(
        self,
        kind: str,
        cluster: str,
        row: ClusterRow | GroupRow | WorkerRow | NodeRow,
        verbs: Iterable[str] = (),
    ) -> None:
        """An object; `verbs`: only these events of it."""
        event = self._ctx.topics.event
        self._topics += [event(cluster, kind, row.name, verb) for verb in verbs or EVENTS[kind]]
        self._oids.add(row.oid)

    def nodes(self, oids: Iterable[str | None]) -> dict[str, NodeRow]:
        """Nodes, with the events that tell why they take no workers."""
        rows = {row.oid: row for row in self._ctx.reads.nodes_of_any({oid for oid in oids if oid})}
        for row in rows.values():
            self.add("node", NO_CLUSTER, row, NODE_VERBS)
        return rows

    def events(self) -> dict[str, list[Past]]:
        """By oid, oldest first; a former object of the same name has another oid."""
        found: dict[str, list[Past]] = {}
        for item in self._ctx.reads.events_on(self._topics, EVENTS_WITHIN, HISTORY):
            past = past_of(*item)
            if (oid := past.data.get("oid")) in self._oids:
                found.setdefault(str(oid), []).append(past)
        return found


def past_of(sequence: int, time_ns: int, payload: bytes) -> Past:
    """A stored event as an explanation reads it."""
    event = _decode(payload)
    subject, _, verb = event.type.removeprefix("busbar.on_").rpartition("_")
    who = event.data.get("who")
    return Past(
        sequence=f"{sequence:010d}",
        at_ms=time_ns // 1_000_000,
        subject=subject,
        verb=verb,
        reason=event.data.get("reason"),
        by=who.get("authid") if isinstance(who, dict) else None,
        data=event.data,
    )


def _members(ctx: ReadContext, cluster: ClusterRow) -> list[str]:
    """Nodes of a cluster whose refusal may be told, by name."""
    oids = [member.node_oid for member in ctx.reads.members(cluster.oid)]
    rows = sorted(ctx.reads.nodes_of_any(oids), key=lambda row: row.name)
    return [row.oid for row in rows][:REFUSED]


def _parents(
    ctx: ReadContext, cluster_oid: str, group_oid: str, gather: _Gatherer
) -> tuple[ClusterRow, GroupRow]:
    cluster, group = ctx.reads.cluster(cluster_oid), ctx.reads.group(group_oid)
    assert cluster is not None and group is not None  # foreign keys
    gather.add("routercluster", cluster.name, cluster)
    gather.add("workergroup", cluster.name, group)
    return cluster, group


# --- the kinds of objects


def _worker(ctx: ReadContext, snapshot: Snapshot, row: WorkerRow) -> p.Explanation:
    gather = _Gatherer(ctx)
    cluster, group = _parents(ctx, row.cluster_oid, row.group_oid, gather)
    gather.add("worker", cluster.name, row)
    own = [row.node_oid, row.last_node_oid]
    more = _members(ctx, cluster) if row.state in _PENDING else []
    scene = Scene(
        snapshot,
        ctx.now,
        cluster=cluster,
        group=group,
        worker=row,
        nodes=gather.nodes([*own, *more]),
        events=gather.events(),
    )
    return _told(ctx, "worker", f"{cluster.name}/{row.name}", row.oid, row.state, explain_worker(scene))


def _group(ctx: ReadContext, snapshot: Snapshot, row: GroupRow) -> p.Explanation:
    gather, workers = _Gatherer(ctx), ctx.reads.workers_of(row.oid)
    cluster, group = _parents(ctx, row.cluster_oid, row.oid, gather)
    late = [worker for worker in workers if worker.state is not WorkerState.RUNNING][:REFUSED]
    scene = Scene(
        snapshot,
        ctx.now,
        cluster=cluster,
        group=group,
        nodes=gather.nodes([*(worker.node_oid for worker in late), *_members(ctx, cluster)]),
        workers=workers,
        events=gather.events(),
        unaccepted=unaccepted_condition(ctx.reads, group, group.transport or cluster.transport),
    )
    name = f"{cluster.name}/{group.name}"
    return _told(ctx, "workergroup", name, group.oid, group.status, explain_group(scene))


def _cluster(ctx: ReadContext, snapshot: Snapshot, row: ClusterRow) -> p.Explanation:
    gather, groups = _Gatherer(ctx), ctx.reads.groups_of(row.oid)
    gather.add("routercluster", row.name, row)
    for group in groups[:REFUSED]:
        gather.add("workergroup", row.name, group)
    scene = Scene(
        snapshot,
        ctx.now,
        cluster=row,
        nodes=gather.nodes(_members(ctx, row)),
        groups=groups,
        workers=ctx.reads.workers_in(row.oid),
        events=gather.events(),
    )
    return _told(ctx, "routercluster", row.name, row.oid, row.status, explain_cluster(scene))


def _node(ctx: ReadContext, snapshot: Snapshot, row: NodeRow) -> p.Explanation:
    gather, workers = _Gatherer(ctx), ctx.reads.workers_on(row.oid)
    gather.add("node", NO_CLUSTER, row)
    scene = Scene(snapshot, ctx.now, node=row, nodes={row.oid: row}, workers=workers, events=gather.events())
    return _told(ctx, "node", row.name, row.oid, row.status, explain_node(scene))


def _request(ctx: ReadContext, snapshot: Snapshot, request_id: str) -> p.Explanation:
    """Raises BusError `no_such_object` when no change, refusal or event of late has that id."""
    changes = ctx.reads.changes_of_request(request_id, WITHIN, REQUEST_EVENTS)
    refusals = ctx.reads.refusals_of_request(request_id, WITHIN, REQUEST_EVENTS)
    stored = ctx.reads.events_of_request(request_id, WITHIN, REQUEST_EVENTS + 1)
    events = [past for item in stored if (past := past_of(*item)).data.get("request_id") == request_id]
    if not (changes or refusals or events):
        text = f"there is no object '{request_id}', and no such id among the last {WITHIN:,} requests"
        raise BusError("no_such_object", text, ["/params/object"])
    failed = ((row.id, _detail(ctx, row)) for row in changes if row.outcome != "ok")
    details = {number: text for number, text in failed if text}
    outcomes = [row.outcome for row in changes] + [row.outcome for row in refusals]
    found = explain_request(request_id, changes, refusals, details, events)
    return _told(ctx, "request", request_id, None, outcomes[0] if outcomes else "ok", found)


def _detail(ctx: ReadContext, row: Any) -> str | None:
    """What a stored reply says of its error."""
    reply = ctx.reads.reply(row.caller_oid or "", row.request_id or "")
    error = msgspec.json.decode(reply).get("error") if reply else None
    return str(error.get("detail")) if isinstance(error, dict) else None


def _told(
    ctx: ReadContext, kind: str, name: str, oid: str | None, status: str, statements: list[p.Statement]
) -> p.Explanation:
    return p.Explanation(
        kind=kind,
        object=name,
        oid=oid,
        status=status,
        well=is_well(statements),
        time=rfc3339(ctx.now_ns),
        statements=statements,
    )


_EXPLAIN: Final[dict[str, Callable[[ReadContext, Snapshot, Any], p.Explanation]]] = {
    "routercluster": _cluster,
    "workergroup": _group,
    "worker": _worker,
    "node": _node,
    "request": _request,
}

READS: Final[dict[str, ReadHandler]] = {"explain": explain}
CHANGES: Final[dict[str, ChangeHandler]] = {}
