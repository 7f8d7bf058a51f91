"""Rebalancing, whatever the fleet: it ends in balance, breaks no rule on the way, and moves nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from busbar.bus.placement import Placement, unmet
from busbar.bus.plans import MoveOrder
from busbar.bus.states import WorkerState
from busbar.manager.planner import balance
from busbar.manager.planner import model as m
from busbar.manager.planner.admission import occupies
from busbar.manager.planner.plan import plan
from busbar.manager.slices import whole
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, Simulator, cluster, group, node, of_kind, snapshot, worker
from tests.unit.manager.planner.test_model_properties import some_fleet

NAMES = [f"n{number}" for number in range(1, 6)]
A_OR_B = Placement({"zone": ["a", "b"]}, "zone")
PLACEMENTS = [None, None, Placement(spread="zone"), A_OR_B, Placement({"zone": "a"})]


@st.composite
def running(draw: st.DrawFn) -> m.Snapshot:
    """Clusters whose workers all run, somewhere: placed before limits, labels and placement were these."""
    nodes = []
    for name in NAMES:
        zone = draw(st.sampled_from(["a", "a", "b", "b", None]))
        most, cordoned = (
            draw(st.sampled_from([None, None, 3, 6])),
            draw(st.sampled_from([False] * 5 + [True])),
        )
        labels = {} if zone is None else {"zone": zone}
        nodes.append(node(name, labels=labels, max_workers=most, cordoned=cordoned))
    clusters = []
    for name in ("east", "west")[: draw(st.integers(1, 2))]:
        groups = []
        for of in ("web", "api"):
            homes = draw(st.lists(st.sampled_from(NAMES), max_size=5))
            oid = f"{name}-{of}"
            workers = [worker(oid, i, on=home, cluster_oid=name) for i, home in enumerate(homes, start=1)]
            groups.append(group(oid, len(homes), workers, placement=draw(st.sampled_from(PLACEMENTS))))
        limits = st.sampled_from([None, None, 2, 4])
        members = [m.MemberView(each, draw(limits), draw(st.sampled_from([None, None, 1]))) for each in NAMES]
        clusters.append(cluster(*groups, members=members, name=name))
    return snapshot(nodes, *clusters)


def every(cluster: m.ClusterView, group: m.GroupView) -> bool:
    return True


def groups_of(state: m.Snapshot) -> Iterator[tuple[m.ClusterView, m.GroupView]]:
    for of_cluster in state.clusters.values():
        for of_group in of_cluster.groups:
            yield of_cluster, of_group


def merit(state: m.Snapshot) -> tuple[int, ...]:
    """How far from balance, anew from the snapshot: misplaced workers, the squares of counts by value, those
    beyond softlimits, and the squares of counts by node. The lesser, the better."""
    misplaced = spread = beyond = 0
    of_group, of_cluster, total = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[str]()
    for home, of in groups_of(state):
        values = Counter[str | None]()
        for each in of.workers:
            if each.node_oid is None or not occupies(each.state):
                continue
            labels = state.nodes[each.node_oid].labels
            misplaced += unmet(of.placement, labels) is not None
            if of.placement and of.placement.spread:
                values[labels.get(of.placement.spread)] += 1
            of_group[of.oid, each.node_oid] += 1
            of_cluster[home.oid, each.node_oid] += 1
            total[each.node_oid] += 1
        spread += sum(count * count for count in values.values())
    for home in state.clusters.values():
        for member in home.members:
            if member.softlimit is not None:
                beyond += max(0, of_cluster[home.oid, member.node_oid] - member.softlimit)
    counts = (of_group, of_cluster, total)
    return (misplaced, spread, beyond, *(sum(n * n for n in each.values()) for each in counts))


def order(world: Simulator, moves: list[balance.Move]) -> None:
    """Note the orders, as `apply_rebalance` does."""
    for number, move in enumerate(moves, start=1):
        of = next(g for _, g in groups_of(world.snapshot) if g.oid == move.worker.group_oid)
        told, mover = MoveOrder(move.target, number, "rebalance"), move.worker.oid
        workers = (replace(each, move=told) if each.oid == mover else each for each in of.workers)
        world.change_group(of.oid, workers=tuple(workers))


def balanced(state: m.Snapshot, wanted: balance.Wanted = every) -> balance.Moves:
    return whole(balance.moves(state, NOW, wanted))


def carry_out(world: Simulator) -> list[m.Action]:
    """Passes until nothing is left to do; the nodes obey after each. At most one of a group is away."""
    done: list[m.Action] = []
    for _ in range(200):
        actions = world.step()
        for _, of in groups_of(world.snapshot):
            assert sum(each.state is not WorkerState.RUNNING for each in of.workers) <= 1
        done += actions
        world.obey()
        if not actions:
            return done
    raise AssertionError("it does not come to rest")


@settings(max_examples=100, deadline=None)
@given(running())
def test_a_rebalance_does_what_was_planned_gets_better_and_is_done_once(state: m.Snapshot) -> None:
    found = balanced(state)
    assert found.complete and found == balanced(state), "the same each time"
    world = Simulator(state)
    order(world, found.moves)
    assert balanced(world.snapshot).moves == [], "what is ordered counts"
    where = {each.oid: each.node_oid for each in world.workers()}
    done = carry_out(world)
    assert not of_kind(done, m.CancelMove)
    after = {each.oid: each.node_oid for each in world.workers()}
    assert after == where | {move.worker.oid: move.target for move in found.moves}
    away = [each.worker_oid for each in done if isinstance(each, m.Unassign)]
    assert sorted(away) == sorted(move.worker.oid for move in found.moves), "each once"
    if found.moves:
        assert merit(world.snapshot) < merit(state)
    assert balanced(world.snapshot).moves == [], "once is enough"
    check_limits(state, world.snapshot)


def check_limits(before: m.Snapshot, after: m.Snapshot) -> None:
    """No node has more than it takes, but for what it had."""
    for home in after.clusters.values():
        for member in home.members:
            ours = [
                sum(w.node_oid == member.node_oid for g in each.clusters[home.oid].groups for w in g.workers)
                for each in (before, after)
            ]
            assert ours[1] <= max(ours[0], 99 if member.hardlimit is None else member.hardlimit)
    for oid, at in after.nodes.items():
        held = [
            sum(w.node_oid == oid for _, g in groups_of(each) for w in g.workers) for each in (before, after)
        ]
        assert held[1] <= max(held[0], 99 if at.max_workers is None else at.max_workers)
        if at.cordoned:
            assert held[1] <= held[0]
    for _, of in groups_of(after):
        old = {w.oid: w.node_oid for _, g in groups_of(before) for w in g.workers}
        for each in of.workers:
            if each.node_oid != old[each.oid]:
                assert unmet(of.placement, after.nodes[each.node_oid or ""].labels) is None


@settings(max_examples=100, deadline=None)
@given(some_fleet())
def test_any_fleet_can_be_asked(state: m.Snapshot) -> None:
    """Whatever goes on there: nothing goes where it is not admitted, or off a node that can't be heard."""
    for move in balanced(state).moves:
        at, to = state.nodes[move.source], state.nodes[move.target]
        assert at.status == to.status == "online" and not (at.draining or to.draining or to.cordoned)
        assert move.worker.node_oid == move.source != move.target and move.reason
    moves = balanced(state, lambda c, g: c.name == "east").moves
    assert {move.worker.cluster_oid for move in moves} <= {"east"}


