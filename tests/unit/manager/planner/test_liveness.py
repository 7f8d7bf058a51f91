"""Liveness and the mass failure hold: which nodes are late, lost or offline, and when nothing is evicted."""

from __future__ import annotations

import pytest
from busbar.bus.states import Leaves, NodeStatus
from busbar.manager.planner.liveness import Fleet, judge, judge_nodes
from busbar.manager.planner.model import LivenessTiming, MarkStopped, MassFailureHold, NodeView, SetNode
from busbar.manager.planner.plan import plan
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, TIMING, cluster, group, node, of_kind, snapshot, worker

GRACE = replace(TIMING, grace_until=NOW + 1)


@pytest.mark.parametrize(
    ("view", "timing", "expected"),
    [
        (node("n1", silence=14.9), TIMING, "online"),
        (node("n1", silence=15), TIMING, "late"),
        (node("n1", silence=29.9), TIMING, "late"),
        (node("n1", silence=30), TIMING, "lost"),
        (node("n1", silence=29.9), GRACE, "online"),
        (node("n1", silence=30), GRACE, "late"),
        (node("n1", silence=60), GRACE, "lost"),
        (node("n1", "late", silence=1), TIMING, "online"),
        (node("n1", "lost", silence=1), TIMING, "online"),
        (node("n1", "lost", silence=20), TIMING, "lost"),
        (node("n1", "offline", silence=1), TIMING, "online"),
        (node("n1", silence=1, goodbye=True), TIMING, "offline"),
        (node("n1", "lost", silence=99, goodbye=True), TIMING, "offline"),
        (node("n1", silence=1, will_at=NOW), TIMING, "late"),
        (node("n1", silence=31, will_at=NOW), TIMING, "lost"),
        (node("n1", "unpaired", silence=1), TIMING, "unpaired"),
        (node("n1", "unpaired", silence=99, goodbye=True), TIMING, "unpaired"),
        # Not heard by this process: never better than stored.
        (node("n1", "online", silence=1, heard_once=False), TIMING, "online"),
        (node("n1", "late", silence=1, heard_once=False), TIMING, "late"),
        (node("n1", "lost", silence=1, heard_once=False), TIMING, "lost"),
        (node("n1", "offline", silence=1, heard_once=False), TIMING, "offline"),
        (node("n1", "offline", silence=99, heard_once=False), TIMING, "offline"),
        (node("n1", "online", silence=31, heard_once=False), TIMING, "lost"),
    ],
)
def test_judge(view: NodeView, timing: LivenessTiming, expected: str) -> None:
    assert judge(view, timing, NOW) is NodeStatus(expected)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (node("n1", silence=16), "silent for 16 s"),
        (node("n1", silence=31), "silent for 31 s"),
        (node("n1", silence=1, will_at=NOW), "connection broke"),
        (node("n1", goodbye=True), "goodbye"),
        (node("n1", goodbye=True, leaves=Leaves.RUNNING), "goodbye; its workers run on"),
        (node("n1", goodbye=True, leaves=Leaves.STOPPED), "goodbye; none of its workers runs on"),
        (node("n1", goodbye=True, leaves=Leaves.SHUTDOWN), "goodbye; its machine is shutting down"),
        (node("n1", "lost"), "heard again"),
    ],
)
def test_a_node_status_has_its_reason(view: NodeView, words: str) -> None:
    (action,) = of_kind(plan(snapshot([view]), NOW), SetNode)
    assert words in action.reason


def test_an_unchanged_fleet_has_no_actions() -> None:
    assert plan(snapshot([node("n1"), node("n2", "late", silence=20), node("n3", "unpaired")]), NOW) == []


def hold_of(*nodes: NodeView, **more: object) -> str | None:
    return judge_nodes(snapshot(nodes, **more), NOW)[0].hold


def test_a_hold_when_most_nodes_are_lost_at_once() -> None:
    nodes = [node("n1", silence=31), node("n2", silence=35), node("n3")]
    fleet, actions = judge_nodes(snapshot(nodes), NOW)
    assert fleet.hold == "2 of 3 nodes lost within 60 s: nothing is moved"
    assert of_kind(actions, MassFailureHold) == [MassFailureHold(fleet.hold, frozenset({"n1", "n2"}))]


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([node("n1", silence=31), node("n2"), node("n3")], id="one of three"),
        pytest.param([node("n1", silence=31), node("n2")], id="half"),
        pytest.param([node("n1", silence=31), node("n2", silence=99), node("n3")], id="far apart"),
        pytest.param([node("n1", silence=20), node("n2", silence=20), node("n3")], id="late alone"),
        pytest.param([node("n1", silence=31)], id="a fleet of one"),
        pytest.param([node("n1", goodbye=True), node("n2", goodbye=True), node("n3")], id="goodbyes"),
        pytest.param(
            [node("n1", "unpaired", silence=31), node("n2", "unpaired", silence=31), node("n3")],
            id="unpaired",
        ),
        pytest.param(
            [node("a", silence=31, known=False, heard_once=False), node("b", silence=31), node("c")],
            id="never heard",
        ),
    ],
)
def test_no_hold(nodes: list[NodeView]) -> None:
    assert hold_of(*nodes) is None


