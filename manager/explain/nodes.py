"""What is wrong with a node, and which nodes take a worker. Pure."""

from __future__ import annotations

from typing import Final

from busbar.bus.results import Statement
from busbar.bus.states import NodeStatus, WorkerState

from ..planner.admission import Obstacle, Refusal
from ..planner.draining import DRAINED
from ..planner.model import ClusterView, GroupView, NodeView
from ..planner.placement import Candidates
from ..planner.status import about
from .scene import HISTORY, Past, Scene, Told, because, by, colon, plural, seconds

REFUSED: Final = 16
"""Nodes whose refusal is told one by one."""
OUTSIDE: Final = 3
SHOWN_WORKERS: Final = 5
_N = NodeStatus
_SILENT: Final = {
    _N.LATE: "node_late",
    _N.LOST: "node_lost",
    _N.OFFLINE: "node_offline",
    _N.UNPAIRED: "node_unpaired",
}
_VERBS: Final = {
    "paired": "was paired",
    "unpaired": "was unpaired",
    "online": "came online",
    "late": "became late",
    "lost": "was lost",
    "offline": "went offline",
    "draining": "was to be drained",
    "drained": "was drained",
    "undrained": "was taken into use again",
    "cordoned": "was cordoned",
    "uncordoned": "takes new workers again",
    "labelled": "was labelled",
    "forgotten": "was forgotten",
}


def explain_node(scene: Scene) -> list[Statement]:
    """Why a node is as it is."""
    told, row = Told(), scene.node
    assert row is not None
    for past in scene.events.get(row.oid, ())[-HISTORY:]:
        told.say("history", node_event(row.name, past), past)
    view = scene.snapshot.nodes.get(row.oid)
    if view is None:
        told.say("node_gone", f"node {row.name} is not known any more")
        return told.all(f"node {row.name}")
    say_node(scene, told, row.oid, history=False)
    if not view.known and not view.heard_once and row.status is not _N.UNPAIRED:
        told.say("never_heard", f"the agent of node {row.name} was never heard: start it with 'busbar agent'")
    for text in row.conditions:
        # A runtime that a node does not offer is no fault of the node.
        told.say("no_runtime" if text.startswith("runtime ") else "node_condition", text)
    late = [worker for worker in scene.workers if worker.state is not WorkerState.RUNNING]
    for worker in late[:SHOWN_WORKERS]:
        told.say("worker_not_ready", about(worker.name, worker.state, worker.reason))
    if len(late) > SHOWN_WORKERS:
        told.say(
            "worker_not_ready", f"{plural(len(late) - SHOWN_WORKERS, 'more worker')} on it are not ready"
        )
    if not any(m.node_oid == row.oid for c in scene.snapshot.clusters.values() for m in c.members):
        told.say("no_cluster", "it is a node of no cluster that runs: it gets no workers")
    silence, held = seconds(scene.fleet.silence(row.oid)), plural(len(scene.workers), "worker")
    return told.all(f"node {row.name} is {row.status}, was heard {silence} ago, and has {held}")


def say_node(scene: Scene, told: Told, node_oid: str, *, history: bool = True) -> None:
    """What keeps a node from taking or running workers; `history`: with the events that tell of it."""
    view = scene.snapshot.nodes.get(node_oid)
    if view is None:
        told.say("node_gone", "its node is not known any more")
        return
    name, status = view.name, scene.fleet.status[node_oid]
    about_it = f"node {name}"
    if status in _SILENT:
        past = _state_event(scene, node_oid) if history else None
        told.say(_SILENT[status], _standing(scene, view, status, past), past, about_it)
    if view.refuses is not None and status is _N.ONLINE:
        told.say("node_follows_another", f"node {name} {view.refuses}", about=about_it)
    if view.draining:
        past = scene.last(node_oid, "draining") if history else None
        why = (past.reason if past else None) or _stored_reason(scene, node_oid)
        told.say("node_draining", f"node {name} is to be drained{by(past)}{colon(why)}", past, about_it)
        if view.drain_note and view.drain_note != DRAINED:
            told.say("node_draining", f"node {name}: {view.drain_note}", about=about_it)
    if view.cordoned:
        past = scene.last(node_oid, "cordoned") if history else None
        row = scene.nodes.get(node_oid)
        why = (past.reason if past else None) or (row.cordoned if row else None)
        told.say("node_cordoned", f"node {name} takes no new workers{by(past)}{colon(why)}", past, about_it)
    if not view.applied and status is _N.ONLINE:
        told.say("not_applied", f"node {name} has not confirmed its present assignment", about=about_it)


