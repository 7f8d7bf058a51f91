"""What an agent's metrics tell of a mesh."""

from __future__ import annotations

from busbar.agent.planner.mesh_links import MeshLink
from busbar.agent.reporting.metrics import families
from busbar.agent.reporting.reporter import NodeSnapshot
from busbar.bus.messages import MeshSeen, ReportedWorker
from msgspec import UNSET


def test_a_mesh_is_told_by_worker_and_by_link() -> None:
    """A router that does not say with whom it is connected has no series, rather than a wrong one."""
    seen = {"web-1": MeshSeen(2, 1, ["web-3"]), "web-4": MeshSeen(2, None), "api-1": UNSET}
    workers = [ReportedWorker(name, "RUNNING", cluster="edge", mesh=mesh) for name, mesh in seen.items()]
    links = {"web-2": MeshLink(4, 5, 7, 0.0015), "web-3": MeshLink(1)}
    told = {
        family.name.removeprefix("busbar_agent_"): dict(family.samples)
        for family in families(NodeSnapshot(workers, links=[("edge", "web-1", links)]))
    }
    assert told["worker_mesh_peers"] == {("edge", "web-1"): 2, ("edge", "web-4"): 2}
    assert told["worker_mesh_peers_connected"] == {("edge", "web-1"): 1}
    second, third = ("edge", "web-1", "web-2"), ("edge", "web-1", "web-3")
    assert told["mesh_messages_received_total"] == {second: 4, third: 1}
    assert told["mesh_messages_sent_total"] == {second: 5, third: 0}
    assert told["mesh_pending_bytes"] == {second: 7, third: 0}
    assert told["mesh_round_trip_seconds"] == {second: 0.0015}
