"""When the next decision is due: until then an empty plan stays empty."""

from __future__ import annotations

import math

import pytest
from busbar.bus.states import Leaves
from busbar.manager.planner import model as m
from busbar.manager.planner.deadlines import next_due
from busbar.manager.planner.plan import plan
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, TIMING, Simulator, cluster, group, node, snapshot, worker
from tests.unit.manager.planner.test_model_properties import some_fleet, troubled_fleet

GRAIN = 1e-6
"""Seconds after a limit by which rounding has surely let it pass."""
GRACE = replace(TIMING, grace_until=NOW + 20)


def _due(*nodes: m.NodeView, timing: m.LivenessTiming = TIMING) -> float:
    return next_due(snapshot(nodes, timing=timing), NOW) - NOW


@pytest.mark.parametrize(
    ("view", "timing", "expected"),
    [
        (node("n1"), TIMING, 15),
        (node("n1", silence=4), TIMING, 11),
        (node("n1", "late", silence=16), TIMING, 14),
        (node("n1", "lost", silence=31), TIMING, math.inf),
        (node("n1", "offline", silence=2, goodbye=True), TIMING, 28),
        (node("n1", "offline", silence=31, goodbye=True, leaves=Leaves.RUNNING), TIMING, 86_369),
        (node("n1", "unpaired", silence=2), TIMING, 28),
        (node("n1", "unpaired", silence=31), TIMING, math.inf),
        # The doubled limit is due before the grace ends, or the plain one has passed when it ends.
        (node("n1", silence=14), GRACE, 16),
        (node("n1", silence=6), GRACE, 20),
        (node("n1"), GRACE, 20),
        (node("n1"), replace(TIMING, grace_until=NOW + 2), 15),
    ],
)
def test_a_node_is_due_at_its_limit(view: m.NodeView, timing: m.LivenessTiming, expected: float) -> None:
    assert _due(view, timing=timing) == pytest.approx(expected)


def test_the_earliest_limit_is_due() -> None:
    assert _due(node("n1"), node("n2", silence=4), node("n3", "late", silence=28)) == pytest.approx(2)


def test_nothing_is_due_without_nodes_and_clusters() -> None:
    assert next_due(snapshot([]), NOW) == math.inf


def _web(*workers: m.WorkerView, **more: object) -> m.ClusterView:
    return cluster(group("web", len(workers), workers, **more), members=["n1", "n2"])


def test_a_start_deadline_is_due() -> None:
    waiting = _web(worker("web", 1, "STARTING", on="n1"), since=NOW - 10)
    assert next_due(snapshot([node("n1")], waiting), NOW) - NOW == pytest.approx(15)
    late = _web(worker("web", 1, "STARTING", on="n1"), since=NOW - 50)
    assert next_due(snapshot([node("n1")], late), NOW) - NOW == pytest.approx(10)
    ready = _web(worker("web", 1, on="n1"), since=NOW - 50)
    assert next_due(snapshot([node("n1")], ready), NOW) - NOW == pytest.approx(15)


def test_an_eviction_is_due() -> None:
    nodes = [node("n1", "lost", silence=40), node("n2")]
    moved_at_50 = _web(worker("web", 1, "UNKNOWN", on="n1"), worker("web", 2, on="n2"), lost_after=50.0)
    assert next_due(snapshot(nodes, moved_at_50), NOW) - NOW == pytest.approx(10)
    soon = [node("n1", "lost", silence=20), node("n2", silence=0)]
    at_30 = _web(worker("web", 1, "UNKNOWN", on="n1"), worker("web", 2, on="n2"), lost_after=1.0)
    assert next_due(snapshot(soon, at_30), NOW) - NOW == pytest.approx(10)
    elsewhere = _web(worker("web", 1, on="n2"), lost_after=50.0)
    assert next_due(snapshot(nodes, elsewhere), NOW) - NOW == pytest.approx(15)


def _settled(fleet: m.Snapshot) -> Simulator:
    here = Simulator(fleet)
    here.settle()
    return here


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(some_fleet(), troubled_fleet()), st.floats(0, 1), st.sampled_from([0.0, 7.0, 40.0]))
def test_no_plan_changes_before_it_is_due(fleet: m.Snapshot, share: float, grace: float) -> None:
    timing = replace(fleet.timing, grace_until=NOW + grace)
    here = _settled(replace(fleet, timing=timing))
    due = next_due(here.snapshot, NOW)
    assert due > NOW
    until = min(due, NOW + 1000) - GRAIN
    assume(until > NOW)
    assert plan(here.snapshot, NOW + share * (until - NOW)) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(troubled_fleet())
def test_waking_when_due_is_enough_for_a_silent_fleet_to_converge(fleet: m.Snapshot) -> None:
    """Waking at the due times alone misses nothing, and ends."""
    here = _settled(fleet)
    for _ in range(60):
        due = next_due(here.snapshot, here.now)
        if due == math.inf:
            break
        here.now = due + GRAIN
        here.settle()
    else:
        raise AssertionError("it falls due for ever")
    assert plan(here.snapshot, here.now + 10_000) == []
