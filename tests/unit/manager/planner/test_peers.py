"""What the workers of meshed groups are told of each other, planned from snapshots."""

from __future__ import annotations

import math

from busbar.bus.messages import Peer
from busbar.bus.states import NodeStatus, WorkerState
from busbar.manager.planner import model as m
from busbar.manager.planner.deadlines import next_due
from busbar.manager.planner.peers import INTERVAL_S, peers_due, plan_peers, wanted_members, wanted_peers
from busbar.manager.planner.plan import plan
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, cluster, group, node, of_kind, snapshot, worker


def url(ordinal: int) -> dict[str, str]:
    return {"mqtt": f"mqtt://10.0.0.{ordinal}:1883"}


def fleet(homes: str, *, mesh: bool = True, **nodes: object) -> m.Snapshot:
    """A group with a running worker on each of these nodes (`"12"`: n1 and n2)."""
    workers = [worker("web", i, on=f"n{home}", listeners=url(i)) for i, home in enumerate(homes, 1)]
    group_ = group("web", len(homes), workers, mesh=mesh)
    views = [node(name, **nodes) for name in ("n1", "n2", "n3")]  # type: ignore[arg-type]
    return snapshot(views, cluster(group_, members=["n1", "n2", "n3"]))


def peer(ordinal: int, home: str) -> Peer:
    return Peer(f"web-{ordinal}", home, url(ordinal))


def changed(of: m.Snapshot, *nodes: m.NodeView, **workers: object) -> m.Snapshot:
    """With other views of these nodes, and every worker's members set."""
    clusters = {
        oid: replace(
            each,
            groups=tuple(
                replace(g, workers=tuple(replace(w, **workers) for w in g.workers))  # type: ignore[arg-type]
                for g in each.groups
            ),
        )
        for oid, each in of.clusters.items()
    }
    return replace(of, nodes={**of.nodes, **{each.oid: each for each in nodes}}, clusters=clusters)


def test_each_node_with_a_worker_is_told_of_all_workers() -> None:
    both = [peer(1, "n1"), peer(2, "n2")]
    assert wanted_peers(fleet("12")) == {"n1": {"edge/web": both}, "n2": {"edge/web": both}}
    told = plan_peers(fleet("12"), NOW)
    assert [(each.node_oid, each.peers) for each in told] == [
        ("n1", {"edge/web": both}),
        ("n2", {"edge/web": both}),
    ]


def test_a_group_that_is_not_meshed_is_told_nothing() -> None:
    assert plan_peers(fleet("12", mesh=False), NOW) == []


def test_what_was_told_is_taken_back_when_the_group_is_meshed_no_longer() -> None:
    before = fleet("12", mesh=False, peers={"edge/web": [peer(1, "n1")]})
    assert [each.peers for each in plan_peers(before, NOW)] == [{}, {}, {}]


def test_a_worker_without_an_address_or_on_its_way_out_is_no_peer() -> None:
    assert wanted_peers(changed(fleet("12"), listeners={})) == {
        "n1": {"edge/web": []},
        "n2": {"edge/web": []},
    }
    for state in (WorkerState.STOPPING, WorkerState.UNKNOWN):
        found = wanted_peers(changed(fleet("12"), state=state))
        assert all(peers == {"edge/web": []} for peers in found.values())


def test_a_node_that_is_silent_offers_no_peer_and_is_told_nothing() -> None:
    late = changed(fleet("12"), node("n2", "late"))
    assert wanted_peers(late)["n1"] == {"edge/web": [peer(1, "n1")]}
    assert [each.node_oid for each in plan_peers(late, NOW)] == ["n1"]


def test_within_three_heartbeats_of_silence_no_plan_offers_a_nodes_workers() -> None:
    """The pass that makes a node late comes at its limit, and the next one takes its workers back."""
    silent = changed(fleet("12"), node("n2", silence=15.0))
    late = of_kind(plan(silent, NOW), m.SetNode)
    assert [(each.node_oid, each.status) for each in late] == [("n2", NodeStatus.LATE)]  # type: ignore[union-attr]


