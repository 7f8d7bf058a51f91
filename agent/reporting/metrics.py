"""The agent's metrics: its workers as it would report them now, and its connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from busbar.bus.connection.link import Link
from busbar.bus.messages import ReportedWorker
from busbar.bus.metrics import Family, MetricsServer, Source, connection
from busbar.bus.states import WorkerState
from prometheus_client import CollectorRegistry

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
