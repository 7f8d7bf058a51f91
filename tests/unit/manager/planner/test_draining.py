"""Draining a node, planned from snapshots: which worker moves when, which stays and why."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.states import WorkerState
from busbar.manager.planner import draining
from busbar.manager.planner import model as m
from busbar.manager.planner.plan import plan
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import Simulator, cluster, group, node, of_kind, snapshot, worker


def fleet(homes: str, *, draining: str = "n1", members: Any = ("n1", "n2", "n3"), **more: Any) -> Simulator:
    """A running group with a worker on each of these nodes (`"12"`: n1 and n2); one node is draining."""
    workers = [worker("web", i, on=f"n{home}") for i, home in enumerate(homes, 1)]
    nodes = [node(name, draining=name == draining) for name in ("n1", "n2", "n3")]
    return Simulator(snapshot(nodes, cluster(group("web", len(homes), workers, **more), members=members)))


def left(actions: list[m.Action]) -> list[str]:
    return [action.worker_oid for action in actions if isinstance(action, m.Unassign)]


def note(sim: Simulator, name: str = "n1") -> str:
    return sim.snapshot.nodes[name].drain_note or ""


def test_workers_are_moved_one_after_the_other_until_the_node_is_drained() -> None:
    sim = fleet("1112")
    for oid in ("web-1", "web-2", "web-3"):
        assert left(sim.settle()) == [oid]
        of = sum(w.node_oid == "n1" for w in sim.workers())
        assert note(sim).startswith("1 worker is to move" if of == 1 else f"{of} workers are to move")
        sim.obey()  # it is gone
        assert not left(sim.settle()), "the next waits until this one is ready again"
        sim.obey()
    sim.settle()
    assert note(sim) == "drained" and sim.step() == []
    assert {w.node_oid for w in sim.workers()} <= {"n2", "n3"}


def test_one_worker_of_each_group_moves_at_a_time() -> None:
    groups = [group(name, 2, [worker(name, i, on="n1") for i in (1, 2)]) for name in ("api", "web")]
    nodes = [node("n1", draining=True), node("n2")]
    sim = Simulator(snapshot(nodes, cluster(*groups, members=["n1", "n2"])))
    assert left(sim.settle()) == ["api-1", "web-1"]


def test_a_worker_stays_when_no_other_node_admits_it_and_the_note_says_why() -> None:
    sim = fleet("12", members=[m.MemberView("n1"), m.MemberView("n2", hardlimit=1)])
    assert not left(sim.settle())
    assert note(sim) == (
        "1 worker is to move; edge/web-1 stays: n1 is draining; n2 is at its hardlimit (1/1)"
    )
    sim.change_cluster(members=(m.MemberView("n1"), m.MemberView("n2")))
    assert left(sim.settle()) == ["web-1"]


def test_a_drain_keeps_all_but_one_worker_of_a_group_ready() -> None:
    sim = fleet("1123")
    sim.report("web-3", "BACKOFF")
    assert not left(sim.settle())
    assert "edge/web-1 stays: 3 of 4 workers of group web are ready" in note(sim)
    sim.report("web-3", "RUNNING")
    assert left(sim.settle()) == ["web-1"]


def test_a_single_worker_moves_too() -> None:
    sim = fleet("1")
    assert left(sim.settle()) == ["web-1"]


def test_workers_that_are_not_ready_move_first() -> None:
    sim = fleet("113")
    sim.report("web-2", "BACKOFF")
    assert left(sim.settle()) == ["web-2"]


def test_a_draining_node_admits_no_worker() -> None:
    sim = fleet("2", members=["n1"])
    sim.change_cluster(members=(m.MemberView("n1"),))
    sim.settle()
    sim.obey()
    sim.settle()
    assert sim.worker("web-1").state is WorkerState.PENDING
    assert sim.worker("web-1").reason == "n1 is draining"
    sim.change_node("n1", draining=False, drain_note=None)
    sim.settle()
    assert sim.worker("web-1").node_oid == "n1"


def test_a_draining_node_that_is_lost_is_drained_when_it_returns() -> None:
    sim = fleet("1123")
    sim.pass_time(16, silent=["n1"])
    assert not left(sim.settle()), "nothing is asked of a node that can't be heard"
    assert {w.state for w in sim.workers() if w.node_oid == "n1"} == {WorkerState.UNKNOWN}
    sim.pass_time(1)
    sim.settle()
    assert not left(sim.settle()), "heard again; how its workers are is not known yet"
    for oid in ("web-1", "web-2"):
        sim.report(oid, "RUNNING")
    assert left(sim.settle()) == ["web-1"]


def test_an_evicted_node_is_drained_only_once_it_has_confirmed_its_assignment() -> None:
    sim = fleet("123")
    sim.pass_time(70, silent=["n1"])
    sim.settle()
    assert sim.worker("web-1").node_oid in ("n2", "n3")
    assert note(sim) == "nothing is assigned to it; it has not confirmed that"
    sim.change_node("n1", applied=False)
    sim.pass_time(1)
    sim.settle()
    assert note(sim) == "nothing is assigned to it; it has not confirmed that"
    sim.change_node("n1", applied=True)
    sim.settle()
    assert note(sim) == "drained"


def test_a_drained_node_stays_drained_while_a_later_assignment_without_workers_is_on_its_way() -> None:
    """Such as the one that takes a mesh from it whose last worker there has stopped."""
    sim = fleet("123")
    sim.pass_time(70, silent=["n1"])
    sim.settle()
    sim.pass_time(1)
    sim.change_node("n1", applied=True)
    sim.settle()
    assert note(sim) == "drained"
    sim.change_node("n1", applied=False)
    assert not sim.settle() and note(sim) == "drained"


def test_a_rollout_moves_workers_off_a_draining_node() -> None:
    sim = fleet("12", revision=2)
    actions = sim.settle()
    assert left(actions) == ["web-1"] and not of_kind(actions, m.Replace)
    for _ in range(6):
        sim.obey()
        sim.settle()
    assert {w.node_oid for w in sim.workers()} == {"n2", "n3"}
    assert {w.revision for w in sim.workers()} == {2}


def test_a_rollout_replaces_in_place_a_worker_that_can_not_leave_a_draining_node() -> None:
    sim = fleet("1", revision=2, members=["n1"])
    assert [action.worker_oid for action in sim.settle() if isinstance(action, m.Replace)] == ["web-1"]
    sim.obey()
    sim.settle()
    assert sim.cluster().groups[0].settled == 2 and "edge/web-1 stays" in note(sim)


def test_a_drain_is_blocked_by_the_hold() -> None:
    workers = [worker("web", 1, on="n1")]
    nodes = [node("n1", draining=True), node("n4"), node("n2", "lost", 40), node("n3", "lost", 40)]
    nodes += [node("n5", "lost", 41)]
    sim = Simulator(snapshot(nodes, cluster(group("web", 1, workers), members=["n1", "n4"])))
    assert not left(sim.settle())
    assert "nothing is moved" in note(sim)


@pytest.mark.parametrize("revision", [1, 2])
def test_while_one_is_leaving_no_other_leaves(revision: int) -> None:
    """Also when all that is asked for is ready: with the surge of an update there is one more."""
    leaving = worker("web", 1, "STOPPING", on="n1")
    others = [worker("web", i, on=f"n{min(i, 2)}", revision=revision) for i in (2, 3, 4)]
    made = group("web", 3, [leaving, *others], revision=revision, max_surge=1)
    assert draining.blocker(made, others, others[0]) == "web-1 is leaving"
    broken = worker("web", 2, "BACKOFF", on="n1", revision=revision)
    assert draining.blocker(group("web", 3, [leaving, broken]), [broken], broken) == "web-1 is leaving"
    gone = group("web", 3, [replace(leaving, ordinal=9), *others], revision=revision, max_surge=1)
    assert (draining.blocker(gone, others, others[0]) is None) == (revision == 2), (
        "a surplus one is no matter"
    )


def test_a_ready_worker_stays_while_another_is_not_ready() -> None:
    ready, broken = worker("web", 1, on="n1"), worker("web", 2, "BACKOFF", on="n2")
    made = group("web", 2, [ready, broken])
    assert draining.blocker(made, [ready, broken], ready) == "1 of 2 workers of group web are ready"
    assert draining.blocker(made, [ready, broken], broken) is None
    both = [ready, worker("web", 2, on="n2")]
    assert draining.blocker(group("web", 2, both), both, ready) is None
    assert draining.blocker(group("web", 2, both), both[:1], ready) is not None, "the other is not heard"
    surplus = [ready, broken, worker("web", 3, on="n2")]
    assert draining.blocker(group("web", 2, surplus), surplus, ready) is not None, "and a surplus one no help"


def test_two_nodes_are_drained_one_worker_at_a_time() -> None:
    """In one pass and over passes, whatever the order in which nodes and workers come."""
    workers = [worker("web", i, on=f"n{i}") for i in (1, 2)] + [worker("web", 3, on="n3")]
    nodes = [node("n1", draining=True), node("n2", draining=True), node("n3")]
    sim = Simulator(snapshot(nodes, cluster(group("web", 3, workers), members=["n1", "n2", "n3"])))
    assert left(sim.step()) == ["web-1"]
    assert left(sim.settle()) == []
    sim.obey()
    assert left(sim.settle()) == [] and "web-2 stays: 2 of 3 workers" in note(sim, "n2")
    sim.obey()
    assert left(sim.settle()) == ["web-2"]


def test_a_paused_cluster_is_left_alone() -> None:
    sim = fleet("1")
    sim.change_cluster(status=type(sim.cluster().status)("PAUSED"))
    assert not left(sim.settle()) and note(sim) == "1 worker is to move"


@settings(max_examples=200, deadline=None)
@given(
    homes=st.text("123", min_size=1, max_size=6),
    befallen=st.lists(
        st.tuples(st.sampled_from(["fails", "ready", "obey", "drain", "undrain"]), st.integers(0, 11)),
        max_size=10,
    ),
)
def test_a_drain_keeps_all_but_one_worker_ready_and_completes(
    homes: str, befallen: list[tuple[str, int]]
) -> None:
    sim = fleet(homes)
    for what, number in befallen:
        for _ in range(10):
            before = sim.snapshot
            actions = sim.step()
            check(before, actions)
            if not actions:
                break
        assert plan(sim.snapshot, sim.now) == []
        placed = [w for w in sim.workers() if w.node_oid and w.state is not WorkerState.STOPPING]
        if what == "obey":
            sim.obey()
        elif what in ("drain", "undrain"):
            sim.change_node(f"n{number % 2 + 1}", draining=what == "drain", drain_note=None)
        elif placed:
            sim.report(placed[number % len(placed)].oid, "BACKOFF" if what == "fails" else "RUNNING")
    for _ in range(4 * len(homes) + 4):
        before = sim.snapshot
        check(before, sim.step())
        sim.obey()
    sim.settle()
    busy = {w.node_oid for w in sim.workers()}
    for each in sim.snapshot.nodes.values():
        assert not each.draining or (each.oid not in busy and each.drain_note == "drained")


def check(before: m.Snapshot, actions: list[m.Action]) -> None:
    """One pass, counted anew: at most one worker moves, and no ready one while others are not."""
    view = before.clusters["edge"].groups[0]
    gone = left(actions)
    assert len(gone) <= 1
    ready = {w.oid for w in view.workers if w.state is WorkerState.RUNNING}
    if gone and gone[0] in ready:
        assert len(ready) - 1 >= view.scale - 1
