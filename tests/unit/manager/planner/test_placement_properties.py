"""Placement by labels, whatever the nodes: what is required holds, the spread is as even as the room allows,
and nothing moves by itself."""

from __future__ import annotations

from collections import Counter
from itertools import product

from busbar.bus.placement import Placement, unmet
from busbar.bus.states import NodeStatus
from busbar.manager.planner import model as m
from busbar.manager.planner.liveness import Fleet
from busbar.manager.planner.placement import Candidates, Load
from busbar.manager.planner.plan import plan
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import NOW, TIMING, Simulator, cluster, group, node, snapshot

NAMES = [f"n{number}" for number in range(1, 7)]
VALUES = ["a", "b", None]
PLACEMENTS = [Placement(spread="zone"), Placement({"disk": "ssd"}, "zone"), Placement({"zone": ["a", "b"]})]


@st.composite
def labelled(draw: st.DrawFn) -> m.Snapshot:
    """A started cluster without workers on nodes of three values, some of which take none."""
    nodes, members = [], []
    for name in NAMES:
        zone, disk = draw(st.sampled_from(VALUES)), draw(st.sampled_from(["ssd", "ssd", None]))
        labels = {key: text for key, text in (("zone", zone), ("disk", disk)) if text is not None}
        closed = draw(st.sampled_from(["", "", "", "cordoned", "draining", "late"]))
        shut = {closed: True} if closed in ("cordoned", "draining") else {}
        status = "late" if closed == "late" else "online"
        most = draw(st.sampled_from([None, 1, 2, 4]))
        silence = 20.0 if closed == "late" else 0.0
        nodes.append(node(name, status, silence, labels=labels, max_workers=most, **shut))
        members.append(
            m.MemberView(name, draw(st.sampled_from([None, 0, 1, 3])), draw(st.sampled_from([None, 1])))
        )
    placement = draw(st.sampled_from(PLACEMENTS))
    of = group("web", draw(st.integers(0, 9)), status="STARTING", placement=placement)
    return snapshot(nodes, cluster(of, members=members, status="STARTING"))


def room(state: m.Snapshot) -> dict[str, int]:
    """How many workers each node takes."""
    home = state.clusters["edge"]
    found = {}
    for member in home.members:
        at = state.nodes[member.node_oid]
        shut = at.cordoned or at.draining or at.status is not NodeStatus.ONLINE
        limits = [limit for limit in (member.hardlimit, at.max_workers, 99) if limit is not None]
        found[at.oid] = 0 if shut or unmet(home.groups[0].placement, at.labels) else min(limits)
    return found


@given(labelled())
def test_the_spread_is_as_even_as_the_room_allows(state: m.Snapshot) -> None:
    home, of = state.clusters["edge"], state.clusters["edge"].groups[0]
    fleet = Fleet(state.nodes, {oid: each.status for oid, each in state.nodes.items()}, TIMING, NOW)
    found = Candidates(fleet, Load(state), home, of)
    placed = Counter(chosen.node_oid for _ in range(of.scale) if (chosen := found.reserve()))
    room_of = room(state)
    assert placed.total() == min(of.scale, sum(room_of.values()))
    assert all(count <= room_of[oid] for oid, count in placed.items())
    if of.placement is None or of.placement.spread is None:
        return
    free = Counter[str | None]()
    for oid, count in room_of.items():
        free[state.nodes[oid].labels.get("zone")] += count
    values = [value for value in VALUES if free[value]]
    counts = Counter(state.nodes[oid].labels.get("zone") for oid in placed.elements())
    ways = product(*(range(min(free[value], of.scale) + 1) for value in values))
    even = min((max(way) - min(way) for way in ways if values and sum(way) == placed.total()), default=0)
    assert max((counts[v] for v in values), default=0) - min((counts[v] for v in values), default=0) == even


@given(labelled(), st.sampled_from(VALUES))
def test_nothing_moves_for_new_nodes_or_changed_labels(state: m.Snapshot, zone: str | None) -> None:
    world = Simulator(state)
    for _ in range(4):
        world.step()
        world.obey()
    where = {each.oid: each.node_oid for each in world.workers() if each.node_oid}
    for name in ("n7", "n8"):
        fresh = node(name, labels={"zone": zone or "new", "disk": "ssd"})
        world.snapshot = replace(world.snapshot, nodes={**world.snapshot.nodes, name: fresh})
    world.change_cluster(members=(*world.cluster().members, m.MemberView("n7"), m.MemberView("n8")))
    for name in NAMES:
        world.change_node(name, labels={} if zone is None else {"zone": zone})
    for _ in range(4):
        actions = plan(world.snapshot, NOW)
        assert not [each for each in actions if isinstance(each, m.Unassign | m.Evict | m.Replace)]
        world.step()
        world.obey()
    after = {each.oid: each.node_oid for each in world.workers()}
    assert {oid: after[oid] for oid in where} == where