def say_candidates(
    scene: Scene, told: Told, cluster: ClusterView, group: GroupView, *, but: str | None = None
) -> bool:
    """Which nodes take a worker of a group, and why the others don't; True when one does.

    `but`: the node (oid) that the worker is to leave.
    """
    if not cluster.members:
        told.say(
            "no_members",
            f"cluster {cluster.name} has no nodes: 'busbar cluster add-node {cluster.name} NODE'",
        )
    found, takes, refusals = scene.candidates(cluster, group), [], 0
    for member in sorted(cluster.members, key=lambda member: scene.fleet.name(member.node_oid)):
        if member.node_oid == but:
            continue
        refused, name = found.refusal(member.node_oid), scene.fleet.name(member.node_oid)
        if refused is None:
            takes.append(name)
            continue
        refusals += 1
        if refusals <= REFUSED:
            past = _state_event(scene, member.node_oid)
            text = f"node {name} takes no worker: it {refused.text}{_remedy(refused, name)}"
            told.say("node_refused", text, past, f"node {name}")
    if refusals > REFUSED:
        told.say("node_refused", f"{refusals - REFUSED} more nodes take no worker")
    if not takes:
        _say_outside(scene, told, cluster, found)
    return bool(takes)


def _remedy(refused: Refusal, node: str) -> str:
    """The command that takes a refusal away, where there is one."""
    command = {
        Obstacle.CORDONED: f"'busbar node uncordon {node}'",
        Obstacle.DRAINING: f"'busbar node undrain {node}'",
        Obstacle.HARDLIMIT: "a file for 'busbar apply'",
    }.get(refused.obstacle)
    return f"; {command} changes that" if command else ""


def node_event(name: str, past: Past) -> str:
    """An event of a node as a sentence."""
    did = _VERBS.get(past.verb, past.verb)
    return f"node {name} {did}{by(past)}{because(past)}"


def _say_outside(scene: Scene, told: Told, cluster: ClusterView, found: Candidates) -> None:
    members = {member.node_oid for member in cluster.members}
    others = sorted(set(scene.snapshot.nodes) - members, key=scene.fleet.name)
    would = (oid for oid in others if found.refusal(oid, as_member=True) is None)
    for _, oid in zip(range(OUTSIDE), would, strict=False):
        name = scene.fleet.name(oid)
        told.say("node_outside", f"node {name} would take it, but is not a node of cluster {cluster.name}")


def _standing(scene: Scene, view: NodeView, status: NodeStatus, past: Past | None) -> str:
    reason = past.reason if past else _stored_reason(scene, view.oid)
    silence = "" if status is _N.UNPAIRED else f"; last heard {seconds(scene.fleet.silence(view.oid))} ago"
    return f"node {view.name} is {status}{colon(reason)}{silence}"


def _stored_reason(scene: Scene, node_oid: str) -> str | None:
    row = scene.nodes.get(node_oid)
    if row is None:
        return None
    return row.draining if row.draining is not None and row.status is _N.ONLINE else row.reason


def _state_event(scene: Scene, node_oid: str) -> Past | None:
    """The event that tells why a node takes no workers now."""
    view, row = scene.snapshot.nodes.get(node_oid), scene.nodes.get(node_oid)
    if view is None or row is None:
        return None
    status = scene.fleet.status[node_oid]
    if status in _SILENT:
        return scene.last(node_oid, status) if row.status is status else None
    if view.draining:
        return scene.last(node_oid, "draining")
    return scene.last(node_oid, "cordoned") if view.cordoned else None