@pytest.mark.parametrize(
    ("lost", "heard", "held"), [(2, 1, True), (2, 2, False), (2, 3, False), (3, 2, True), (3, 3, False)]
)
def test_a_hold_takes_more_than_half_of_the_fleet(lost: int, heard: int, held: bool) -> None:
    nodes = [node(f"n{i}", silence=31) for i in range(lost)] + [node(f"m{i}") for i in range(heard)]
    assert (hold_of(*nodes) is not None) == held


@pytest.mark.parametrize(("apart", "held"), [(60.0, True), (60.1, False)])
def test_nodes_that_fell_silent_far_apart_are_no_mass_failure(apart: float, held: bool) -> None:
    assert (hold_of(node("n1", silence=31), node("n2", silence=31 + apart), node("n3")) is not None) == held


def test_of_two_that_fell_silent_at_two_times_the_larger_group_counts() -> None:
    early = [node(f"e{i}", silence=200) for i in range(2)]
    recent = [node(f"r{i}", silence=31) for i in range(2)]
    assert judge_nodes(snapshot([*early, *recent]), NOW)[1][-1] == MassFailureHold(
        "2 of 2 nodes lost within 60 s: nothing is moved", frozenset({"r0", "r1"})
    ), "of equals the latest"
    early.append(node("e2", silence=190))
    assert hold_of(*early, *recent) == "3 of 3 nodes lost within 60 s: nothing is moved"


