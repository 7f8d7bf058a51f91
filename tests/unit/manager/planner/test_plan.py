"""Actions for workers: slots, stops, evictions, placements, each with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.states import Leaves, WorkerState
from busbar.manager.planner import model as m
from busbar.manager.planner.plan import by_node, plan
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, Simulator, cluster, group, node, of_kind, snapshot, worker


def actions_of(*args: Any, kinds: tuple[type, ...], **more: object) -> list[m.Action]:
    return of_kind(plan(snapshot(*args, **more), NOW), *kinds)


WORKER_KINDS = (
    m.CreateWorker, m.DropWorker, m.MarkPending, m.Place, m.Unassign, m.Evict, m.MarkUnknown, m.MarkStopped,
)  # fmt: skip


def about(
    workers: list[m.WorkerView], scale: int = 1, status: str = "RUNNING", **more: Any
) -> list[m.Action]:
    """Actions about the workers of group web on n1 (and n2, which is online); `n1` may be overridden."""
    n1 = more.pop("n1", node("n1"))
    members = more.pop("members", ["n1", "n2"])
    of = cluster(group("web", scale, workers, status), members=members, status=status)
    return actions_of([n1, node("n2")], of, kinds=WORKER_KINDS, **more)


# --- slots


def test_missing_slots_are_created_in_a_started_cluster_only() -> None:
    made = about([worker("web", 2, on="n1")], scale=3)
    assert [(a.ordinal, a.reason) for a in made if isinstance(a, m.CreateWorker)] == [
        (1, "n2 is the least loaded node with capacity (0 workers)"),
        (3, "n1 is the least loaded node with capacity (1 worker)"),
    ]
    (stuck,) = about([], scale=1, members=[])
    assert stuck == m.CreateWorker("web", 1, "no node in the cluster")
    assert about([], scale=3, status="STOPPED") == []
    assert about([], scale=3, status="STOPPING") == []
    assert about([], scale=3, status="PAUSED") == []


def test_surplus_slots_are_closed_highest_first() -> None:
    workers = [worker("web", i, on="n1") for i in (1, 2, 3, 4)]
    gone = about(workers, scale=2)
    assert [type(a).__name__ + a.worker_oid for a in gone if not isinstance(a, m.CreateWorker)] == [
        "Unassignweb-4",
        "Unassignweb-3",
    ]


@pytest.mark.parametrize(
    ("state", "on", "kind"),
    [
        ("RUNNING", "n1", m.Unassign),
        ("STARTING", "n1", m.Unassign),
        ("BACKOFF", "n1", m.Unassign),
        ("UNKNOWN", "n1", m.Unassign),
        ("PENDING", None, m.DropWorker),
        ("STOPPED", None, m.DropWorker),
        ("STOPPING", "n1", None),
    ],
)
def test_a_surplus_worker(state: str, on: str | None, kind: type | None) -> None:
    found = about([worker("web", 1, state, on=on)], scale=0)
    assert [type(a) for a in found] == ([kind] if kind else [])
    assert all(a.reason == "group web is scaled to 0" for a in found)


def test_a_stopped_surplus_slot_is_closed_even_while_the_cluster_is_stopped() -> None:
    workers = [worker("web", 1, "STOPPED"), worker("web", 2, "STOPPED")]
    assert about(workers, scale=1, status="STOPPED") == [m.DropWorker("web-2", "group web is scaled to 1")]


def test_a_stopped_worker_of_a_started_cluster_is_pending_again() -> None:
    assert about([worker("web", 1, "STOPPED")]) == [
        m.Place("web-1", "n1", "n1 is the least loaded node with capacity (0 workers)")
    ]
    assert about([worker("web", 1, "STOPPED")], members=[]) == [
        m.MarkPending("web-1", "no node in the cluster")
    ]


# --- stopping


@pytest.mark.parametrize(
    ("state", "on", "kind"),
    [
        ("RUNNING", "n1", m.Unassign),
        ("STARTING", "n1", m.Unassign),
        ("BACKOFF", "n1", m.Unassign),
        ("UNKNOWN", "n1", m.Unassign),
        ("PENDING", None, m.MarkStopped),
        ("STOPPING", "n1", None),
        ("STOPPED", None, None),
    ],
)
@pytest.mark.parametrize("status", ["STOPPING", "STOPPED"])
def test_a_worker_of_a_cluster_that_is_to_stop(
    state: str, on: str | None, kind: type | None, status: str
) -> None:
    found = about([worker("web", 1, state, on=on)], status=status)
    assert [type(a) for a in found] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("n1", "given_up"),
    [
        (node("n1"), False),
        (node("n1", "late", silence=20), False),
        (node("n1", "lost", silence=31), True),
        (node("n1", "offline", silence=29, goodbye=True), False),
        (node("n1", "offline", silence=30, goodbye=True), True),
        (node("n1", "unpaired", silence=29), False),
        (node("n1", "unpaired", silence=30), True),
        (node("n1", "unpaired", silence=1, goodbye=True), False),
        (node("n1", "unpaired", silence=31, goodbye=True), True),
    ],
)
@pytest.mark.parametrize("status", ["RUNNING", "STOPPING"])
def test_a_stopping_worker_is_stopped_once_its_node_is_lost(
    n1: m.NodeView, given_up: bool, status: str
) -> None:
    found = about([worker("web", 1, "STOPPING", on="n1")], status=status, n1=n1)
    assert [type(a) for a in found] == ([m.MarkStopped] if given_up else [])
    # The reason stays, also once the node is back.
    assert all("n1 was" in a.reason and "no longer assigned" in a.reason for a in found)


@pytest.mark.parametrize(
    ("n1", "moved"),
    [
        (node("n1", "lost", silence=59), False),
        (node("n1", "lost", silence=61), True),
        (node("n1", "offline", silence=59, goodbye=True), False),
        (node("n1", "offline", silence=61, goodbye=True), True),
        # On a node that the operator has removed, only the lost threshold counts.
        (node("n1", "unpaired", silence=29), False),
        (node("n1", "unpaired", silence=31), True),
    ],
)
def test_a_stopping_worker_that_is_wanted_again_is_reassigned_after_lost_after(
    n1: m.NodeView, moved: bool
) -> None:
    """Its node may not know that it was to stop: the worker may still run there."""
    of = group("web", 1, [worker("web", 1, "STOPPING", on="n1")], lost_after=60.0)
    found = actions_of([n1, node("n2")], cluster(of, members=["n1", "n2"]), kinds=WORKER_KINDS)
    assert [type(a) for a in found] == ([m.MarkStopped] if moved else [])


def test_the_hold_covers_stopping_workers_too() -> None:
    nodes = [node("n1", silence=31), node("n2", silence=31), node("n3")]
    workers = [worker("web", 1, "STOPPING", on="n1"), worker("web", 2, "STOPPING", on="n2")]
    of = group("web", 1, workers)
    found = actions_of(nodes, cluster(of, members=["n1", "n2", "n3"]), kinds=WORKER_KINDS)
    given_up = [action.worker_oid for action in found if isinstance(action, m.MarkStopped)]
    assert given_up == ["web-2"], "that one is asked for no more: nothing comes up in its place"


# --- silent nodes


@pytest.mark.parametrize("state", ["STARTING", "RUNNING", "BACKOFF"])
@pytest.mark.parametrize(
    ("n1", "word"),
    [
        (node("n1", silence=16), "late"),
        (node("n1", "late", silence=16), "late"),
        (node("n1", silence=31), "lost"),
        (node("n1", silence=5, goodbye=True), "offline"),
        (node("n1", silence=1, will_at=NOW), "late"),
    ],
)
def test_workers_of_a_silent_node_are_unknown(state: str, n1: m.NodeView, word: str) -> None:
    of = group("web", 1, [worker("web", 1, state, on="n1")], lost_after=99.0)
    found = actions_of([n1, node("n2")], cluster(of, members=["n1", "n2"]), kinds=WORKER_KINDS)
    assert found == [m.MarkUnknown("web-1", f"node n1 is {word}")]


def test_mark_unknown_is_repeated_only_with_another_reason() -> None:
    late = node("n1", "late", silence=16)
    assert about([worker("web", 1, "UNKNOWN", on="n1", reason="node n1 is late")], n1=late) == []
    lost = node("n1", "lost", silence=16)
    lost = replace(lost, heard_once=False)
    found = about([worker("web", 1, "UNKNOWN", on="n1", reason="node n1 is late")], n1=lost)
    assert found == [m.MarkUnknown("web-1", "node n1 is lost")]


# --- evictions


@pytest.mark.parametrize(
    ("n1", "lost_after", "moved"),
    [
        (node("n1", silence=31), 30.0, True),
        (node("n1", silence=31), 32.0, False),
        (node("n1", silence=31), 0.0, True),
        (node("n1", silence=29), 0.0, False),
        (node("n1", silence=31, goodbye=True), 30.0, True),
        (node("n1", silence=29, goodbye=True), 30.0, False),
        (node("n1", silence=1), 0.0, False),
        # Stored as lost by an earlier manager; this one has listened for five seconds only.
        (node("n1", "lost", silence=5, heard_once=False), 0.0, False),
        (node("n1", "lost", silence=29), 10.0, False),
        (node("n1", "lost", silence=31), 10.0, True),
        (node("n1", "offline", silence=11, goodbye=True), 10.0, True),
    ],
)
def test_workers_are_evicted_after_the_groups_lost_after(
    n1: m.NodeView, lost_after: float, moved: bool
) -> None:
    of = group("web", 1, [worker("web", 1, on="n1")], lost_after=lost_after)
    nodes = [n1, node("n2"), node("n3")]
    found = actions_of(nodes, cluster(of, members=["n1", "n2"]), kinds=(m.Evict,))
    assert [a.worker_oid for a in found if isinstance(a, m.Evict)] == (["web-1"] if moved else [])


LOST = node("n1", "lost", silence=99)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (["n1"], "not rescheduled: n1 is lost"),
        (
            ["n1", m.MemberView("n2", hardlimit=0)],
            "not rescheduled: n1 is lost; n2 is at its hardlimit (0/0)",
        ),
    ],
)
def test_a_worker_is_not_evicted_when_no_other_node_admits_it(members: list[Any], why: str) -> None:
    found = about([worker("web", 1, on="n1")], n1=LOST, members=members)
    assert found == [m.MarkUnknown("web-1", f"node n1 is lost; {why}")]


def test_only_as_many_are_evicted_as_other_nodes_admit() -> None:
    workers = [worker("web", i, on="n1") for i in (1, 2, 3)]
    found = about(workers, scale=3, n1=LOST, members=["n1", m.MemberView("n2", hardlimit=2)])
    assert [type(a) for a in found] == [m.Evict, m.Evict, m.MarkUnknown]
    assert found[2].reason.endswith("n2 is at its hardlimit (2/2)")


def test_a_pending_worker_is_placed_before_an_evicted_one() -> None:
    workers = [worker("web", 1, on="n1"), worker("web", 2, "PENDING")]
    found = about(workers, scale=2, n1=LOST, members=["n1", m.MemberView("n2", hardlimit=1)])
    assert [type(a) for a in found] == [m.Place, m.MarkUnknown]


def test_the_hold_blocks_evictions_and_allows_placements() -> None:
    nodes = [node("n1", silence=31), node("n2", silence=31), node("n3")]
    workers = [worker("web", 1, on="n1"), worker("web", 2, on="n2"), worker("web", 3, "PENDING")]
    of = cluster(group("web", 3, workers), members=["n1", "n2", "n3"])
    found = actions_of(nodes, of, kinds=WORKER_KINDS)
    why = "it is not moved: 2 of 3 nodes lost within 60 s: nothing is moved"
    assert found[1:] == [
        m.MarkUnknown("web-1", f"node n1 is lost; {why}"),
        m.MarkUnknown("web-2", f"node n2 is lost; {why}"),
    ]
    assert isinstance(found[0], m.Place) and found[0].node_oid == "n3"


# --- an agent that said goodbye


LEFT = {"silence": 3_600.0, "goodbye": True, "leaves": Leaves.RUNNING}
"""An agent that is away for an hour and left its workers running."""


@pytest.mark.fault(116, "B C")
@pytest.mark.parametrize(
    ("n1", "members", "kind"),
    [
        (node("n1", "offline", **LEFT), ["n1", "n2"], m.MarkUnknown),
        (node("n1", "offline", **LEFT | {"silence": 86_400}), ["n1", "n2"], m.Evict),
        # The operator says to move them, knowing better.
        (node("n1", "offline", **LEFT, draining=True), ["n1", "n2"], m.Evict),
        (node("n1", "offline", **LEFT), ["n2"], m.Evict),
        (node("n1", "unpaired", **LEFT), ["n1", "n2"], m.Evict),
        # They do not run on, or nobody says that they do.
        (node("n1", "offline", **LEFT | {"leaves": Leaves.STOPPED}), ["n1", "n2"], m.Evict),
        (node("n1", "offline", **LEFT | {"leaves": Leaves.SHUTDOWN}), ["n1", "n2"], m.Evict),
        (node("n1", "offline", **LEFT | {"leaves": None}), ["n1", "n2"], m.Evict),
        # The machine was heard again since, and fell silent.
        (node("n1", "lost", **LEFT | {"goodbye": False}), ["n1", "n2"], m.Evict),
    ],
)
def test_workers_that_an_agent_left_running_stay(n1: m.NodeView, members: list[str], kind: type) -> None:
    (found,) = about([worker("web", 1, on="n1")], n1=n1, members=members)
    assert type(found) is kind
    if kind is m.MarkUnknown:
        assert "n1 is offline; its workers run on, and are moved after 86400 s" in str(found.reason)
        assert "draining" in str(found.reason)


@pytest.mark.fault(116, "B C")
@pytest.mark.parametrize("status", ["RUNNING", "STOPPING"])
@pytest.mark.parametrize(
    ("more", "given_up"), [({}, False), ({"draining": True}, True), ({"leaves": Leaves.STOPPED}, True)]
)
def test_a_stopping_worker_that_was_left_running_is_not_taken_for_gone(
    more: dict[str, Any], given_up: bool, status: str
) -> None:
    n1 = node("n1", "offline", **LEFT | more)
    found = about([worker("web", 1, "STOPPING", on="n1")], status=status, n1=n1)
    assert [type(a) for a in found] == ([m.MarkStopped] if given_up else [])


# --- no longer a member


@pytest.mark.parametrize(
    ("n1", "kind"),
    [
        (node("n1"), m.Unassign),
        (node("n1", "late", silence=16), m.Unassign),
        (node("n1", "lost", silence=31), m.Evict),
        (node("n1", "offline", silence=1, goodbye=True), m.MarkUnknown),
        (node("n1", "offline", silence=31, goodbye=True), m.Evict),
        (node("n1", "unpaired", silence=1, goodbye=True), m.MarkUnknown),
        (node("n1", "unpaired", silence=1), m.Unassign),
        (node("n1", "unpaired", silence=31), m.Evict),
    ],
)
def test_a_node_that_left_the_cluster(n1: m.NodeView, kind: type) -> None:
    """Its workers may still run while its agent is away: each would run twice."""
    (found,) = about([worker("web", 1, on="n1")], n1=n1, members=["n2"])
    assert type(found) is kind
    assert str(found.reason).startswith("n1 is no longer a node of cluster edge")


def test_an_unpaired_node_is_no_member() -> None:
    (found,) = about([worker("web", 1, on="n1")], n1=node("n1", "unpaired", silence=31))
    assert isinstance(found, m.Evict)


def test_workers_of_a_removed_node_are_moved_even_under_the_hold() -> None:
    nodes = [node("n1", silence=31), node("n2", silence=31), node("n3")]
    of = cluster(group("web", 1, [worker("web", 1, on="n1")]), members=["n3"])
    found = actions_of(nodes, of, kinds=WORKER_KINDS)
    assert [type(a) for a in found] == [m.Evict]


# --- placements


def test_a_placement_has_its_reason() -> None:
    workers = [worker("web", 1, on="n1"), worker("web", 2, "PENDING")]
    found = about(workers, scale=2)
    assert found == [m.Place("web-2", "n2", "n2 is the least loaded node with capacity (0 workers)")]


def test_mark_pending_is_not_repeated_for_the_same_reason() -> None:
    (found,) = about([worker("web", 1, "PENDING")], members=[])
    assert found == m.MarkPending("web-1", "no node in the cluster")
    assert about([worker("web", 1, "PENDING", reason="no node in the cluster")], members=[]) == []


def test_two_clusters_share_a_nodes_capacity() -> None:
    one = cluster(group("web", 1, [worker("web", 1, "PENDING")]), members=["n1"])
    two = cluster(
        group("api", 1, [worker("api", 1, "PENDING", cluster_oid="other")]), members=["n1"], name="other"
    )
    found = actions_of([node("n1", max_workers=1)], one, two, kinds=(m.Place, m.MarkPending))
    assert [type(a) for a in found] == [m.Place, m.MarkPending]
    assert found[1].reason == "n1 is full (1/1 workers)"


# --- a cluster whose planning raises


def test_a_cluster_whose_planning_raises_does_not_stop_the_others() -> None:
    broken = replace(cluster(name="a"), groups=(None,))  # type: ignore[arg-type]
    good = cluster(group("web", 1, [worker("web", 1, "PENDING")]), members=["n1"])
    state = snapshot([node("n1")], good)
    state = replace(state, clusters={"edge": good, "a": replace(cluster(name="a"), groups=())})
    assert of_kind(plan(state, NOW), m.Place)
    failed: list[str] = []
    bad = replace(broken, groups=(replace(group("x", 1), scale=None),))  # type: ignore[arg-type]
    state = replace(state, clusters={"a": bad, "edge": good})
    found = plan(state, NOW, lambda of, error: failed.append(f"{of.name}: {type(error).__name__}"))
    assert failed == ["a: TypeError"]
    assert of_kind(found, m.Place)
    with pytest.raises(TypeError):
        plan(state, NOW)


# --- whole life cycles, simulated


def start(scale: int, members: list[Any], nodes: list[m.NodeView]) -> Simulator:
    view = group("web", scale, status="STARTING", since=NOW)
    return Simulator(snapshot(nodes, cluster(view, members=members, status="STARTING")))


def states(of: Simulator) -> dict[str, str]:
    return {w.oid: f"{w.state} {w.node_oid}" if w.node_oid else w.state for w in of.workers()}


def test_a_cluster_from_start_to_stop() -> None:
    sim = start(4, ["n1", "n2", "n3"], [node("n1"), node("n2"), node("n3")])
    sim.settle()
    assert states(sim) == {
        "web-1": "STARTING n1", "web-2": "STARTING n2", "web-3": "STARTING n3", "web-4": "STARTING n1",
    }  # fmt: skip
    assert sim.cluster().status == "STARTING"
    sim.obey()
    sim.settle()
    assert sim.cluster().status == "RUNNING"
    sim.change_cluster(status=sim.cluster().status.STOPPING)
    sim.settle()
    assert {w.state for w in sim.workers()} == {WorkerState.STOPPING}
    assert sim.cluster().status == "STOPPING"
    sim.obey()
    sim.settle()
    assert sim.cluster().status == "STOPPED"
    assert sim.cluster().groups[0].status == "STOPPED"


def test_a_node_is_lost_and_returns() -> None:
    sim = start(3, ["n1", "n2", "n3"], [node("n1"), node("n2"), node("n3")])
    sim.settle()
    sim.obey()
    sim.settle()
    sim.pass_time(16, silent=["n1"])
    sim.settle()
    assert states(sim)["web-1"] == "UNKNOWN n1"
    assert sim.cluster().status == "DEGRADED"
    sim.pass_time(15, silent=["n1"])
    sim.settle()
    assert states(sim)["web-1"] == "STARTING n2"
    sim.obey()
    sim.settle()
    assert sim.cluster().status == "RUNNING"
    sim.pass_time(5)
    sim.settle()
    assert states(sim) == {"web-1": "RUNNING n2", "web-2": "RUNNING n2", "web-3": "RUNNING n3"}


def test_workers_of_the_only_node_are_not_evicted() -> None:
    sim = start(2, ["n1"], [node("n1")])
    sim.settle()
    sim.obey()
    sim.settle()
    sim.pass_time(500, silent=["n1"])
    sim.settle()
    assert states(sim) == {"web-1": "UNKNOWN n1", "web-2": "UNKNOWN n1"}
    sim.pass_time(1)
    sim.settle()
    sim.obey()
    sim.settle()
    assert sim.cluster().status == "RUNNING"
    assert [w.generation for w in sim.workers()] == [1, 1]


def test_a_pending_worker_is_placed_once_a_node_has_room() -> None:
    sim = start(2, [m.MemberView("n1", hardlimit=1)], [node("n1"), node("n2")])
    sim.settle()
    assert states(sim) == {"web-1": "STARTING n1", "web-2": "PENDING"}
    assert sim.worker("web-2").reason == "every node is at its hardlimit (n1: 1/1)"
    sim.change_cluster(members=(*sim.cluster().members, m.MemberView("n2")))
    sim.settle()
    assert states(sim)["web-2"] == "STARTING n2"


def test_placements_on_a_node_are_adjacent() -> None:
    nodes = [node(f"n{number}") for number in range(1, 4)]
    of = cluster(group("web", 9, [], "STARTING"), members=["n1", "n2", "n3"], status="STARTING")
    planned = plan(snapshot(nodes, of), NOW)
    written = by_node(planned)
    assert [a.node_oid for a in of_kind(written, m.CreateWorker)] == ["n1"] * 3 + ["n2"] * 3 + ["n3"] * 3
    assert sorted(map(repr, written)) == sorted(map(repr, planned))