def test_a_node_is_told_at_most_once_in_an_interval_and_then_of_everything() -> None:
    just_told = fleet("12", peers={"edge/web": []}, peers_at=NOW - 0.25)
    members = wanted_members(just_told)
    views = (replace(view, members=members.get(view.oid)) for view in just_told.nodes.values())
    just_told = changed(just_told, *views)
    assert plan_peers(just_told, NOW) == []
    assert peers_due(just_told, NOW) == next_due(just_told, NOW) == NOW - 0.25 + INTERVAL_S
    at = NOW - 0.25 + INTERVAL_S
    assert [each.node_oid for each in plan_peers(just_told, at)] == ["n1", "n2", "n3"]


def test_what_was_told_already_is_not_told_again() -> None:
    both = {"edge/web": [peer(1, "n1"), peer(2, "n2")]}
    members = {"edge/web": ["web-1", "web-2"]}
    views = [node(name, peers=both, members=members) for name in ("n1", "n2")]
    told = changed(fleet("12"), *views)
    assert plan_peers(told, NOW) == [] and peers_due(told, NOW) == math.inf


def test_who_is_a_member_is_told_of_lost_ones_too_and_with_the_assignment_that_lacks_a_worker() -> None:
    lost = changed(fleet("123"), node("n3", "lost"))
    assert set(wanted_members(lost)) == {"n1", "n2", "n3"}
    assert wanted_members(lost)["n1"] == {"edge/web": ["web-1", "web-2", "web-3"]}
    workers = [worker("web", i, on=f"n{i}", listeners=url(i)) for i in (1, 2, 3)]
    views = [node(name, peers_at=NOW) for name in ("n1", "n2", "n3")]
    nodes = ["n1", "n2", "n3"]
    fewer = snapshot(views, cluster(group("web", 2, workers, mesh=True), members=nodes))
    planned = plan(fewer, NOW)
    told = [each.members for each in planned if isinstance(each, m.SetPeers)]
    assert told == [{"edge/web": ["web-1", "web-2"]}] * 3, "whenever they were told last"
    stop = next(i for i, each in enumerate(planned) if isinstance(each, m.Unassign))
    assert stop > max(i for i, each in enumerate(planned) if isinstance(each, m.SetPeers))
    leaving = snapshot(
        views,
        cluster(
            group("web", 2, [*workers[:2], replace(workers[2], state=WorkerState.STOPPING)], mesh=True),
            members=nodes,
        ),
    )
    assert "n3" in wanted_members(leaving), "its agent may have been restarted meanwhile"


def test_of_a_group_that_stops_nobody_is_told_who_is_a_member() -> None:
    workers = [worker("web", 1, on="n1", listeners=url(1))]
    for status in ("STOPPING", "STOPPED"):
        of = cluster(group("web", 1, workers, mesh=True), status=status, members=["n1"])
        assert wanted_members(snapshot([node("n1")], of)) == {}
    stopped = group("web", 1, workers, mesh=True, stop_ordered=True)
    assert wanted_members(snapshot([node("n1")], cluster(stopped, members=["n1"]))) == {}


def test_no_plan_starts_or_stops_anything_for_peers() -> None:
    assert {type(each) for each in plan(fleet("112"), NOW)} == {m.SetPeers}


@given(
    homes=st.lists(st.sampled_from("123"), max_size=5),
    states=st.lists(st.sampled_from(list(WorkerState)), min_size=5, max_size=5),
    statuses=st.lists(st.sampled_from(list(NodeStatus)), min_size=3, max_size=3),
)
def test_after_one_round_every_node_that_is_online_knows_exactly_the_others_that_are(
    homes: list[str], states: list[WorkerState], statuses: list[NodeStatus]
) -> None:
    workers = [
        worker("web", i, state=state, on=f"n{home}", listeners=url(i))
        for i, (home, state) in enumerate(zip(homes, states, strict=False), 1)
    ]
    views = [node(f"n{i}", status) for i, status in enumerate(statuses, 1)]
    before = snapshot(views, cluster(group("web", 5, workers, mesh=True), members=["n1", "n2", "n3"]))
    plans = plan_peers(before, NOW)
    told = {each.node_oid: each.peers for each in plans}
    members = {each.node_oid: each.members for each in plans}
    knowing = (replace(v, peers=told.get(v.oid), members=members.get(v.oid)) for v in views)
    after = changed(before, *knowing)
    assert plan_peers(after, NOW) == []
    online = {view.name for view in views if view.status is NodeStatus.ONLINE}
    for name, peers in told.items():
        assert name in online
        assert all(peer.node in online for found in peers.values() for peer in found)