@pytest.mark.parametrize(
    ("known", "heard_once", "held"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_only_nodes_that_were_ever_heard_fall_silent(known: bool, heard_once: bool, held: bool) -> None:
    facts = {"known": known, "heard_once": heard_once}
    nodes = [node("n1", silence=31, **facts), node("n2", silence=31, **facts), node("n3")]
    assert (hold_of(*nodes) is not None) == held


def test_late_nodes_count_with_the_first_lost_one() -> None:
    """Heartbeats differ in phase: the first node lost must not be evicted before the others are lost."""
    nodes = [node("n1", silence=30), *(node(f"n{i}", silence=27) for i in (2, 3, 4)), node("n5")]
    assert hold_of(*nodes) == "4 of 5 nodes lost or late within 60 s: nothing is moved"


def test_nodes_lost_long_ago_cause_no_hold_after_a_restart() -> None:
    old = {"heard_once": False, "lost_before": True}
    nodes = [node(f"old{i}", "lost", silence=31, **old) for i in range(6)]
    assert hold_of(*nodes, node("n1"), node("n2", silence=31)) is None
    assert hold_of(*nodes, node("n1", silence=31), node("n2", silence=31), node("n3")) is not None


def test_the_hold_survives_a_restart_of_the_manager() -> None:
    old = {"heard_once": False, "lost_before": True}
    nodes = [node("n1", "lost", silence=1, **old), node("n2", "lost", silence=1, **old), node("n3")]
    reason = "2 of 3 nodes lost within 60 s: nothing is moved"
    assert hold_of(*nodes, hold=reason, hold_nodes=frozenset({"n1", "n2"})) == reason


def test_the_hold_is_lifted_when_enough_nodes_are_heard() -> None:
    nodes = [node("n1", "lost", silence=99), node("n2", "lost", silence=1), node("n3")]
    actions = plan(snapshot(nodes, hold="most are gone", hold_nodes=frozenset({"n1", "n2"})), NOW)
    assert of_kind(actions, MassFailureHold) == [MassFailureHold(None)]


def test_an_unchanged_hold_is_not_repeated() -> None:
    nodes = [node("n1", "lost", silence=31), node("n2", "lost", silence=35), node("n3")]
    reason, oids = hold_of(*nodes), frozenset({"n1", "n2"})
    assert plan(snapshot(nodes, hold=reason, hold_nodes=oids), NOW) == []


# --- what can be expected of a node


def fleet(view: NodeView, status: str, timing: LivenessTiming = TIMING) -> Fleet:
    return Fleet({view.oid: view}, {view.oid: NodeStatus(status)}, timing, NOW)


@pytest.mark.parametrize(
    ("status", "silence", "goodbye", "hears", "gave_up"),
    [
        ("online", 0, False, True, False),
        ("online", 99, False, True, False),
        ("late", 20, False, True, False),
        ("lost", 30, False, False, True),
        ("lost", 0, False, False, True),
        ("offline", 29.9, True, False, False),
        ("offline", 30, True, False, True),
        ("unpaired", 0, False, True, False),
        ("unpaired", 29.9, False, True, False),
        ("unpaired", 30, False, False, True),
        ("unpaired", 0, True, False, False),
        ("unpaired", 30, True, False, True),
    ],
)
def test_what_a_node_can_be_expected_to_report(
    status: str, silence: float, goodbye: bool, hears: bool, gave_up: bool
) -> None:
    """A worker that is told to stop on a node that is given up counts as stopped: else it hangs there."""
    of = fleet(node("n1", silence=silence, goodbye=goodbye), status)
    assert (of.hears("n1"), of.gave_up("n1")) == (hears, gave_up)


@pytest.mark.parametrize("oid", [None, "gone"])
def test_nothing_is_expected_of_a_node_that_is_not_known(oid: str | None) -> None:
    of = fleet(node("n1"), "online")
    assert (of.hears(oid), of.gave_up(oid)) == (False, True)


def test_in_the_grace_period_a_node_that_is_away_is_given_up_later() -> None:
    of = fleet(node("n1", silence=30), "unpaired", GRACE)
    assert (of.hears("n1"), of.gave_up("n1")) == (True, False)
    of = fleet(node("n1", silence=60), "unpaired", GRACE)
    assert (of.hears("n1"), of.gave_up("n1")) == (False, True)


@pytest.mark.parametrize("status", ["lost", "unpaired"])
@pytest.mark.parametrize("cluster_status", ["RUNNING", "STOPPING"])
def test_a_stop_on_a_lost_or_unpaired_node_comes_to_an_end(status: str, cluster_status: str) -> None:
    stops = [worker("web", 3, "STOPPING", on="n1")]
    made = cluster(group("web", 2, stops), members=["n2"], status=cluster_status)
    found = plan(snapshot([node("n1", status, silence=31), node("n2")], made), NOW)
    assert [action.worker_oid for action in found if isinstance(action, MarkStopped)] == ["web-3"]
    found = plan(snapshot([node("n1", silence=1), node("n2")], made), NOW)
    assert not of_kind(found, MarkStopped)


@pytest.mark.parametrize(
    ("status", "since", "least", "refuses"),
    [
        ("online", None, 0.0, False),
        ("online", 29.9, 0.0, False),
        ("online", 30, 0.0, True),
        ("online", 30, 50.0, False),
        ("online", 50, 50.0, True),
        ("late", 99, 0.0, False),
        ("lost", 99, 0.0, False),
    ],
)
def test_a_node_that_follows_another_manager_is_believed_after_a_while(
    status: str, since: float | None, least: float, refuses: bool
) -> None:
    view = node("n1", refuses_since=None if since is None else NOW - since)
    assert fleet(view, status).refuses("n1", least) == refuses
    if status == "online":
        assert fleet(view, status).gave_up("n1") == (since is not None and since >= 30)
    assert not fleet(view, status).refuses("gone") and not fleet(view, status).refuses(None)


def test_a_group_avoids_a_node_for_a_while() -> None:
    of = replace(fleet(node("n1"), "online"), avoided={("web", "n1"): NOW + 1, ("api", "n1"): NOW})
    assert of.avoids("web", "n1")
    assert not (of.avoids("api", "n1") or of.avoids("web", "n2") or of.avoids("n1", "web"))
    assert (of.name("n1"), of.name(None)) == ("n1", "a node that is no longer known")


@pytest.mark.parametrize(
    ("silence", "member", "gave_up"), [(31, True, False), (31, False, True), (99, True, True)]
)
def test_where_an_agent_left_workers_running_those_of_members_stay_longer(
    silence: float, member: bool, gave_up: bool
) -> None:
    timing = replace(TIMING, offline_after=90.0)
    of = fleet(node("n1", silence=silence, goodbye=True, leaves=Leaves.RUNNING), "offline", timing)
    assert of.gave_up("n1", member=member) == gave_up
