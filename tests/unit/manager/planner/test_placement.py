"""Placement: spread by least load, limits, runtimes, and the reasons when nothing will do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from busbar.bus.placement import Placement
from busbar.manager.planner.liveness import Fleet
from busbar.manager.planner.model import ClusterView, MemberView, NodeView
from busbar.manager.planner.placement import NAMED, Candidates, Load

from tests.unit.manager.planner.fleets import (
    NOW,
    REFUSED,
    REFUSES,
    TIMING,
    TRANSPORT,
    cluster,
    group,
    node,
    snapshot,
    worker,
)


def candidates(nodes: Sequence[NodeView], of: ClusterView, *others: ClusterView) -> Candidates:
    state = snapshot(nodes, of, *others)
    fleet = Fleet(state.nodes, {each.oid: each.status for each in nodes}, TIMING, NOW)
    return Candidates(fleet, Load(state), of, of.groups[0])


def reserved(found: Candidates, count: int) -> list[str | None]:
    found_nodes = [found.reserve() for _ in range(count)]
    return [each.name if each else None for each in found_nodes]


THREE = [node("n3"), node("n1"), node("n2")]


def test_spread_over_empty_nodes_by_name() -> None:
    of = cluster(group("web", 4), members=["n1", "n2", "n3"])
    assert reserved(candidates(THREE, of), 4) == ["n1", "n2", "n3", "n1"]


def test_least_of_the_group_comes_first_then_of_the_cluster_then_in_all() -> None:
    web = group("web", 9, [worker("web", 1, on="n1")])
    api = group("api", 9, [worker("api", 1, on="n2")])
    other = cluster(
        group("x", 1, [worker("x", 1, on="n3", cluster_oid="other")]), members=["n3"], name="other"
    )
    of = cluster(web, api, members=["n1", "n2", "n3", "n4"])
    nodes = [*THREE, node("n4")]
    assert reserved(candidates(nodes, of, other), 4) == ["n4", "n3", "n2", "n1"]


def test_softlimit_is_avoided_while_others_have_room_and_hardlimit_never_crossed() -> None:
    members = [MemberView("n1", hardlimit=3, softlimit=1), MemberView("n2", hardlimit=3)]
    of = cluster(group("web", 9), members=members)
    found = candidates([node("n1"), node("n2")], of)
    assert reserved(found, 7) == ["n1", "n2", "n2", "n2", "n1", "n1", None]
    assert found.reason() == "every node is at its hardlimit (n1: 3/3, n2: 3/3)"


def test_stopping_workers_are_load_and_stopped_ones_are_not() -> None:
    workers = [
        worker("web", 1, "STOPPING", on="n1"),
        worker("web", 2, "STOPPED"),
        worker("web", 3, "PENDING"),
    ]
    of = cluster(group("web", 3, workers), members=[MemberView("n1", hardlimit=2)])
    assert reserved(candidates([node("n1")], of), 2) == ["n1", None]


def test_hardlimit_counts_this_cluster_and_max_workers_all() -> None:
    other = cluster(
        group("x", 1, [worker("x", 1, on="n1", cluster_oid="other")]), members=["n1"], name="other"
    )
    of = cluster(group("web", 3), members=[MemberView("n1", hardlimit=1)])
    assert reserved(candidates([node("n1")], of, other), 2) == ["n1", None]
    found = candidates([node("n1", max_workers=1)], of, other)
    assert reserved(found, 1) == [None]
    assert found.reason() == "n1 is full (1/1 workers)"


@pytest.mark.parametrize("status", ["late", "lost", "offline", "unpaired"])
def test_only_online_nodes_are_candidates(status: str) -> None:
    of = cluster(group("web", 1), members=["n1"])
    found = candidates([node("n1", status)], of)
    assert reserved(found, 1) == [None]
    assert found.reason() == f"n1 is {status}"


SSD_A = {"disk": "ssd", "zone": "a"}
IN_A = Placement({"disk": "ssd", "zone": ["a", "c"]})
CROSSBAR: dict[str, object] = {"runtime": "crossbar"}
BOTH = frozenset({"mosquitto", "amqtt"})


@pytest.mark.parametrize(
    ("nodes", "of", "reason"),
    [
        (
            [node("n1", labels={"zone": "b"}), node("n2"), node("n3", runtimes=frozenset())],
            cluster(group("web", 1, placement=IN_A), members=["n1", "n2", "n3"]),
            "no node has the labels that group web requires, disk=ssd, zone=a or c (n1 has no label disk; "
            "n2 has no label disk; n3 has no label disk): "
            "'busbar node label NODE disk=ssd zone=a' gives them to one",
        ),
        (
            [node("n1", labels={"disk": "ssd", "zone": "b"}), node("n2", cordoned=True, labels=SSD_A)],
            cluster(group("web", 1, placement=IN_A), members=["n1", "n2"]),
            "n1 has label zone=b (zone=a or c is required); n2 is cordoned",
        ),
        ([], cluster(group("web", 1)), "no node in the cluster"),
        ([node("n1")], cluster(group("web", 1)), "no node in the cluster"),
        (
            [node("n1"), node("n2"), node("n3", runtimes=frozenset())],
            cluster(group("web", 1, **CROSSBAR), members=["n1", "n2", "n3"]),
            "no node offers runtime 'crossbar' (n1, n2 offer amqtt; n3 offers nothing)",
        ),
        (
            [node("n1", runtimes=BOTH), node("n2", runtimes=BOTH)],
            cluster(group("web", 1, **CROSSBAR), members=["n1", "n2"]),
            "no node offers runtime 'crossbar' (n1, n2 offer amqtt, mosquitto)",
        ),
        (
            [node("n1", "lost", runtimes=frozenset({"crossbar"})), node("n2")],
            cluster(group("web", 1, **CROSSBAR), members=["n1", "n2"]),
            "n1 is lost; n2 does not offer runtime 'crossbar'",
        ),
    ],
)  # fmt: skip
def test_reasons(nodes: list[NodeView], of: ClusterView, reason: str) -> None:
    found = candidates(nodes, of)
    assert found.reserve() is None
    assert found.reason() == reason


def test_a_reason_names_a_few_nodes_and_counts_the_rest() -> None:
    nodes = [node(f"n{i:03}", "lost") for i in range(100)]
    found = candidates(nodes, cluster(group("web", 1), members=[each.name for each in nodes]))
    assert found.reason().endswith("and 92 more")
    assert len(found.reason()) < 300


def test_the_runtime_is_the_groups() -> None:
    of = cluster(group("web", 1, runtime="mosquitto"), group("api", 1), members=["n1", "n2"])
    assert reserved(candidates([node("n1"), node("n2", runtimes=frozenset({"mosquitto"}))], of), 2) == [
        "n2",
        "n2",
    ]


def test_a_node_whose_schema_refuses_the_transport_takes_none_and_the_reason_says_so() -> None:
    refuses = {"amqtt": REFUSES}
    nodes = [node("n1", schemas=refuses), node("n2", max_workers=1), node("n3", schemas={"nats": REFUSES})]
    of = cluster(group("web", 9, transport=TRANSPORT), members=["n1", "n2", "n3"])
    assert reserved(candidates(nodes, of), 4) == ["n2", "n3", "n3", "n3"]
    found = candidates(nodes[:2], cluster(of.groups[0], members=["n1", "n2"]))
    assert reserved(found, 2) == ["n2", None]
    assert found.reason() == f"n1 does not accept its transport ({REFUSED}); n2 is full (1/1 workers)"
    plain = cluster(group("web", 9, transport={"type": "mqtt"}), members=["n1"])
    assert reserved(candidates(nodes, plain), 1) == ["n1"]


def test_a_node_that_is_unfit_or_avoided_is_passed_over_and_stays_a_candidate() -> None:
    of = cluster(group("web", 4), members=["n1", "n2", "n3"])
    state = snapshot(THREE, of)
    avoided = {("web", "n1"): NOW + 1}
    fleet = Fleet(state.nodes, {each.oid: each.status for each in THREE}, TIMING, NOW, avoided=avoided)
    found = Candidates(fleet, Load(state), of, of.groups[0])
    assert [getattr(found.reserve(unfit), "name", None) for unfit in (["n2"], [], ["n2", "n3"])] == [
        "n3",
        "n2",
        None,
    ]
    assert reserved(found, 3) == ["n2", "n3", "n2"], "the avoided one comes last, whatever its load"
    assert found.avoided() == "; a worker of the group could not start on n1"


def test_as_many_as_are_named_are_named_without_a_count() -> None:
    for count in (NAMED, NAMED + 1):
        nodes = [node(f"n{number}", "late") for number in range(count)]
        reason = candidates(nodes, cluster(group("web", 1), members=[each.oid for each in nodes])).reason()
        assert ("more" in reason) == (count > NAMED) and reason.count("is late") == NAMED


def test_each_reserved_place_is_one_worker_more() -> None:
    of = cluster(group("web", 9), members=["n1"])
    found = candidates([node("n1", max_workers=3)], of)
    assert reserved(found, 4) == ["n1", "n1", "n1", None]
    of = cluster(group("web", 9), members=[MemberView("n1", hardlimit=2)])
    assert reserved(candidates([node("n1")], of), 3) == ["n1", "n1", None]
    web = group("web", 9, [worker("web", i, on="n1") for i in (1, 2)])
    api = group("api", 9, [worker("api", i, on="n2") for i in range(1, 6)])
    of = cluster(web, api, members=["n1", "n2"])
    found = Candidates(
        Fleet({each.oid: each for each in THREE}, {each.oid: each.status for each in THREE}, TIMING, NOW),
        Load(snapshot(THREE, of)),
        of,
        next(each for each in of.groups if each.name == "web"),
    )
    assert reserved(found, 3) == ["n2", "n2", "n1"], "in the group, before the cluster"


ZONES = [
    node("n1", labels={"zone": "a"}),
    node("n2", labels={"zone": "a"}),
    node("n3", labels={"zone": "b"}),
    node("n4"),
]


def test_a_group_is_spread_over_a_label_before_it_is_over_nodes() -> None:
    members = ["n1", "n2", "n3", "n4"]
    of = cluster(group("web", 6, placement=Placement(spread="zone")), members=members)
    assert reserved(candidates(ZONES, of), 6) == ["n1", "n3", "n4", "n2", "n3", "n4"]
    of = cluster(group("web", 4, placement=Placement({"zone": ["a", "b"]}, "zone")), members=members)
    assert reserved(candidates(ZONES, of), 5) == ["n1", "n3", "n2", "n3", "n1"]
    limits = [MemberView("n1", softlimit=0), MemberView("n2"), MemberView("n3", hardlimit=1, softlimit=0)]
    of = cluster(group("web", 4, placement=Placement(spread="zone")), members=limits)
    assert reserved(candidates(ZONES, of), 4) == ["n2", "n3", "n2", "n2"], "as even as the room allows"


def test_workers_that_are_there_count_for_the_spread() -> None:
    there = [worker("web", 1, on="n3"), worker("web", 2, "STOPPING", on="n3"), worker("web", 3, "PENDING")]
    of = cluster(group("web", 4, there, placement=Placement(spread="zone")), members=["n1", "n2", "n3"])
    found = candidates(ZONES, of)
    assert reserved(found, 3) == ["n1", "n2", "n1"]
    chosen = found.reserve()
    assert chosen is not None and found.spread_of(chosen) == "; nodes with zone=b had 2 of the group"
