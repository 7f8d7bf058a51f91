"""What must never happen, whatever the fleet looks like and whatever befalls it.

Random fleets live through random faults in a simulator that refuses illegal steps; after every pass of the
plan the rules below are checked. What a node holds is counted anew from the snapshot, apart from the plan's
own bookkeeping.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from busbar.bus.placement import Placement
from busbar.bus.states import STARTED, ClusterState, Leaves, NodeStatus, WorkerState, may_advance
from busbar.manager.planner import model as m
from busbar.manager.planner.liveness import judge_nodes
from busbar.manager.planner.placement import Load
from busbar.manager.planner.plan import at_rest, plan, plan_cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from tests.unit.manager.planner.fleets import (
    NOW,
    REFUSES,
    TRANSPORT,
    Simulator,
    cluster,
    group,
    node,
    snapshot,
    worker,
)

PLACED = (WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF, WorkerState.UNKNOWN)
NODES = ["n1", "n2", "n3", "n4"]
GROUPS = ["web", "api"]
PLACEMENTS = [
    None,
    None,
    Placement({"zone": "a"}),
    Placement({"zone": ["a", "b"]}, "zone"),
    Placement(spread="zone"),
]
limits = st.one_of(st.none(), st.integers(0, 3))
runtimes = st.sampled_from(
    [frozenset({"amqtt"}), frozenset({"amqtt", "mosquitto"}), frozenset({"mosquitto"})]
)
members = st.dictionaries(st.sampled_from(NODES), st.tuples(limits, limits), max_size=4).map(
    lambda found: tuple(m.MemberView(name, hard, soft) for name, (hard, soft) in found.items())
)


@st.composite
def some_nodes(draw: st.DrawFn) -> list[m.NodeView]:
    return [
        node(
            name,
            draw(st.sampled_from(list(NodeStatus))),
            draw(st.sampled_from([0, 5, 14, 16, 29, 31, 45, 61, 500])),
            runtimes=draw(runtimes),
            max_workers=draw(limits),
            goodbye=draw(st.sampled_from([False, False, False, True])),
            leaves=draw(st.sampled_from([None, *Leaves])),
            heard_once=draw(st.booleans()),
            known=draw(st.booleans()),
            lost_before=draw(st.sampled_from([False, False, True])),
            will_at=draw(st.sampled_from([None, None, NOW])),
            draining=draw(st.sampled_from([False, False, False, True])),
            schemas=draw(st.sampled_from([{}, {}, {"amqtt": REFUSES}])),
            cordoned=draw(st.sampled_from([False, False, False, True])),
            labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
        )
        for name in NODES
    ]


@st.composite
def some_group(draw: st.DrawFn, name: str, of: str) -> m.GroupView:
    workers = []
    for ordinal in sorted(draw(st.sets(st.integers(1, 5)))):
        state = draw(st.sampled_from(list(WorkerState)))
        held = state in PLACED or state is WorkerState.STOPPING
        place = draw(st.sampled_from(NODES)) if held else None
        revision = draw(st.sampled_from([1, 1, 2]))
        workers.append(worker(name, ordinal, state, on=place, cluster_oid=of, revision=revision))
    return group(
        name,
        draw(st.integers(0, 5)),
        workers,
        draw(st.sampled_from(list(ClusterState))),
        runtime=draw(st.sampled_from(["amqtt", "mosquitto"])),
        lost_after=draw(st.sampled_from([0.0, 30.0, 100.0])),
        none_ready_since=draw(st.sampled_from([None, NOW - 300, NOW])),
        revision=2,
        settled=draw(st.sampled_from([1, 2])),
        max_unavailable=draw(st.integers(1, 3)),
        max_surge=draw(st.sampled_from([0, 0, 1, 2])),
        transport=draw(st.sampled_from([None, TRANSPORT])),
        placement=draw(st.sampled_from(PLACEMENTS)),
    )


@st.composite
def some_fleet(draw: st.DrawFn) -> m.Snapshot:
    clusters = [
        cluster(
            *[draw(some_group(f"{name}-{of}", name)) for of in GROUPS],
            members=draw(members),
            status=draw(st.sampled_from(list(ClusterState))),
            name=name,
        )
        for name in ("east", "west")
    ]
    return snapshot(draw(some_nodes()), *clusters)


@st.composite
def troubled_fleet(draw: st.DrawFn) -> m.Snapshot:
    """A running cluster over four nodes with room, some of which fell silent one way or another."""
    silences = st.sampled_from([0, 0, 0, 16, 31, 40, 61, 105, 300])
    nodes = [
        node(
            name,
            silence=draw(silences),
            goodbye=draw(st.integers(0, 9)) == 0,
            leaves=draw(st.sampled_from([None, *Leaves])),
        )
        for name in NODES
    ]
    homes = draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=5))
    workers = [worker("web", i, on=home) for i, home in enumerate(homes, start=1)]
    lost_after = draw(st.sampled_from([0.0, 30.0, 100.0]))
    room = draw(st.sampled_from([None, None, 2]))
    where = [m.MemberView(name, hardlimit=room) for name in NODES]
    return snapshot(nodes, cluster(group("web", len(homes), workers, lost_after=lost_after), members=where))


# --- what may never be


def check_step(before: m.Snapshot, actions: list[m.Action], now: float) -> None:
    """The rules for one pass, counted anew from the snapshot it saw."""
    status = {oid: each.status for oid, each in before.nodes.items()}
    workers = {w.oid: w for c in before.clusters.values() for g in c.groups for w in g.workers}
    groups = {g.oid: g for c in before.clusters.values() for g in c.groups}
    held = Counter(w.node_oid for w in workers.values() if w.node_oid)
    held_of = Counter((w.cluster_oid, w.node_oid) for w in workers.values() if w.node_oid)
    hold = before.hold
    touched: Counter[str] = Counter()
    for action in actions:
        assert isinstance(action, m.MassFailureHold) or action.reason, action
        if isinstance(action, m.SetNode):
            assert may_advance(status[action.node_oid], action.status), action
            status[action.node_oid] = action.status
        elif isinstance(action, m.MassFailureHold):
            hold = action.reason
        elif isinstance(action, m.NoteDrain):
            assert before.nodes[action.node_oid].draining and action.note
        elif isinstance(action, m.BlockRollout | m.CompleteRollout):
            assert groups[action.group_oid].revision != groups[action.group_oid].settled
        elif isinstance(action, m.SetGroup):
            assert may_advance(groups[action.group_oid].status, action.status), action
        elif isinstance(action, m.SetCluster):
            assert may_advance(before.clusters[action.cluster_oid].status, action.status), action
        elif isinstance(action, m.CreateWorker):
            of_group = groups[action.group_oid]
            assert 1 <= action.ordinal <= most(of_group)
            assert action.ordinal not in {w.ordinal for w in of_group.workers}
            assert before.clusters[of_group.cluster_oid].status in STARTED
            if action.node_oid is not None:
                check_place(before, status, of_group, action.node_oid, held, held_of)
        else:
            of = workers[action.worker_oid]
            touched[of.oid] += 1
            if isinstance(action, m.Place):
                assert of.state in (WorkerState.PENDING, WorkerState.STOPPED) and of.node_oid is None
                check_place(before, status, groups[of.group_oid], action.node_oid, held, held_of)
            elif isinstance(action, m.Evict):
                check_evict(before, status, of, hold, now)
            elif isinstance(action, m.MarkUnknown):
                assert status[of.node_oid or ""] is not NodeStatus.ONLINE
            elif isinstance(action, m.MarkStopped):
                assert of.state in (WorkerState.PENDING, WorkerState.STOPPING)
            elif isinstance(action, m.Unassign):
                assert of.state in PLACED
            elif isinstance(action, m.Replace):
                of_group = groups[of.group_oid]
                assert of.state in PLACED and of.revision != of_group.revision and hold is None
                assert status[of.node_oid or ""] is NodeStatus.ONLINE
                assert of_group.runtime in before.nodes[of.node_oid or ""].runtimes
    assert not touched or max(touched.values()) == 1, "two decisions about one worker in one pass"


def most(of: m.GroupView) -> int:
    """The highest ordinal that a group may have."""
    return of.scale + (of.max_surge if of.revision != of.settled else 0)


def check_place(
    before: m.Snapshot,
    status: dict[str, NodeStatus],
    of: m.GroupView,
    node_oid: str,
    held: Counter[str | None],
    held_of: Counter[tuple[str, str | None]],
) -> None:
    home = before.clusters[of.cluster_oid]
    assert home.status in STARTED
    assert status[node_oid] is NodeStatus.ONLINE
    assert not before.nodes[node_oid].cordoned
    for label, values in of.placement.require.items() if of.placement else ():
        assert before.nodes[node_oid].labels.get(label) in ([values] if isinstance(values, str) else values)
    (member,) = [each for each in home.members if each.node_oid == node_oid]
    target = before.nodes[node_oid]
    assert not target.draining
    assert of.runtime in target.runtimes
    assert of.transport is None or of.runtime not in target.schemas, "its schema refuses the transport"
    held[node_oid] += 1
    held_of[of.cluster_oid, node_oid] += 1
    if member.hardlimit is not None:
        assert held_of[of.cluster_oid, node_oid] <= member.hardlimit
    if target.max_workers is not None:
        assert held[node_oid] <= target.max_workers


def check_evict(
    before: m.Snapshot, status: dict[str, NodeStatus], of: m.WorkerView, hold: str | None, now: float
) -> None:
    home = before.clusters[of.cluster_oid]
    left = of.node_oid not in {each.node_oid for each in home.members}
    where = status[of.node_oid or ""]
    if left or where is NodeStatus.UNPAIRED:
        return
    assert where in (NodeStatus.LOST, NodeStatus.OFFLINE)
    lost_after = next(g.lost_after for g in home.groups if g.oid == of.group_oid)
    node_view, lost = before.nodes[of.node_oid or ""], before.timing.lost_after * before.timing.heartbeat
    assert now - node_view.heard_at >= (lost_after if node_view.goodbye else max(lost_after, lost))
    if node_view.goodbye and node_view.leaves is Leaves.RUNNING and not node_view.draining:
        assert now - node_view.heard_at >= before.timing.offline_after
    assert hold is None, "moved under the brake"


def overfull(state: m.Snapshot) -> set[tuple[str, str]]:
    found = Counter(
        (w.cluster_oid, w.node_oid) for c in state.clusters.values() for g in c.groups for w in g.workers
    )
    return {
        (of.oid, member.node_oid)
        for of in state.clusters.values()
        for member in of.members
        if member.hardlimit is not None and found[of.oid, member.node_oid] > member.hardlimit
    }


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_fleet())
def test_every_fleet_converges_and_keeps_the_invariants(state: m.Snapshot) -> None:
    sim = Simulator(state)
    over = overfull(state)
    for _ in range(12):
        before = sim.snapshot
        actions = sim.step()
        check_step(before, actions, sim.now)
        assert overfull(sim.snapshot) <= over
        if not actions:
            break
    assert plan(sim.snapshot, sim.now) == [], "the plan does not come to rest"
    check_rest(sim.snapshot)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_fleet())
def test_a_cluster_is_at_rest_only_where_a_plan_has_no_actions(state: m.Snapshot) -> None:
    fleet, _ = judge_nodes(state, NOW)
    for of in state.clusters.values():
        if at_rest(of):
            assert plan_cluster(fleet, Load(state), of, NOW) == []
        still = stopped(of)
        assert at_rest(still) == (plan_cluster(fleet, Load(state), still, NOW) == [])


def stopped(of: m.ClusterView) -> m.ClusterView:
    """The cluster with every group and worker stopped; some workers may be above the scale."""
    groups = (
        replace(
            group,
            status=ClusterState.STOPPED,
            workers=tuple(replace(w, state=WorkerState.STOPPED, node_oid=None) for w in group.workers),
        )
        for group in of.groups
    )
    return replace(of, status=ClusterState.STOPPED, groups=tuple(groups))


@settings(max_examples=300, deadline=None)
@given(troubled_fleet())
def test_no_eviction_is_early_under_the_hold_or_without_a_new_place(state: m.Snapshot) -> None:
    sim = Simulator(state)
    actions = sim.step()
    check_step(state, actions, sim.now)
    check_hold(state, actions)
    moved = [action.worker_oid for action in actions if isinstance(action, m.Evict)]
    sim.settle()
    assert all(sim.worker(oid).node_oid for oid in moved), "moved without a place to go to"


def check_hold(state: m.Snapshot, actions: list[m.Action]) -> None:
    """The rule of the brake, counted the plain way: more than half lost within a minute of each other."""
    lost = [n for n in state.nodes.values() if NOW - n.heard_at >= 30 and not n.goodbye]
    alive = [n for n in state.nodes.values() if NOW - n.heard_at < 30 and not n.goodbye]
    together = max((sum(1 for b in lost if 0 <= b.heard_at - a.heard_at <= 60) for a in lost), default=0)
    if together >= 2 and together > len(alive):
        assert not [action for action in actions if isinstance(action, m.Evict)]


def check_rest(state: m.Snapshot) -> None:
    """What holds whenever there is nothing left to do."""
    for of in state.clusters.values():
        for of_group in of.groups:
            if of.status not in STARTED:
                continue
            ordinals = sorted(w.ordinal for w in of_group.workers if w.state is not WorkerState.STOPPING)
            assert set(range(1, of_group.scale + 1)) <= {w.ordinal for w in of_group.workers}
            assert not ordinals or ordinals[-1] <= most(of_group)
            for each in of_group.workers:
                at = state.nodes.get(each.node_oid or "")
                if each.state is WorkerState.RUNNING:
                    assert at is not None and at.status is NodeStatus.ONLINE, "called running, can't be heard"
                assert each.state is not WorkerState.PENDING or each.reason


@settings(max_examples=60, deadline=None)
@given(some_fleet())
def test_the_plan_follows_from_the_snapshot_alone(state: m.Snapshot) -> None:
    shuffled = replace(
        state,
        nodes=dict(reversed(state.nodes.items())),
        clusters=dict(reversed(state.clusters.items())),
    )
    assert plan(state, NOW) == plan(shuffled, NOW) == plan(state, NOW)


class Fleet(RuleBasedStateMachine):
    """A fleet under faults: nodes fall silent and return, workers fail, an operator changes everything."""

    @initialize(
        where=st.tuples(members, members),
        offers=st.lists(runtimes, min_size=4, max_size=4),
        lost_after=st.sampled_from([0.0, 30.0, 60.0]),
    )
    def begin(self, where: Any, offers: list[frozenset[str]], lost_after: float) -> None:
        clusters = [
            cluster(
                group(f"{name}-web", 2, status="STARTING", since=NOW, lost_after=lost_after),
                members=found,
                status="STARTING",
                name=name,
            )
            for name, found in zip(("east", "west"), where, strict=True)
        ]
        nodes = [node(name, runtimes=offer) for name, offer in zip(NODES, offers, strict=True)]
        self.sim = Simulator(snapshot(nodes, *clusters))
        self.silent: set[str] = set()
        self.goodbyes: set[str] = set()

    @rule()
    def one_pass(self) -> None:
        before = self.sim.snapshot
        actions = self.sim.step()
        check_step(before, actions, self.sim.now)

    @rule()
    def come_to_rest(self) -> None:
        self.sim.settle()
        check_rest(self.sim.snapshot)

    @rule()
    def nodes_obey(self) -> None:
        self.sim.obey()

    @rule(seconds=st.sampled_from([1, 5, 16, 31, 70]))
    def time_passes(self, seconds: int) -> None:
        self.sim.pass_time(seconds, self.silent)
        self.sim.settle()
        check_rest(self.sim.snapshot)

    @rule(name=st.sampled_from(NODES))
    def falls_silent(self, name: str) -> None:
        self.silent.add(name)

    @rule(name=st.sampled_from(NODES))
    def leaves(self, name: str) -> None:
        self.silent.add(name)
        self._node(name, goodbye=True)

    @rule(name=st.sampled_from(NODES))
    def returns(self, name: str) -> None:
        self.silent.discard(name)
        self._node(name, goodbye=False, heard_at=self.sim.now, heard_once=True)

    @precondition(lambda self: self._placed())
    @rule(data=st.data(), state=st.sampled_from(["BACKOFF", "STARTING", "RUNNING"]))
    def a_worker_changes(self, data: st.DataObject, state: str) -> None:
        oid = data.draw(st.sampled_from(self._placed()))
        self.sim.report(oid, state)

    @rule(name=st.sampled_from(["east", "west"]), scale=st.integers(0, 4))
    def scale(self, name: str, scale: int) -> None:
        self.sim.change_group(f"{name}-web", scale=scale)

    @rule(name=st.sampled_from(["east", "west"]), limits=st.sampled_from([(1, 0), (0, 1), (2, 1)]))
    def update(self, name: str, limits: tuple[int, int]) -> None:
        of_group = self.sim.cluster(name).groups[0]
        facts = {"revision": of_group.revision + 1, "max_unavailable": limits[0], "max_surge": limits[1]}
        self.sim.change_group(of_group.oid, **facts)

    @rule(name=st.sampled_from(NODES))
    def drain(self, name: str) -> None:
        self._node(name, draining=True)

    @rule(name=st.sampled_from(NODES))
    def undrain(self, name: str) -> None:
        self._node(name, draining=False, drain_note=None)

    @rule(name=st.sampled_from(["east", "west"]), found=members)
    def members_change(self, name: str, found: Any) -> None:
        self.sim.change_cluster(name, members=found)

    @rule(name=st.sampled_from(["east", "west"]))
    def stop_or_start(self, name: str) -> None:
        status = self.sim.cluster(name).status
        if status in STARTED:
            self.sim.change_cluster(name, status=ClusterState.STOPPING, since=self.sim.now)
        elif status is ClusterState.STOPPED:
            self.sim.change_cluster(name, status=ClusterState.STARTING, since=self.sim.now)

    @invariant()
    def one_row_per_slot(self) -> None:
        for of in self.sim.snapshot.clusters.values():
            for of_group in of.groups:
                ordinals = [each.ordinal for each in of_group.workers]
                assert len(ordinals) == len(set(ordinals))

    def teardown(self) -> None:
        """All heals in the end: every node is heard, the limits are lifted, and both clusters run."""
        if not hasattr(self, "sim"):
            return
        for name in NODES:
            self.returns(name)
            self.undrain(name)
            self._node(name, runtimes=frozenset({"amqtt"}))
        for name in ("east", "west"):
            self.sim.change_cluster(name, members=tuple(m.MemberView(each) for each in NODES))
        for _ in range(15):
            self.sim.pass_time(1)
            self.sim.settle()
            self.sim.obey()
            for name in ("east", "west"):
                if self.sim.cluster(name).status is ClusterState.STOPPED:
                    self.stop_or_start(name)
        self.sim.settle()
        assert {of.status for of in self.sim.snapshot.clusters.values()} == {ClusterState.RUNNING}
        for of_group in (g for of in self.sim.snapshot.clusters.values() for g in of.groups):
            assert of_group.settled == of_group.revision, "an update has not ended"
            assert {w.revision for w in of_group.workers} <= {of_group.revision}

    def _placed(self) -> list[str]:
        """Workers whose node can speak of them."""
        online = {oid for oid, each in self.sim.snapshot.nodes.items() if each.status is NodeStatus.ONLINE}
        return sorted(
            w.oid for w in self.sim.workers() if w.state in PLACED and w.node_oid in online - self.silent
        )

    def _node(self, name: str, **facts: object) -> None:
        state = self.sim.snapshot
        new = replace(state.nodes[name], **facts)  # type: ignore[arg-type]
        self.sim.snapshot = replace(state, nodes={**state.nodes, name: new})


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