def test_a_new_node_gets_its_share_and_each_move_says_why() -> None:
    workers = [worker("web", i, on=f"n{1 + i % 2}") for i in range(1, 7)]
    home = cluster(group("web", 6, workers), members=NAMES[:3])
    state = snapshot([node("n1"), node("n2"), node("n3")], home)
    found = balanced(state).moves
    assert [(each.worker.name, each.source, each.target, each.reason) for each in found] == [
        ("web-6", "n1", "n3", "of edge/web, n1 has 3 and n3 0"),
        ("web-5", "n2", "n3", "of edge/web, n2 has 3 and n3 1"),
    ]


def test_each_move_is_looked_for_and_put_in_order_in_slices_of_its_own() -> None:
    workers = [worker("web", i, on="n1") for i in range(1, 61)]
    state = snapshot([node("n1"), node("n2")], cluster(group("web", 60, workers), members=NAMES[:2]))
    assert len(balanced(state).moves) == 30
    assert sum(1 for _ in balance.moves(state, NOW, every)) == 30 + 30


def test_required_labels_come_first_then_the_spread() -> None:
    placement = Placement({"zone": ["a", "b"]}, "zone")
    workers = [worker("web", i, on=at) for i, at in enumerate(["n1", "n1", "n2", "n4"], start=1)]
    zones = [node(f"n{i}", labels={"zone": zone}) for i, zone in enumerate("aabc", start=1)]
    view = group("web", 4, workers, placement=placement)
    found = balanced(snapshot(zones, cluster(view, members=NAMES[:4]))).moves
    assert [(each.worker.name, each.target, each.reason) for each in found] == [
        ("web-4", "n3", "n4 has label zone=c (zone=a or b is required)"),
        ("web-2", "n3", "edge/web has 3 with zone=a and 1 with zone=b"),
    ]


def test_an_order_is_given_up_where_its_node_takes_no_worker_any_more() -> None:
    told = MoveOrder("n2", 1, "rebalance")
    workers = [worker("web", 1, on="n1", move=told), worker("web", 2, on="n1")]
    home = cluster(group("web", 2, workers), members=["n1", "n2"])
    actions = plan(snapshot([node("n1"), node("n2", cordoned=True)], home), NOW)
    assert actions == [m.CancelMove("web-1", "n2 is cordoned")]
    (act,) = plan(snapshot([node("n1"), node("n2")], home), NOW)
    assert act == m.Unassign("web-1", "rebalance", m.StopCause.MOVE)
    workers[1] = replace(workers[1], state=WorkerState.BACKOFF)
    late = cluster(group("web", 2, workers), members=["n1", "n2"])
    assert not of_kind(plan(snapshot([node("n1"), node("n2")], late), NOW), m.Unassign, m.CancelMove)


def test_a_worker_goes_where_it_was_ordered_or_where_there_is_room_then() -> None:
    told = MoveOrder("n3", 1, "rebalance")
    workers = [worker("web", 1, "STOPPED", move=told), worker("web", 2, on="n1")]
    home = cluster(group("web", 2, workers), members=["n1", "n2", "n3"])
    nodes = [node("n1"), node("n2"), node("n3")]
    assert of_kind(plan(snapshot(nodes, home), NOW), m.Place) == [m.Place("web-1", "n3", "rebalance")]
    nodes[2] = node("n3", cordoned=True)
    (place,) = of_kind(plan(snapshot(nodes, home), NOW), m.Place)
    assert isinstance(place, m.Place) and place.node_oid == "n2"
