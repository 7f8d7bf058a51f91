"""Invariants of every schedule: a small world of workers, driven by the plan and by random events."""

from __future__ import annotations

from dataclasses import dataclass, field

from busbar.agent.planner import lifecycle, plan
from busbar.agent.planner.lifecycle import AfterStop, Phase, Worker, WorkerTiming
from busbar.bus.messages import AssignedWorker
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

OIDS = ("a", "b", "c")
EVENTS = ("exit", "probe ok", "probe failed", "stopped", "stop failed", "found good", "found bad", "bad file")
T = WorkerTiming(starting_limit=2)
Desired = dict[str, AssignedWorker] | None


def definition(oid: str, generation: int) -> AssignedWorker:
    return AssignedWorker(
        worker=f"w-{oid}",
        oid=oid,
        cluster="c",
        workergroup="w",
        generation=generation,
        runtime="r",
        digest=f"d{generation}",
    )


@dataclass
class World:
    """The real processes and the agent's view of them; each rule is checked where it could be broken."""

    desired: Desired = None
    now: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    looked_at: dict[str, tuple[int, str]] = field(default_factory=dict)
    good: set[tuple[int, str]] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    """Workers whose definitions are refused at their start, except those with which they were ready."""

    def reconcile(self) -> None:
        for step in plan.reconcile(self.desired, self.workers, self.now, T):
            self.apply(step)

    def apply(self, step: plan.Step) -> None:
        worker = self.workers.get(step.oid)
        assert step.reason
        match step:
            case plan.AdmitWorker():
                assert worker is None
                assert self.desired is not None
                each = self.desired[step.oid]
                self.workers[step.oid] = lifecycle.admitted(
                    each.oid, each.worker, each.cluster, each.generation, each.digest, self.now
                )
            case plan.StartWorker():
                assert worker is not None
                assert self.desired is not None
                assert step.oid not in self.processes, "a second instance"
                starting = self.begin(worker, self.desired[step.oid], kept=step.kept)
                self.processes[step.oid] = starting.generation
                self.workers[step.oid] = lifecycle.spawned(starting, self.now, 30.0)
                in_start = [each for each in self.workers.values() if each.phase is Phase.STARTING]
                assert len(in_start) <= T.starting_limit
            case plan.CheckWorker():
                assert worker is not None and not worker.checking
                assert step.oid in self.processes
                assert self.desired is not None
                self.workers[step.oid] = lifecycle.check_begun(worker)
                each = self.desired[step.oid]
                self.looked_at[step.oid] = (each.generation, each.digest)
            case plan.StopWorker():
                assert worker is not None
                self.check_stop(worker, step)
                self.workers[step.oid] = lifecycle.stopping(worker, self.now, step.after, step.reason)
            case plan.ProbeWorker():
                assert worker is not None
                assert step.oid in self.processes
                self.workers[step.oid] = lifecycle.probing(worker)
            case plan.ResetBackoff():
                assert worker is not None
                self.workers[step.oid] = lifecycle.backoff_reset(worker)

    def begin(self, worker: Worker, each: AssignedWorker, *, kept: bool) -> Worker:
        """What the controller makes of a start: a bad definition makes way for what the worker ran."""
        key = each.generation, each.digest
        if kept:
            assert worker.proven not in (None, key) and worker.rejected == key
        if kept or (worker.oid in self.bad and worker.proven not in (None, key)):
            fallen = lifecycle.falling_back(worker, key, self.now, "bad", T)
            assert (fallen.generation, fallen.digest) == worker.proven
            return fallen
        return lifecycle.starting(worker, *key, self.now)

    def check_stop(self, worker: Worker, step: plan.StopWorker) -> None:
        assert self.desired is not None, "stopped without an assignment"
        each = self.desired.get(worker.oid)
        if each is not None and worker.matches(each.generation, each.digest):
            unhealthy = worker.failed_probes >= T.live_misses or self.now >= worker.deadline
            assert worker.phase is Phase.STOPPING or (step.after is AfterStop.BACKOFF and unhealthy)
        elif each is not None and step.after is AfterStop.REPLACE and worker.phase is not Phase.STOPPING:
            if worker.phase is Phase.STARTING and worker.rejection is None and not worker.by_liveness:
                return
            assert (each.generation, each.digest) in self.good, "stopped for what was not found good"

    def happen(self, what: str, oid: str) -> None:
        worker = self.workers.get(oid)
        if worker is None:
            return
        if what == "bad file":
            self.bad ^= {oid}
        running = worker.phase in (Phase.STARTING, Phase.RUNNING)
        if what == "exit" and running:
            self.processes.pop(oid)
            self.workers[oid] = lifecycle.failed(worker, self.now, "exit code 1", 0.5)
        elif what == "probe ok" and worker.probing and running:
            self.workers[oid] = lifecycle.probe_succeeded(worker, self.now, T)
        elif what == "probe failed" and worker.probing and running:
            self.workers[oid] = lifecycle.probe_failed(worker, self.now, "no answer", T)
        elif what.startswith("found") and worker.checking:
            self.found(worker, what == "found good")
        elif what == "stopped" and worker.phase is Phase.STOPPING and worker.busy:
            self.processes.pop(oid, None)
            self.replace(oid, lifecycle.stopped(worker, self.now, 0.5))
        elif what == "stop failed" and worker.phase is Phase.STOPPING and worker.busy:
            self.workers[oid] = lifecycle.stop_failed(worker, self.now, "processes 1", T)

    def found(self, worker: Worker, good: bool) -> None:
        key = self.looked_at[worker.oid]
        if good:
            self.good.add(key)
            self.workers[worker.oid] = lifecycle.check_passed(worker, key)
        else:
            self.workers[worker.oid] = lifecycle.check_failed(worker, key, self.now, "bad", T)

    def replace(self, oid: str, worker: Worker | None) -> None:
        if worker is None:
            del self.workers[oid]
        else:
            self.workers[oid] = worker


