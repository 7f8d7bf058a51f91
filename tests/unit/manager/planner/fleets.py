"""Builders of snapshots, and a small pure simulator that carries out actions on one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from busbar.bus.states import ClusterState, NodeStatus, WorkerState, advance
from busbar.manager.planner import model as m
from busbar.manager.planner.plan import plan
from msgspec.structs import replace

NOW = 1000.0
TIMING = m.LivenessTiming(heartbeat=5.0)
"""Late at 15 s of silence, lost at 30 s."""
TRANSPORT = {"type": "mqtt", "options": {"x": 1}}
REFUSES = '{"properties": {"options": {"additionalProperties": false}}}'
"""The schema of a node that does not accept that transport."""
REFUSED = "/options/x: unknown member (known: none)"


def node(name: str, status: str = "online", silence: float = 0.0, **more: object) -> m.NodeView:
    """A node heard `silence` seconds before NOW; it offers amqtt. Its oid is its name."""
    facts: dict[str, object] = {
        "oid": name,
        "name": name,
        "status": NodeStatus(status),
        "heard_at": NOW - silence,
        "runtimes": frozenset({"amqtt"}),
        "heard_once": True,
        "known": True,
    }
    return m.NodeView(**(facts | more))  # type: ignore[arg-type]


def worker(
    group: str, ordinal: int, state: str = "RUNNING", on: str | None = None, **more: object
) -> m.WorkerView:
    """A worker of a group; its oid and name are `{group}-{ordinal}`."""
    facts: dict[str, object] = {
        "oid": f"{group}-{ordinal}",
        "name": f"{group}-{ordinal}",
        "ordinal": ordinal,
        "group_oid": group,
        "cluster_oid": "edge",
        "state": WorkerState(state),
        "node_oid": on,
        "generation": 1 if on else 0,
    }
    return m.WorkerView(**(facts | more))  # type: ignore[arg-type]


def group(
    name: str, scale: int, workers: Sequence[m.WorkerView] = (), status: str = "RUNNING", **more: object
) -> m.GroupView:
    """A group of amqtt workers, in its status since 100 s before NOW."""
    facts: dict[str, object] = {
        "oid": name,
        "name": name,
        "cluster_oid": "edge",
        "scale": scale,
        "status": ClusterState(status),
        "since": NOW - 100,
        "runtime": "amqtt",
        "lost_after": 30.0,
        "start_deadline": 60.0,
        "workers": tuple(workers),
    }
    return m.GroupView(**(facts | more))  # type: ignore[arg-type]


def cluster(
    *groups: m.GroupView, members: Iterable[object] = (), status: str = "RUNNING", name: str = "edge"
) -> m.ClusterView:
    """A cluster; members are node names, or MemberViews with limits."""
    views = tuple(each if isinstance(each, m.MemberView) else m.MemberView(str(each)) for each in members)
    return m.ClusterView(
        oid=name,
        name=name,
        status=ClusterState(status),
        since=NOW - 100,
        members=views,
        groups=tuple(replace(each, cluster_oid=name) for each in groups),
    )


def snapshot(
    nodes: Iterable[m.NodeView], *clusters: m.ClusterView, timing: m.LivenessTiming = TIMING, **more: object
) -> m.Snapshot:
    return m.Snapshot(
        timing=timing,
        nodes={each.oid: each for each in nodes},
        clusters={each.oid: each for each in clusters},
        **more,  # type: ignore[arg-type]
    )


def of_kind(actions: Iterable[m.Action], *kinds: type) -> list[m.Action]:
    return [action for action in actions if isinstance(action, kinds)]


class Simulator:
    """A Snapshot that actions change, as the store and its nodes would. Illegal steps raise."""

    def __init__(self, start: m.Snapshot, now: float = NOW) -> None:
        self.snapshot = start
        self.now = now

    def step(self) -> list[m.Action]:
        """One pass of the plan, carried out."""
        actions = plan(self.snapshot, self.now)
        for action in actions:
            self.apply(action)
        return actions

    def settle(self, passes: int = 12) -> list[m.Action]:
        """Passes until nothing is left to do; fails when that does not come."""
        done: list[m.Action] = []
        for _ in range(passes):
            actions = self.step()
            if not actions:
                return done
            done += actions
        raise AssertionError(f"no rest after {passes} passes; the last one: {actions}")

    def apply(self, action: m.Action) -> None:
        match action:
            case m.SetNode():
                old = self.snapshot.nodes[action.node_oid]
                new = replace(old, status=advance(old.status, action.status))
                self.snapshot = replace(self.snapshot, nodes={**self.snapshot.nodes, new.oid: new})
            case m.MassFailureHold():
                self.snapshot = replace(self.snapshot, hold=action.reason, hold_nodes=action.nodes)
            case m.SetCluster():
                of = self.snapshot.clusters[action.cluster_oid]
                self._put(replace(of, status=advance(of.status, action.status), since=self.now))
            case m.SetGroup():
                self._group(self._find_group(action.group_oid), status=action.status)
            case m.NoteDrain():
                of_node = self.snapshot.nodes[action.node_oid]
                assert of_node.draining
                self.change_node(of_node.oid, drain_note=action.note)
            case m.BlockRollout():
                self._group(self._find_group(action.group_oid), held_back=action.why)
            case m.CompleteRollout():
                assert self._find_group(action.group_oid).revision == action.revision
                self._group(self._find_group(action.group_oid), settled=action.revision, held_back=None)
            case m.CreateWorker():
                of_group = self._find_group(action.group_oid)
                state = "STARTING" if action.node_oid else "PENDING"
                more = {"cluster_oid": of_group.cluster_oid, "reason": action.reason}
                more |= {"revision": of_group.revision}
                new_worker = worker(of_group.oid, action.ordinal, state, on=action.node_oid, **more)
                assert new_worker.oid not in {each.oid for each in of_group.workers}
                self._group(of_group, workers=(*of_group.workers, new_worker))
            case _:
                self._worker(action)

    def _worker(self, action: m.Action) -> None:
        of = self.worker(action.worker_oid)  # type: ignore[union-attr]
        of_group = self._find_group(of.group_oid)
        if isinstance(action, m.DropWorker):
            assert of.state in (WorkerState.STOPPED, WorkerState.PENDING)
            kept = tuple(each for each in of_group.workers if each.oid != of.oid)
            self._group(of_group, workers=kept)
            return
        new = self._changed(of, action)
        advance(of.state, new.state)
        self._group(of_group, workers=tuple(new if w.oid == of.oid else w for w in of_group.workers))

    def _changed(self, of: m.WorkerView, action: m.Action) -> m.WorkerView:
        away = {"node_oid": None, "last_node_oid": of.node_oid, "reason": action.reason}
        match action:
            case m.Place():
                assert of.state in (WorkerState.PENDING, WorkerState.STOPPED), "only one without a place"
                return replace(
                    of,
                    state=WorkerState.STARTING,
                    node_oid=action.node_oid,
                    generation=of.generation + 1,
                    revision=self._find_group(of.group_oid).revision,
                    reason=action.reason,
                    move=None,
                )
            case m.Replace():
                assert of.node_oid is not None
                revision = self._find_group(of.group_oid).revision
                assert of.revision != revision
                generation = of.generation + 1
                return replace(of, state=WorkerState.STARTING, generation=generation, revision=revision)
            case m.Explain():
                assert of.state is WorkerState.STARTING
                return replace(of, reason=action.reason)
            case m.Unassign() | m.Relocate():
                assert of.node_oid is not None
                ordered = isinstance(action, m.Unassign) and action.cause is m.StopCause.MOVE
                move = of.move if ordered else None
                return replace(of, state=WorkerState.STOPPING, reason=action.reason, move=move)
            case m.CancelMove():
                assert of.move is not None
                return replace(of, move=None)
            case m.MarkUnknown():
                return replace(of, state=WorkerState.UNKNOWN, reason=action.reason)
            case m.Evict():
                return replace(of, state=WorkerState.PENDING, **away)
            case m.MarkStopped():
                return replace(of, state=WorkerState.STOPPED, **away)
            case m.MarkPending():
                return replace(of, state=WorkerState.PENDING, node_oid=None, reason=action.reason)
        raise AssertionError(action)

    # --- what the world does

    def report(self, worker_oid: str, state: str) -> None:
        """The worker's node says so."""
        of = self.worker(worker_oid)
        place = None if state == "STOPPED" else of.node_oid
        new = replace(of, state=advance(of.state, WorkerState(state)), node_oid=place)
        of_group = self._find_group(of.group_oid)
        self._group(of_group, workers=tuple(new if w.oid == of.oid else w for w in of_group.workers))

    def obey(self) -> None:
        """Every node that can be heard does what its assignment says, and reports it."""
        for each in self.workers():
            of = self.snapshot.nodes.get(each.node_oid or "")
            if of is None or of.status is not NodeStatus.ONLINE:
                continue
            if each.state is WorkerState.STOPPING:
                self.report(each.oid, "STOPPED")
            elif each.state is not WorkerState.RUNNING:
                self.report(each.oid, "RUNNING")

    def pass_time(self, seconds: float, silent: Iterable[str] = ()) -> None:
        """Time passes; all paired nodes but the silent ones are heard."""
        self.now += seconds
        quiet = set(silent)
        nodes = {
            oid: each if oid in quiet else replace(each, heard_at=self.now, heard_once=True, will_at=None)
            for oid, each in self.snapshot.nodes.items()
        }
        self.snapshot = replace(self.snapshot, nodes=nodes)

    # --- look-ups

    def workers(self) -> list[m.WorkerView]:
        return [w for c in self.snapshot.clusters.values() for g in c.groups for w in g.workers]

    def worker(self, oid: str) -> m.WorkerView:
        return next(each for each in self.workers() if each.oid == oid)

    def cluster(self, oid: str = "edge") -> m.ClusterView:
        return self.snapshot.clusters[oid]

    def change_cluster(self, oid: str = "edge", **facts: object) -> None:
        self._put(replace(self.cluster(oid), **facts))  # type: ignore[arg-type]

    def change_group(self, oid: str, **facts: object) -> None:
        self._group(self._find_group(oid), **facts)

    def change_node(self, oid: str, **facts: object) -> None:
        new = replace(self.snapshot.nodes[oid], **facts)  # type: ignore[arg-type]
        self.snapshot = replace(self.snapshot, nodes={**self.snapshot.nodes, oid: new})

    def _find_group(self, oid: str) -> m.GroupView:
        return next(g for c in self.snapshot.clusters.values() for g in c.groups if g.oid == oid)

    def _group(self, of: m.GroupView, **facts: object) -> None:
        if "status" in facts:
            facts |= {"status": advance(of.status, ClusterState(str(facts["status"]))), "since": self.now}
        new = replace(of, **facts)  # type: ignore[arg-type]
        owner = self.snapshot.clusters[of.cluster_oid]
        self._put(replace(owner, groups=tuple(new if g.oid == of.oid else g for g in owner.groups)))

    def _put(self, of: m.ClusterView) -> None:
        self.snapshot = replace(self.snapshot, clusters={**self.snapshot.clusters, of.oid: of})
