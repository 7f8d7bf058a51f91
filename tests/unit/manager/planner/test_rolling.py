"""Rollouts, planned from snapshots: which worker is replaced when, what blocks and what completes them."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.states import ClusterState, WorkerState
from busbar.manager.planner import model as m
from busbar.manager.planner import rolling
from busbar.manager.planner.plan import plan
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.manager.planner.fleets import (
    NOW,
    REFUSED,
    REFUSES,
    TRANSPORT,
    Simulator,
    cluster,
    group,
    node,
    of_kind,
    snapshot,
    worker,
)


def updating(scale: int = 4, revision: int = 2, nodes: int = 2, **more: Any) -> Simulator:
    """A running group over some nodes, told to run a newer revision."""
    names = [f"n{number + 1}" for number in range(nodes)]
    workers = [worker("web", i + 1, on=names[i % nodes]) for i in range(scale)]
    made = group("web", scale, workers, revision=revision, **more)
    return Simulator(snapshot([node(name) for name in names], cluster(made, members=names)))


def of(sim: Simulator) -> m.GroupView:
    return sim.cluster().groups[0]


def ready(sim: Simulator) -> int:
    return sum(1 for w in sim.workers() if w.state is WorkerState.RUNNING)


def replaced(actions: list[m.Action]) -> list[str]:
    return [action.worker_oid for action in actions if isinstance(action, m.Replace)]


def test_one_worker_at_a_time_is_replaced_in_place_until_the_rollout_is_complete() -> None:
    sim = updating(3)
    homes = {w.oid: w.node_oid for w in sim.workers()}
    seen = []
    for number in (1, 2, 3):
        actions = sim.settle()
        seen += replaced(actions)
        assert replaced(actions) == [f"web-{number}"] and ready(sim) == 2
        one = sim.worker(f"web-{number}")
        assert (one.state, one.generation, one.revision) == (WorkerState.STARTING, 2, 2)
        sim.obey()
    actions = sim.settle()
    assert [action.revision for action in of_kind(actions, m.CompleteRollout)] == [2]  # type: ignore[union-attr]
    assert of(sim).settled == 2 and sim.step() == []
    assert {w.oid: w.node_oid for w in sim.workers()} == homes


def test_a_worker_whose_node_does_not_accept_the_transport_moves_or_stays_as_it_is() -> None:
    sim = updating(2, transport=TRANSPORT)
    sim.change_node("n1", schemas={"amqtt": REFUSES})
    actions = sim.settle()
    (moved,) = of_kind(actions, m.Unassign)
    why = f"update to revision 2, whose transport n1 does not accept ({REFUSED})"
    assert (moved.worker_oid, moved.reason) == ("web-1", why)  # type: ignore[union-attr]
    for _ in range(6):
        sim.obey()
        sim.settle()
    assert {w.node_oid for w in sim.workers()} == {"n2"} and of(sim).settled == 2
    alone = updating(2, transport=TRANSPORT)
    alone.change_node("n1", schemas={"amqtt": REFUSES})
    alone.change_node("n2", max_workers=1)
    for _ in range(6):
        alone.settle()
        alone.obey()
    assert [(w.node_oid, w.revision, w.state) for w in alone.workers()] == [
        ("n1", 1, WorkerState.RUNNING),
        ("n2", 2, WorkerState.RUNNING),
    ]
    why = f"n1 does not accept its transport ({REFUSED}); n2 is full (1/1 workers)"
    assert of(alone).held_back == f"web-1 stays as it is: {why}"


def test_max_unavailable_workers_are_replaced_together() -> None:
    sim = updating(5, max_unavailable=3)
    assert len(replaced(sim.settle())) == 3 and ready(sim) == 2


def test_a_surge_keeps_as_many_workers_ready_as_the_scale() -> None:
    sim = updating(2, max_unavailable=0, max_surge=1)
    actions = sim.settle()
    assert [a.ordinal for a in of_kind(actions, m.CreateWorker)] == [3]  # type: ignore[union-attr]
    assert not replaced(actions), "before the surge is ready nothing can be spared"
    for oid in ("web-1", "web-2"):
        sim.obey()
        assert replaced(sim.settle()) == [oid]
        assert ready(sim) == 2 and sim.cluster().status is ClusterState.RUNNING
    sim.obey()
    assert "web-3" in [a.worker_oid for a in of_kind(sim.settle(), m.Unassign)]  # type: ignore[union-attr]
    sim.obey()
    sim.settle()
    assert {w.oid for w in sim.workers()} == {"web-1", "web-2"} and of(sim).settled == 2


def test_a_worker_that_does_not_become_ready_blocks_the_rollout_and_is_named() -> None:
    sim = updating(3)
    sim.settle()
    sim.report("web-1", "BACKOFF")
    for _ in range(3):
        assert not replaced(sim.settle())
    assert ready(sim) == 2 and of(sim).settled == 1
    (told,) = [a for a in plan(_with_status(sim, "RUNNING"), sim.now) if isinstance(a, m.SetGroup)]
    assert told.reason.startswith(
        "update to revision 2: 1 of 3 workers; 2 of 3 workers are ready; web-1 is BACK"
    )


def _with_status(sim: Simulator, status: str) -> m.Snapshot:
    again = Simulator(sim.snapshot)
    again.change_group("web", status=ClusterState(status))
    return again.snapshot


def test_an_outdated_worker_that_failed_is_not_replaced_while_the_rollout_is_blocked() -> None:
    """Its agent restarts it with the old revision; the new one does not become ready."""
    sim = updating(3)
    sim.settle()
    sim.report("web-1", "BACKOFF")
    sim.settle()
    sim.report("web-3", "BACKOFF")
    assert not replaced(sim.settle())


def test_workers_that_are_not_ready_are_replaced_first() -> None:
    sim = updating(3)
    sim.report("web-2", "BACKOFF")
    assert replaced(sim.settle()) == ["web-2"], "the ready ones wait: two of three are ready already"
    sim.obey()
    assert replaced(sim.settle()) == ["web-1"]


def test_a_newer_revision_supersedes_a_blocked_rollout() -> None:
    sim = updating(3)
    sim.settle()
    sim.report("web-1", "BACKOFF")
    sim.settle()
    sim.change_group("web", revision=3)
    assert replaced(sim.settle()) == ["web-1"], "the broken one first"
    for oid in ("web-2", "web-3"):
        sim.obey()
        assert replaced(sim.settle()) == [oid]
    sim.obey()
    sim.settle()
    assert {w.revision for w in sim.workers()} == {3} and of(sim).settled == 3


def test_workers_of_a_silent_node_wait_and_evicted_ones_get_the_newest_revision() -> None:
    sim = updating(3, nodes=3)
    sim.pass_time(16, silent=["n3"])
    assert not replaced(sim.settle()), "one is missing already"
    assert sim.worker("web-3").state is WorkerState.UNKNOWN
    sim.pass_time(40, silent=["n3"])
    sim.settle()
    moved = sim.worker("web-3")
    assert (moved.node_oid in ("n1", "n2"), moved.revision) == (True, 2)
    for _ in range(3):
        sim.obey()
        sim.pass_time(1, silent=["n3"])
        sim.settle()
    assert of(sim).settled == 2 and {w.revision for w in sim.workers()} == {2}


def test_an_unknown_worker_is_not_replaced_before_its_node_has_reported_it() -> None:
    sim = updating(2, max_unavailable=2)
    sim.change_group("web", workers=tuple(worker("web", i, "UNKNOWN", on="n1") for i in (1, 2)))
    assert not replaced(sim.settle())


def test_a_worker_moves_when_its_node_lacks_the_new_runtime() -> None:
    offers = [node("n1"), node("n2", runtimes=frozenset({"amqtt", "mosquitto"}))]
    made = group("web", 1, [worker("web", 1, on="n1")], revision=2, runtime="mosquitto")
    sim = Simulator(snapshot(offers, cluster(made, members=["n1", "n2"])))
    (moved,) = of_kind(sim.settle(), m.Unassign)
    assert "n1 does not offer" in moved.reason
    sim.obey()
    sim.settle()
    assert (sim.worker("web-1").node_oid, sim.worker("web-1").revision) == ("n2", 2)


def test_a_rollout_is_blocked_until_a_node_offers_the_runtime() -> None:
    sim = updating(2, runtime="mosquitto")
    (held,) = of_kind(sim.settle(), m.BlockRollout)
    assert "no node offers runtime 'mosquitto'" in (of(sim).held_back or "") and held.reason
    assert ready(sim) == 2
    for name in ("n1", "n2"):
        offered = node(name, runtimes=frozenset({"mosquitto"}))
        sim.snapshot = snapshot([*sim.snapshot.nodes.values(), offered], sim.cluster())
    assert len(replaced(sim.settle())) == 1 and of(sim).held_back is None


def test_a_rollout_is_blocked_by_the_hold() -> None:
    made = group("web", 3, [worker("web", 1, on="n1")], revision=2)
    nodes = [node("n1"), node("n2", "lost", 40), node("n3", "lost", 40)]
    sim = Simulator(snapshot(nodes, cluster(made, members=["n1"])))
    sim.change_group("web", scale=1)
    assert not replaced(sim.settle())
    assert "nothing is moved" in (of(sim).held_back or "")


def test_a_stopped_cluster_takes_the_new_revision_with_its_next_start() -> None:
    stopped = [worker("web", 1, "STOPPED", revision=1), worker("web", 2, "STOPPED", revision=1)]
    made = group("web", 2, stopped, "STOPPED", revision=2, max_surge=2)
    sim = Simulator(snapshot([node("n1")], cluster(made, members=["n1"], status="STOPPED")))
    assert sim.step() == []
    sim.change_cluster(status=ClusterState.STARTING)
    sim.settle()
    assert [w.revision for w in sim.workers()] == [2, 2], "and nothing above the scale: nobody serves yet"
    sim.obey()
    sim.settle()
    assert of(sim).settled == 2


def test_a_surge_worker_is_released_for_one_that_no_node_admits() -> None:
    """A node is gone for good: the others have room for the scale, but not for the surge."""
    room = [m.MemberView("n1", hardlimit=2)]
    workers = [
        worker("web", 1, on="n1", revision=2),
        worker("web", 2, "PENDING", revision=2, reason="no room"),
        worker("web", 3, on="n1", revision=2),
    ]
    made = group("web", 2, workers, revision=2, max_surge=1)
    sim = Simulator(snapshot([node("n1")], cluster(made, members=room)))
    for _ in range(4):
        sim.settle()
        sim.obey()
    sim.settle()
    assert {w.oid for w in sim.workers()} == {"web-1", "web-2"} and of(sim).settled == 2


# --- the budget itself


def budget(*workers: m.WorkerView, **more: Any) -> rolling.DisruptionBudget:
    """Of a group of four, told to run revision 2."""
    made = group("web", 4, workers, **{"revision": 2, **more})
    return rolling.disruption_budget(made, workers)


@pytest.mark.parametrize(
    ("state", "revision", "in_flight"),
    [
        ("RUNNING", 1, 0),
        ("RUNNING", 2, 0),
        ("STOPPING", 1, 1),
        ("STOPPING", 2, 1),
        ("STARTING", 2, 1),
        ("BACKOFF", 2, 1),
        ("UNKNOWN", 2, 1),
        ("STARTING", 1, 0),
        ("BACKOFF", 1, 0),
        ("PENDING", 2, 0),
        ("STOPPED", 2, 0),
    ],
)
def test_what_is_being_stopped_or_started_is_in_flight(state: str, revision: int, in_flight: int) -> None:
    found = budget(worker("web", 1, state, on="n1", revision=revision))
    assert (found.in_flight, found.ready) == (in_flight, int(state == "RUNNING"))
    assert (found.least, found.most) == (3, 1)


def test_a_worker_that_is_stopping_uses_up_the_budget() -> None:
    others = [worker("web", ordinal, on="n1") for ordinal in (1, 2, 3)]
    found = budget(*others, worker("web", 4, "STOPPING", on="n1"))
    assert not any(found.allows(each) for each in others)
    found = budget(*others, worker("web", 4, "STOPPING", on="n1"), max_unavailable=2)
    assert found.allows(others[0])
    found.spend(others[0])
    assert (found.ready, found.in_flight) == (2, 2) and not found.allows(others[1])


def test_what_is_not_ready_needs_no_budget_but_a_place_in_flight() -> None:
    broken = worker("web", 4, "BACKOFF", on="n1")
    found = budget(*[worker("web", ordinal, on="n1") for ordinal in (1, 2, 3)], broken)
    assert found.allows(broken) and not found.allows(worker("web", 1, on="n1"))
    found.spend(broken)
    assert (found.ready, found.in_flight) == (3, 1) and not found.allows(broken)


def test_surplus_workers_and_those_that_can_not_be_heard_are_not_ready() -> None:
    workers = [worker("web", ordinal, on="n1") for ordinal in (1, 2, 5)]
    made = group("web", 4, workers, revision=2)
    assert rolling.disruption_budget(made, workers[1:]).ready == 1
    assert rolling.ready_of(made) == 2


def test_slots_of_a_surge_are_opened_for_what_is_outdated_and_kept_to_the_end() -> None:
    old = [worker("web", ordinal, on="n1") for ordinal in (1, 2)]
    new = [worker("web", ordinal, on="n1", revision=2) for ordinal in (1, 2)]

    def slots(*workers: m.WorkerView, **more: Any) -> int:
        return rolling.slots(group("web", 2, workers, **{"revision": 2, "max_surge": 3, **more}))

    assert slots(*old) == 4, "as many as are outdated"
    assert slots(*old, max_surge=1) == 3
    assert slots(*new) == 2
    assert slots(*new, worker("web", 4, on="n1", revision=2)) == 4
    assert slots(*new, worker("web", 4, "STOPPED")) == 2
    assert slots(*new, worker("web", 9, on="n1", revision=2)) == 2, "beyond every surge"
    assert slots(*old, revision=1) == 2, "no update is under way"


def test_a_rollout_is_complete_when_all_within_the_scale_are_ready_with_the_revision() -> None:
    new = [worker("web", ordinal, on="n1", revision=2) for ordinal in (1, 2)]
    made = group("web", 2, new, revision=2)
    assert rolling.is_complete(made, new) and rolling.updated(made) == 2
    assert not rolling.is_complete(made, new[:1])
    for state in ("STARTING", "STOPPING"):
        assert not rolling.is_complete(made, [new[0], worker("web", 2, state, on="n1", revision=2)])
    assert not rolling.is_complete(
        made, [new[0], worker("web", 2, on="n1"), worker("web", 3, on="n1", revision=2)]
    )
    counted = [new[0], worker("web", 2, "STOPPED", revision=2), worker("web", 3, on="n1", revision=2)]
    assert rolling.updated(group("web", 2, counted, revision=2)) == 1
    assert rolling.progress(2, 1, 3) == "update to revision 2: 1 of 3 workers"


# --- properties


@st.composite
def lives(draw: st.DrawFn) -> tuple[Simulator, list[Any]]:
    """A group with some workers ready, and faults during its rollout."""
    scale = draw(st.integers(1, 6))
    unavailable, surge = draw(
        st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 0), (0, 3), (3, 2), (10, 0), (0, 10)])
    )
    sim = updating(scale, nodes=draw(st.integers(1, 3)), max_unavailable=unavailable, max_surge=surge)
    befall = st.one_of(
        st.tuples(st.just("obey"), st.integers(0, 15)),
        st.tuples(st.sampled_from(["fails", "ready", "gone"]), st.integers(0, 15)),
        st.tuples(st.just("update"), st.just(0)),
        st.tuples(st.just("scale"), st.integers(0, 6)),
    )
    return sim, draw(st.lists(befall, max_size=12))


def befalls(sim: Simulator, what: str, number: int) -> None:
    placed = [w for w in sim.workers() if w.state in rolling.ASSIGNED]
    if what == "obey":
        sim.obey()
    elif what == "update":
        sim.change_group("web", revision=of(sim).revision + 1)
    elif what == "scale":
        sim.change_group("web", scale=number)
    elif what == "gone":
        for each in [w for w in sim.workers() if w.state is WorkerState.STOPPING]:
            sim.report(each.oid, "STOPPED")
    elif placed:
        sim.report(placed[number % len(placed)].oid, "BACKOFF" if what == "fails" else "RUNNING")


def check_pass(before: m.Snapshot, actions: list[m.Action]) -> None:
    """One pass keeps the disruption budget, counted anew from the snapshot."""
    view = before.clusters["edge"].groups[0]
    by_oid = {w.oid: w for w in view.workers}
    serving = {w.oid for w in view.workers if w.state is WorkerState.RUNNING}
    taken = {a.worker_oid for a in actions if isinstance(a, m.Replace)}
    surplus = {
        a.worker_oid
        for a in actions
        if isinstance(a, m.Unassign) and by_oid[a.worker_oid].ordinal > view.scale
    }
    left = serving - taken - surplus
    if taken & serving:
        assert len(left) >= view.scale - view.max_unavailable, "more were taken than can be spared"
    assert all(by_oid[oid].revision != view.revision for oid in taken)
    living = [w for w in view.workers if w.state in rolling.ASSIGNED]
    made = [a for a in actions if isinstance(a, m.Place | m.CreateWorker)]
    if made:
        new = {a.ordinal for a in made if isinstance(a, m.CreateWorker)}
        new |= {by_oid[a.worker_oid].ordinal for a in made if isinstance(a, m.Place)}
        assert max(new) <= view.scale + view.max_surge
        assert len({w.ordinal for w in living if w.oid not in surplus} | new) <= view.scale + view.max_surge


@settings(max_examples=250, deadline=None)
@given(lives())
def test_a_rollout_keeps_its_disruption_budget_and_completes(life: tuple[Simulator, list[Any]]) -> None:
    sim, befallen = life
    for what, number in befallen:
        for _ in range(12):
            before = sim.snapshot
            actions = sim.step()
            check_pass(before, actions)
            if not actions:
                break
        assert plan(sim.snapshot, sim.now) == [], "the plan does not come to rest"
        befalls(sim, what, number)
    for _ in range(30):  # all goes well from now on
        before = sim.snapshot
        actions = sim.step()
        check_pass(before, actions)
        sim.obey()
    sim.settle()
    view = of(sim)
    assert view.settled == view.revision and {w.revision for w in view.workers} <= {view.revision}
    assert [w.ordinal for w in view.workers] == list(range(1, view.scale + 1))
    assert sim.cluster().status is ClusterState.RUNNING and sim.now >= NOW


@pytest.mark.parametrize("status", ["STOPPING", "PAUSED"])
def test_only_a_started_cluster_is_updated(status: str) -> None:
    sim = updating(2)
    sim.change_cluster(status=ClusterState(status))
    assert not replaced(sim.settle())
