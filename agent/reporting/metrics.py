"""The agent's metrics: its workers as it would report them now, and its connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from busbar.bus.connection.link import Link
from busbar.bus.messages import ReportedWorker
from busbar.bus.states import WorkerState
from busbar.bus.system.metrics import Family, MetricsServer, Source, connection
from msgspec import UNSET
from prometheus_client import CollectorRegistry

from ..planner.mesh_links import MeshLink
from .reporter import NodeSnapshot

_STATES = tuple(
    state for state in WorkerState if state not in (WorkerState.PENDING, WorkerState.UNKNOWN)
)  # the manager's alone
_WORKER = ("cluster", "worker")


def families(now: NodeSnapshot) -> Iterator[Family]:
    """The node's workers and conditions."""
    states = Counter(worker.state for worker in now.workers)
    yield Family(
        "busbar_agent_workers",
        "Workers of this node by state.",
        ("state",),
        [((state.value.lower(),), float(states[state])) for state in _STATES],
    )
    yield Family(
        "busbar_agent_conditions",
        "What this node says that needs attention; 'busbar node show' has the texts.",
        samples=[((), float(len(now.conditions)))],
    )
    yield Family(
        "busbar_agent_assignment_refused",
        "1 while the manager's assignment is refused.",
        samples=[((), float(now.refused is not None))],
    )

    def each(
        name: str, text: str, value: Callable[[ReportedWorker], float | None], kind: str = "gauge"
    ) -> Family:
        found = [((w.cluster or "", w.worker), value(w)) for w in now.workers]
        samples = [(key, float(number)) for key, number in found if number is not None]
        return Family(f"busbar_agent_worker_{name}", text, _WORKER, samples, kind)

    yield each("ready", "1 while a worker is ready.", lambda w: w.state == WorkerState.RUNNING)
    yield each("restarts", "Restarts of a worker since it was placed here.", lambda w: w.restarts)
    yield each(
        "cpu_seconds_total", "Processor time of a worker and its children.", lambda w: w.cpu_s, "counter"
    )
    yield each("resident_memory_bytes", "Resident memory of a worker and its children.", lambda w: w.rss)
    yield each(
        "uptime_seconds", "Since its process was started.", lambda w: w.uptime_ms and w.uptime_ms / 1000
    )
    yield each("mesh_peers", "Workers that one of a meshed group is to be connected to.", _peers)
    yield each("mesh_peers_connected", "Those of them that it is connected to.", _connected)
    yield from _links(now)


def _peers(worker: ReportedWorker) -> float | None:
    return None if worker.mesh is UNSET else worker.mesh.of


def _connected(worker: ReportedWorker) -> float | None:
    return None if worker.mesh is UNSET else worker.mesh.connected


def _links(now: NodeSnapshot) -> Iterator[Family]:
    """What passes between this node's workers and each other of their mesh."""
    told = [
        ((cluster, name, peer), link) for cluster, name, links in now.links for peer, link in links.items()
    ]

    def each(name: str, text: str, value: Callable[[MeshLink], float | None], kind: str = "gauge") -> Family:
        samples = [(key, float(number)) for key, link in told if (number := value(link)) is not None]
        return Family(f"busbar_agent_mesh_{name}", text, (*_WORKER, "peer"), samples, kind)

    received = "Messages that a worker has got from another of its mesh, since they are connected."
    yield each("messages_received_total", received, lambda link: link.messages_in, "counter")
    sent = "Messages that a worker has sent to another of its mesh, since they are connected."
    yield each("messages_sent_total", sent, lambda link: link.messages_out, "counter")
    yield each(
        "pending_bytes", "Bytes that wait in a worker for another of its mesh.", lambda link: link.pending
    )
    yield each(
        "round_trip_seconds", "Round trip to another of its mesh, as last measured.", lambda link: link.rtt_s
    )


def serve(
    host: str, port: int, snapshot: Callable[[], NodeSnapshot], link: Link, **facts: str
) -> MetricsServer:
    """Serve on this address. Called on the event loop.

    Raises:
        OSError: the address can't be had.
    """

    def now() -> Iterator[Family]:
        yield from families(snapshot())
        yield from connection(connected=link.connected, attempts=link.conn)

    def unready() -> str | None:
        if not link.connected:
            return "not connected to the broker; its workers go on"
        refused = snapshot().refused
        return f"the assignment is refused: {refused}" if refused else None

    return MetricsServer(host, port, Source(now, unready, service="agent", **facts), CollectorRegistry())
