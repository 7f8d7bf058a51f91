"""The manager's metrics of this moment, from a snapshot. Names follow the Prometheus conventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from busbar.bus.states import NodeStatus, WorkerState
from busbar.bus.system.metrics import Family

from ..planner.model import ClusterView, GroupView, Snapshot, WorkerView
from ..planner.rolling import ready_of
from ..state.node_memory import NodeMemory, WorkerStat

GROUP: Final = ("cluster", "group")
WORKER: Final = ("cluster", "worker", "node")
_Groups = list[tuple[ClusterView, GroupView]]


def families(snapshot: Snapshot, memory: NodeMemory, now: float) -> Iterator[Family]:
    """Clusters, groups, workers and nodes. `now`: monotonic seconds, as the memory's.

    Clusters that are stopped and have no workers left are not in a snapshot, and cost nothing here.
    """
    found = [(cluster, group) for cluster in _by_name(snapshot.clusters.values()) for group in cluster.groups]
    yield from _groups(found)
    yield from _workers(snapshot, memory, found)
    yield from _nodes(snapshot, memory, now)
    yield Family(
        "busbar_mass_failure_hold",
        "1 while nothing is moved because too many nodes fell silent at once.",
        samples=[((), float(snapshot.hold is not None))],
    )


def _groups(found: _Groups) -> Iterator[Family]:
    def each(name: str, text: str, value: dict[tuple[str, str], float]) -> Family:
        return Family(f"busbar_group_{name}", text, GROUP, value.items())

    named = {(cluster.name, group.name): group for cluster, group in found}
    wanted = {key: float(desired(group)) for key, group in named.items()}
    yield each("workers_desired", "Workers that a group is to have.", wanted)
    ready = {key: float(ready_of(group)) for key, group in named.items()}
    yield each("workers_ready", "Workers of a group that are ready.", ready)
    restarts = {key: float(sum(w.restarts for w in group.workers)) for key, group in named.items()}
    yield each("worker_restarts", "Restarts of a group's present workers, since each was placed.", restarts)
    rolling = {key: float(group.revision != group.settled) for key, group in named.items()}
    yield each("rollout_in_progress", "1 while a group's update is not complete.", rolling)


def desired(group: GroupView) -> int:
    """How many workers it is to have: none while it is stopped or stops."""
    return 0 if group.stop_ordered or group.status in ("STOPPED", "STOPPING") else group.scale


def _workers(snapshot: Snapshot, memory: NodeMemory, found: _Groups) -> Iterator[Family]:
    states = Counter(worker.state for _, group in found for worker in group.workers)
    counts = [((state.value.lower(),), float(states[state])) for state in WorkerState]
    yield Family("busbar_workers", "Workers by state.", ("state",), counts)
    names = {oid: node.name for oid, node in snapshot.nodes.items()}
    running: list[tuple[tuple[str, str, str], WorkerView, WorkerStat]] = []
    for cluster, group in found:
        for worker in group.workers:
            stat = memory.stat(worker.oid)
            if stat.uptime_ms is not None:
                where = names.get(worker.node_oid or "", "")
                running.append(((cluster.name, worker.name, where), worker, stat))
    yield Family(
        "busbar_worker_cpu_seconds_total",
        "Processor time of a worker and its children, as its node last measured it.",
        WORKER,
        [(key, stat.cpu_s) for key, _, stat in running if stat.cpu_s is not None],
        "counter",
    )
    yield Family(
        "busbar_worker_resident_memory_bytes",
        "Resident memory of a worker and its children, as its node last measured it.",
        WORKER,
        [(key, float(stat.rss)) for key, _, stat in running if stat.rss is not None],
    )
    yield Family(
        "busbar_worker_uptime_seconds",
        "Since a worker's process was started.",
        WORKER,
        [(key, stat.uptime_ms / 1000) for key, _, stat in running if stat.uptime_ms is not None],
    )
    yield from _traffic([(key, stat) for key, _, stat in running])


def _traffic(running: list[tuple[tuple[str, str, str], WorkerStat]]) -> Iterator[Family]:
    """What routers say of their clients, where they do."""
    told = [(key, stat.traffic) for key, stat in running if stat.traffic is not None]
    counted = {
        "clients": ("gauge", "Clients connected to a worker.", "connections"),
        "messages_received_total": ("counter", "Messages that a worker's clients have sent.", "messages_in"),
        "messages_sent_total": ("counter", "Messages that a worker's clients have got.", "messages_out"),
        "bytes_received_total": ("counter", "Bytes that a worker's clients have sent.", "bytes_in"),
        "bytes_sent_total": ("counter", "Bytes that a worker's clients have got.", "bytes_out"),
        "slow_consumers_total": ("counter", "Clients cut off since they did not read.", "slow_consumers"),
    }
    for name, (kind, text, member) in counted.items():
        samples = [(key, float(getattr(traffic, member))) for key, traffic in told]
        yield Family(f"busbar_worker_{name}", text, WORKER, samples, kind)


def _nodes(snapshot: Snapshot, memory: NodeMemory, now: float) -> Iterator[Family]:
    nodes = sorted(snapshot.nodes.values(), key=lambda node: node.name)
    paired = [node for node in nodes if node.status is not NodeStatus.UNPAIRED]
    statuses = Counter(node.status for node in nodes)
    counts = [((status.value,), float(statuses[status])) for status in NodeStatus]
    yield Family("busbar_nodes", "Nodes by status.", ("status",), counts)
    yield Family(
        "busbar_node_up",
        "1 while a node is online; 0 while it is late, lost or offline.",
        ("node",),
        [((node.name,), float(node.status is NodeStatus.ONLINE)) for node in paired],
    )
    heard = [(node.name, memory.heard_at(node.oid)) for node in paired]
    yield Family(
        "busbar_node_heartbeat_age_seconds",
        "Since a node was last heard; missing where this manager has not heard it yet.",
        ("node",),
        [((name,), max(0.0, now - at)) for name, at in heard if at is not None],
    )
    yield Family(
        "busbar_node_unschedulable",
        "1 while a node takes no new workers: it is cordoned or drains.",
        ("node",),
        [((node.name,), float(node.cordoned or node.draining)) for node in paired],
    )


def _by_name(clusters: Iterable[ClusterView]) -> list[ClusterView]:
    return sorted(clusters, key=lambda cluster: cluster.name)
