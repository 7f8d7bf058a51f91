"""Workers that can't start where they are."""

from __future__ import annotations

import pytest
from busbar.manager.planner import model as m
from busbar.manager.planner.failing import AVOID_S, TRY_S
from busbar.manager.planner.plan import plan

from tests.unit.manager.planner.fleets import NOW, Simulator, cluster, group, node, of_kind, snapshot, worker

LONG = NOW - TRY_S
pytestmark = pytest.mark.fault(111, "C")


def failing(ordinal: int, on: str, since: float = LONG, **more: object) -> m.WorkerView:
    return worker("web", ordinal, "BACKOFF", on=on, failing_since=since, **more)


def relocated(*workers: m.WorkerView, nodes: int = 3, avoided: object = None, **more: object) -> list[str]:
    """`worker>node` of those that leave a node in the next pass."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    of = cluster(group("web", len(workers), workers, **more), members=names)
    actions = plan(snapshot(map(node, names), of, avoided=avoided or {}), NOW)
    return [f"{a.worker_oid}<{a.node_oid}" for a in actions if isinstance(a, m.Relocate)]


def test_it_is_tried_elsewhere_after_a_while() -> None:
    assert relocated(worker("web", 1, on="n1"), failing(2, "n2")) == ["web-2<n2"]
    assert relocated(worker("web", 1, on="n1"), failing(2, "n2", LONG + 1)) == []


def test_one_at_a_time() -> None:
    assert relocated(failing(1, "n1"), failing(2, "n1"), failing(3, "n1")) == ["web-1<n1"]
    assert relocated(failing(1, "n1"), worker("web", 2, "STOPPING", on="n1")) == []


def test_what_fails_everywhere_stays() -> None:
    assert relocated(failing(1, "n1"), failing(2, "n2"), nodes=2) == []
    assert relocated(failing(1, "n1"), failing(2, "n2", NOW), nodes=2) == [], (
        "it has just begun to fail there"
    )
    assert relocated(failing(1, "n1"), nodes=1) == []
    assert relocated(failing(1, "n1"), nodes=2, avoided={("web", "n2"): NOW + 1}) == []


def test_a_new_revision_that_is_ready_nowhere_is_the_likelier_cause() -> None:
    bad, more = failing(1, "n1", revision=2), {"revision": 2, "settled": 1, "nodes": 2}
    assert relocated(bad, worker("web", 2, on="n2", revision=1), **more) == []  # type: ignore[arg-type]
    assert relocated(bad, worker("web", 2, on="n2", revision=2), **more) == ["web-1<n1"]  # type: ignore[arg-type]


def test_an_avoided_node_is_taken_only_where_no_other_has_room() -> None:
    avoided = {("web", "n1"): NOW + AVOID_S}
    nodes = [node("n1"), node("n2", max_workers=1)]
    sim = Simulator(snapshot(nodes, cluster(group("web", 2), members=["n1", "n2"]), avoided=avoided))
    sim.settle()
    assert [each.node_oid for each in sim.workers()] == ["n2", "n1"]


def test_it_comes_to_an_end() -> None:
    """It leaves, is reported gone, starts elsewhere; no pass has it move again."""
    of = cluster(group("web", 1, [failing(1, "n1")]), members=["n1", "n2"])
    sim = Simulator(snapshot([node("n1"), node("n2")], of))
    assert of_kind(sim.step(), m.Relocate)
    sim.change_group("web", workers=(worker("web", 1, "STOPPED", last_node_oid="n1"),))
    sim.snapshot = snapshot(
        sim.snapshot.nodes.values(), sim.cluster(), avoided={("web", "n1"): NOW + AVOID_S}
    )
    (placed,) = of_kind(sim.settle(), m.Place)
    assert isinstance(placed, m.Place) and placed.node_oid == "n2"
    assert "a worker of the group could not start on n1" in placed.reason