assignments = st.dictionaries(st.sampled_from(OIDS), st.integers(1, 3)).map(
    lambda found: {oid: definition(oid, generation) for oid, generation in found.items()}
)
events = st.one_of(
    st.tuples(st.just("assign"), assignments),
    st.tuples(st.just("wait"), st.floats(0.01, 40.0)),
    st.tuples(st.sampled_from(EVENTS), st.sampled_from(OIDS)),
)


def play(schedule: list[tuple[str, object]]) -> World:
    world = World()
    for what, value in schedule:
        if what == "assign":
            world.desired = value  # type: ignore[assignment]
        elif what == "wait":
            world.now += value  # type: ignore[operator]
        else:
            world.happen(what, str(value))
        world.reconcile()
        check(world)
    return world


def check(world: World) -> None:
    for oid in world.processes:
        assert world.workers[oid].alive, "the agent takes a living process for gone"
    for worker in world.workers.values():
        assert (worker.oid in world.processes) or worker.phase not in (Phase.STARTING, Phase.RUNNING)
        assert replace(worker).oid == worker.oid
        lifecycle.reported_state(worker)
        assert len(lifecycle.reason(worker) or "") <= lifecycle.MAX_REASON


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=60))
def test_never_two_instances_and_no_stop_without_a_reason(
    schedule: list[tuple[str, object]],
) -> None:
    play(schedule)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=40), assignments)
def test_the_agent_converges_after_any_schedule(
    schedule: list[tuple[str, object]], last: dict[str, AssignedWorker]
) -> None:
    world = play(schedule)
    world.desired = last
    world.bad.clear()
    for _ in range(60):
        world.reconcile()
        for oid in OIDS:
            world.happen("stopped", oid)
            world.happen("probe ok", oid)
            world.happen("found good", oid)
        world.reconcile()
        world.now += 2.0
    assert world.processes == {oid: each.generation for oid, each in last.items()}
    assert {oid: each.phase for oid, each in world.workers.items()} == dict.fromkeys(last, Phase.RUNNING)


@settings(max_examples=100, deadline=None)
@given(st.lists(events.filter(lambda event: event[0] != "assign"), max_size=40))
def test_nothing_is_stopped_without_an_assignment(schedule: list[tuple[str, object]]) -> None:
    """Workers adopted by an agent without an assignment go on, whatever their probes say."""
    world = World()
    for oid in OIDS:
        world.workers[oid] = lifecycle.adopted(Worker(oid, f"w-{oid}", "c", 1, "d1"), 0.0, 30.0, True)
        world.processes[oid] = 1
    for what, value in schedule:
        if what == "wait":
            world.now += value  # type: ignore[operator]
        elif what != "exit":
            world.happen(what, str(value))
        world.reconcile()
    assert set(world.processes) == set(OIDS)


@settings(max_examples=150, deadline=None)
@given(st.lists(events.filter(lambda event: event[0] not in ("assign", "found good")), max_size=60))
def test_a_bad_update_never_takes_down_what_was_ready(schedule: list[tuple[str, object]]) -> None:
    """However often it ends, and its agent with it, a worker runs only what it was ready with."""
    world = World(bad=set(OIDS))
    for oid in OIDS:
        ready = Worker(oid, f"w-{oid}", "c", 1, "d1", phase=Phase.RUNNING, proven=(1, "d1"))
        world.workers[oid], world.processes[oid] = replace(ready, next_probe=0.0), 1
    world.desired = {oid: definition(oid, 2) for oid in OIDS}
    for what, value in schedule:
        if what == "wait":
            world.now += value  # type: ignore[operator]
        elif what == "bad file":
            world.workers[str(value)] = restarted(world.workers[str(value)], world.now)
        else:
            world.happen(what, str(value))
        world.reconcile()
        assert set(world.processes.values()) <= {1}
    for _ in range(60):
        world.now += 2.0
        world.reconcile()
        for oid in OIDS:
            for what in ("stopped", "probe ok", "found bad"):
                world.happen(what, oid)
    assert world.processes == dict.fromkeys(OIDS, 1), "each is back"


def restarted(worker: Worker, now: float) -> Worker:
    """As a new agent finds it in its record."""
    found = Worker(
        worker.oid, worker.name, "c", worker.generation, worker.digest, since=now, proven=worker.proven
    )
    if worker.phase in (Phase.STARTING, Phase.RUNNING):
        return lifecycle.adopted(found, now, 30.0, worker.phase is Phase.RUNNING)
    return found if worker.phase is Phase.WAITING else worker
