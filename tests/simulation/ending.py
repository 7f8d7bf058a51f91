"""The end of a schedule: has it converged, and does the history hold (C, D, A)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from busbar.bus.states import STARTED, ClusterState, NodeStatus, WorkerState
from busbar.manager.planner.draining import DRAINED
from busbar.manager.store.rows import NodeRow

from tests.simulation import peers, placing
from tests.simulation.clients import NOT_STORED
from tests.simulation.link import connected
from tests.simulation.parts import TOPICS

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch

_decode = msgspec.json.decode
AFTER_STORM_S = 3.5
"""The longest delay of a message, and how long an agent waits for an echo."""
_PRIMARY = {
    "create_routercluster": "busbar.on_routercluster_created",
    "delete_routercluster": "busbar.on_routercluster_deleted",
    "start_routercluster": "busbar.on_routercluster_starting",
    "stop_routercluster": "busbar.on_routercluster_stopping",
    "add_routercluster_node": "busbar.on_routercluster_node_added",
    "remove_routercluster_node": "busbar.on_routercluster_node_removed",
    "add_routercluster_workergroup": "busbar.on_workergroup_added",
    "remove_routercluster_workergroup": "busbar.on_workergroup_removed",
    "scale_routercluster_workergroup": "busbar.on_workergroup_scaled",
    "pair_node": "busbar.on_node_paired",
    "unpair_node": "busbar.on_node_unpaired",
    "update_routercluster_workergroup": "busbar.on_workergroup_updating",
    "restart_routercluster_workergroup": "busbar.on_workergroup_updating",
    "restart_routercluster_worker": "busbar.on_worker_restarting",
    "start_routercluster_workergroup": "busbar.on_workergroup_starting",
    "stop_routercluster_workergroup": "busbar.on_workergroup_stopping",
    "drain_node": "busbar.on_node_draining",
    "undrain_node": "busbar.on_node_undrained",
    "cordon_node": "busbar.on_node_cordoned",
    "uncordon_node": "busbar.on_node_uncordoned",
    "label_node": "busbar.on_node_labelled",
    "apply_rebalance": "busbar.on_worker_moved",
}
"""The event that each change brings, once."""
_PERHAPS = {
    "update_routercluster_workergroup",
    "restart_routercluster_worker",
    "drain_node",
    "undrain_node",
    "cordon_node",
    "uncordon_node",
    "label_node",
    "apply_rebalance",
}
"""Asked for what is so already, these change nothing, and bring none; nor does an order to move by itself."""


# --- C


def unconverged(watch: Watch) -> str | None:
    """What is not yet as it should be; None when all is."""
    world = watch.world
    host = world.manager
    if not host.up or host.manager is None or host.store is None or not connected(host.manager.link):
        return "the manager is not connected"
    if world.stormy_at and world.now < world.stormy_at + AFTER_STORM_S:
        return "messages of the storm may still be on their way"
    if any(client.busy for client in world.clients.values()):
        return "callers wait for answers"
    return _nodes(watch) or _clusters(watch) or _processes(watch) or peers.untold(watch) or _told(watch)


def _nodes(watch: Watch) -> str | None:
    for name, host in watch.world.agents.items():
        row = watch.mirror.by_name.get(name)
        if host.agent is None or not connected(host.agent.link):
            return f"the agent of {name} is not connected"
        if row is None or row.status is NodeStatus.UNPAIRED:
            continue
        if row.status is not NodeStatus.ONLINE:
            return f"node {name} is {row.status}"
        if row.draining is not None and (why := _undrained(watch, row)):
            return f"{name} is draining: {why}"
        applied = host.agent.snapshot().applied
        if (row.applied_epoch, row.applied_version) != (applied.epoch, applied.version):
            return f"{name}: stored applied {row.applied_epoch}/{row.applied_version}, it has {applied}"
        if applied.version != row.assignment_version:
            return f"{name} has applied {applied.version} of {row.assignment_version}"
        # A late message of an earlier manager stays told until the next assignment comes.
        if any(f"assignment {applied.epoch}/" in condition for condition in row.conditions):
            return f"{name}: {row.conditions}"
    return None


def _undrained(watch: Watch, node: NodeRow) -> str | None:
    """A worker that is still there though another member would take it; or an untrue note."""
    mirror = watch.mirror
    there = [row for row in mirror.workers.values() if row.node_oid == node.oid]
    for row in there:
        if placing.open_to(mirror, mirror.groups[row.group_oid]):
            return f"{row.name} is still there"
    return None if bool(there) != (node.drain_note == DRAINED) else f"its note is {node.drain_note}"


def _clusters(watch: Watch) -> str | None:
    mirror = watch.mirror
    for cluster in mirror.clusters.values():
        members = [node for of, node in mirror.members if of == cluster.oid]
        groups = [group for group in mirror.groups.values() if group.cluster_oid == cluster.oid]
        started = cluster.status in STARTED
        shut = False
        for group in groups:
            rows = [row for row in mirror.workers.values() if row.group_oid == group.oid]
            wanted = started and not group.stop_ordered
            if wanted and members and not placing.open_to(mirror, group):
                shut, why = True, _at_rest(group, rows)
            else:
                why = _group(group, rows, wanted, bool(members))
            if why:
                return f"{cluster.name} {cluster.status}, {group.name} {group.status}: {why}"
        if shut:
            continue
        asks = any(group.scale for group in groups if not group.stop_ordered)
        expected = {ClusterState.RUNNING} if started else {ClusterState.STOPPED}
        if started and asks and not members:
            expected = {ClusterState.STARTING, ClusterState.DEGRADED, ClusterState.ERROR}
        if cluster.status not in expected:
            return f"{cluster.name} is {cluster.status}"
    return None


def _at_rest(group: Any, rows: list[Any]) -> str | None:
    """Where no node takes a worker, what runs stays, and is updated as long as all are there; what does not
    finds no place."""
    moving = [row.name for row in rows if row.state not in (WorkerState.RUNNING, WorkerState.PENDING)]
    if moving:
        return f"{moving} not at rest"
    if group.revision != group.settled and all(row.state is WorkerState.RUNNING for row in rows):
        return f"revision {group.revision} is not everywhere"
    return None


def _group(group: Any, rows: list[Any], started: bool, members: bool) -> str | None:
    if not started:
        wrong = [row.name for row in rows if row.state is not WorkerState.STOPPED]
        if wrong:
            return f"{wrong} not stopped"
        return None if group.status is ClusterState.STOPPED else "all of its workers are stopped"
    wanted = WorkerState.RUNNING if members else WorkerState.PENDING
    wrong = [f"{row.name} {row.state}: {row.reason}" for row in rows if row.state is not wanted]
    if wrong:
        return ", ".join(wrong)
    ordered = [row.name for row in rows if row.move is not None]
    if members and ordered:
        return f"{ordered} are still to move"
    updating = group.revision != group.settled
    if members and (updating or {row.revision for row in rows} - {group.revision}):
        return f"revision {group.revision} is not everywhere"
    # The surge of an update that finds no node stays open until it is through.
    most = group.scale + (group.max_surge if updating and not members else 0)
    ordinals = {row.ordinal for row in rows}
    if not set(range(1, group.scale + 1)) <= ordinals <= set(range(1, most + 1)):
        return f"{len(rows)} workers of {group.scale}"
    if members and group.status is not ClusterState.RUNNING:
        return "its workers run"
    return None


def _processes(watch: Watch) -> str | None:
    """Exactly the assigned processes live, and they are well."""
    for name, host in watch.world.agents.items():
        assigned = watch.mirror.assigned(name)
        living = {process.oid: process for process in host.machine.processes.values()}
        if set(living) != set(assigned) or len(living) != len(host.machine.processes):
            return f"{name} runs {sorted(p.record.worker for p in living.values())}"
        for oid, process in living.items():
            if process.generation != assigned[oid] or not process.answers(watch.world.loop.now):
                return f"{name}: {process.record.worker} is not well"
    return None


def _told(watch: Watch) -> str | None:
    """What the broker holds is what the store says, and the outbox is empty."""
    store = watch.world.manager.store
    assert store is not None
    if store.reads.outbox_count():
        return "the outbox is not empty"
    retained = dict(watch.world.broker.retained)
    for topic, facts in _levels(watch).items():
        payload = retained.pop(topic, None)
        try:
            told = _decode(payload or b"{}")
        except ValueError:
            return f"{topic} holds garbage"
        if any(told.get(name) != value for name, value in facts.items()):
            return f"{topic} tells {[told.get(name) for name in facts]}, not {list(facts.values())}"
    foreign = [topic for topic in retained if "/status/" in topic or topic.endswith("/assignment")]
    return f"nobody clears {foreign[0]}" if foreign else None


def _levels(watch: Watch) -> dict[str, dict[str, Any]]:
    """Every retained topic of the manager, with what it must say."""
    mirror, store = watch.mirror, watch.world.manager.store
    assert store is not None
    found: dict[str, dict[str, Any]] = {}
    for node in mirror.nodes.values():
        workers = {"version": node.assignment_version, "epoch": store.epoch, "store": store.id}
        found[TOPICS.node(node.name, "assignment")] = workers
        if node.status is not NodeStatus.UNPAIRED:
            found[TOPICS.status("_", "node", node.name)] = _facts(node.version, node.status)
    names = {oid: row.name for oid, row in mirror.clusters.items()}
    for cluster in mirror.clusters.values():
        topic = TOPICS.status(cluster.name, "routercluster", cluster.name)
        found[topic] = _facts(cluster.version, cluster.status)
    for group in mirror.groups.values():
        ready = sum(
            row.state is WorkerState.RUNNING for row in mirror.workers.values() if row.group_oid == group.oid
        )
        topic = TOPICS.status(names[group.cluster_oid], "workergroup", group.name)
        found[topic] = {**_facts(group.version, group.status), "ready": ready}
    for row in mirror.workers.values():
        topic = TOPICS.status(names[row.cluster_oid], "worker", row.name)
        found[topic] = {**_facts(row.version, row.state), "generation": row.generation, "pid": row.pid}
    return found


def _facts(version: int, status: Any) -> dict[str, Any]:
    return {"version": version, "status": str(status)}


# --- D and A


def final(watch: Watch) -> None:
    """Hold what callers were told against the store."""
    store = watch.world.manager.store
    if store is None:
        return
    events = [_decode(payload) for payload in store.reads.events(0, 10_000)]
    _gapless(watch, events)
    effects = _effects(events)
    order: list[tuple[float, float, int, str]] = []
    for asked in watch.world.history:
        found = effects.get((asked.caller, asked.id, _PRIMARY[asked.op]), [])
        if asked.outcome == "ok":
            if asked.op in _PERHAPS and not found:
                _remembered(watch, asked)
                continue
            if len(found) != 1:
                watch._violation("D", f"{asked.op} {asked.id} was acknowledged, and has {len(found)} effects")
                continue
            order.append((asked.sent, asked.answered, found[0], asked.id))
        elif asked.outcome is None or asked.outcome in NOT_STORED:
            if len(found) > 1:
                watch._violation("A", f"{asked.op} {asked.id} has {len(found)} effects")
        elif found:
            watch._violation("A", f"{asked.op} {asked.id} was refused ({asked.outcome}), and has an effect")
        if asked.outcome is not None and asked.outcome not in NOT_STORED:
            _remembered(watch, asked)
    _ordered(watch, order)
    _folded(watch, events)


def _gapless(watch: Watch, events: list[Any]) -> None:
    numbers = [int(event["sequence"]) for event in events]
    if numbers != list(range(1, len(numbers) + 1)):
        watch._violation("D", "the events' sequence has gaps")
    missing = [event["id"] for event in events if event["id"] not in watch.events]
    if missing:
        watch._violation("D", f"{len(missing)} events were never published, {missing[0]} first")


def _effects(events: list[Any]) -> dict[tuple[str, str, str], list[int]]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for event in events:
        data = event["data"]
        key = (data["who"]["authid"], data.get("request_id", ""), event["type"])
        found.setdefault(key, []).append(int(event["sequence"]))
    return found


def _remembered(watch: Watch, asked: Any) -> None:
    store = watch.world.manager.store
    assert store is not None
    statement = "SELECT count(*) FROM requests WHERE id = ?2"
    statement += " AND caller = (SELECT oid FROM principals WHERE name = ?1)"
    if not store.reads.db.execute(statement, (asked.caller, asked.id)).fetchone()[0]:
        watch._violation("D", f"the reply to {asked.op} {asked.id} was not kept")


def _ordered(watch: Watch, order: list[tuple[float, float, int, str]]) -> None:
    """What was answered before another was asked for came to pass before it."""
    for sent, _, sequence, name in order:
        for _, answered, earlier, other in order:
            if answered < sent and earlier > sequence:
                watch._violation("A", f"{other} was answered before {name} was asked, and happened after")


def _folded(watch: Watch, events: list[Any]) -> None:
    """Replaying the events gives the store: each happened whole."""
    clusters: set[str] = set()
    groups: dict[tuple[str, str], int] = {}
    members: Counter[tuple[str, str]] = Counter()
    nodes: set[str] = set()
    names: dict[str, str] = {}
    revisions: dict[str, int] = {}
    draining: set[str] = set()
    stopped: set[str] = set()
    placed = placing.Told()
    for event in events:
        kind, data, name = event["type"].removeprefix("busbar.on_"), event["data"], event["data"]["name"]
        placed.take(kind, name, data)
        of = names.get(data.get("cluster_oid", ""), "")
        match kind:
            case "routercluster_created":
                clusters.add(name)
                names[data["oid"]] = name
            case "routercluster_deleted":
                clusters.discard(name)
                groups = {key: scale for key, scale in groups.items() if key[0] != name}
                members = Counter({key: 1 for key in members if key[0] != name and members[key]})
            case "routercluster_node_added":
                members[of, name] += 1
            case "routercluster_node_removed":
                members[of, name] -= 1
            case "workergroup_added" | "workergroup_scaled":
                groups[of, name] = data["scale"]
            case "workergroup_removed":
                groups.pop((of, name), None)
            case "node_paired":
                nodes.add(name)
            case "node_unpaired":
                nodes.discard(name)
                draining.discard(name)
            case "workergroup_updating":
                revisions[data["oid"]] = data["revision"]
            case "workergroup_stopping":
                stopped.add(data["oid"])
            case "workergroup_starting":
                stopped.discard(data["oid"])
            case "node_draining":
                draining.add(name)
            case "node_undrained":
                draining.discard(name)
    _compare(watch, clusters, groups, members, nodes)
    placed.compare(watch)
    mirror = watch.mirror
    stored = {row.oid: row.revision for row in mirror.groups.values()}
    told = {oid: revisions.get(oid, 1) for oid in stored}
    drained = {row.name for row in mirror.nodes.values() if row.draining is not None}
    if (stored, drained) != (told, draining):
        watch._violation("A", f"the events make {told} and {draining}, the store has {stored} and {drained}")
    ordered = {row.oid for row in mirror.groups.values() if row.stop_ordered}
    if ordered != stopped & stored.keys():
        watch._violation("A", f"the events stop the groups {stopped}, the store has {ordered}")


def _compare(
    watch: Watch,
    clusters: set[str],
    groups: dict[tuple[str, str], int],
    members: Counter[tuple[str, str]],
    nodes: set[str],
) -> None:
    mirror = watch.mirror
    names = {oid: row.name for oid, row in mirror.clusters.items()}
    node_names = {oid: row.name for oid, row in mirror.nodes.items()}
    stored: list[tuple[str, Any, Any]] = [
        ("clusters", set(names.values()), clusters),
        ("groups", {(names[row.cluster_oid], row.name): row.scale for row in mirror.groups.values()}, groups),
        (
            "members",
            {(names[cluster], node_names[node]): 1 for cluster, node in mirror.members},
            {key: count for key, count in members.items() if count},
        ),
        (
            "nodes",
            {row.name for row in mirror.nodes.values() if row.status is not NodeStatus.UNPAIRED},
            nodes,
        ),
    ]
    for what, have, told in stored:
        if have != told:
            watch._violation("A", f"the events make {what} {told}, the store has {have}")
