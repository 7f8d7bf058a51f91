"""A node starts no worker beyond its own `max_workers`, whatever is assigned to it."""

from __future__ import annotations

import pytest
from busbar.agent.planner import lifecycle, plan
from busbar.agent.planner.lifecycle import Phase, Worker, WorkerTiming
from busbar.agent.planner.limits import no_room, without_room
from busbar.bus.messages import AssignedWorker
from busbar.bus.states import WorkerState
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

T = WorkerTiming(starting_limit=100)


def assigned(*oids: str) -> dict[str, AssignedWorker]:
    return {oid: AssignedWorker(f"w-{oid}", oid, "c", "w", 1, "r", "d") for oid in oids}


def worker(oid: str, phase: Phase = Phase.WAITING, **more: object) -> Worker:
    return replace(Worker(oid, f"w-{oid}", "c", 1, "d", phase=phase), **more)  # type: ignore[arg-type]


def by_oid(*workers: Worker) -> dict[str, Worker]:
    return {each.oid: each for each in workers}


phases = st.sampled_from(list(Phase))
fleets = st.lists(st.tuples(phases, st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=12).map(
    lambda found: [
        (worker(f"o{n:02}", phase, starts=starts, failures=failures), wanted)
        for n, (phase, starts, failures, wanted) in enumerate(found)
    ]
)


@pytest.mark.fault(72, "B")
@given(fleets, st.none() | st.integers(0, 12))
def test_no_more_workers_run_than_the_limit_allows_or_ran_before(
    fleet: list[tuple[Worker, bool]], limit: int | None
) -> None:
    workers = by_oid(*(each for each, _ in fleet))
    desired = assigned(*(each.oid for each, wanted in fleet if wanted))
    before = sum(each.alive for each in workers.values())
    steps = plan.reconcile(desired, workers, 1.0, T, limit)
    starts = [step for step in steps if isinstance(step, plan.StartWorker)]
    assert not starts or limit is None or before + len(starts) <= limit
    # No place that the limit leaves stays empty, and nothing is stopped for the limit.
    waiting = [each for each, wanted in fleet if wanted and each.phase is Phase.WAITING]
    room = len(waiting) if limit is None else max(0, limit - before)
    assert len(starts) == min(room, len(waiting))
    assert [s for s in steps if isinstance(s, plan.StopWorker)] == [
        s for s in plan.reconcile(desired, workers, 1.0, T) if isinstance(s, plan.StopWorker)
    ]


def test_a_worker_that_waits_for_its_restart_keeps_its_place() -> None:
    crashed = worker("z", starts=3, failures=3, next_start=99.0)
    workers = by_oid(worker("a"), worker("b", failures=1), crashed)
    assert without_room(assigned("a", "b", "z"), workers, 1) == {"a", "b"}
    assert without_room(assigned("a", "b", "z"), workers, 2) == {"b"}


def test_a_worker_that_is_being_stopped_takes_a_place_until_it_is_gone() -> None:
    workers = by_oid(worker("a", Phase.STOPPING, busy=True), worker("b"))
    assert without_room(assigned("b"), workers, 1) == {"b"}


def test_a_held_worker_says_so_for_as_long_as_it_is_so() -> None:
    workers = by_oid(worker("a", Phase.RUNNING, next_probe=lifecycle.NEVER), worker("b"))
    (hold,) = plan.reconcile(assigned("a", "b"), workers, 1.0, T, 1)
    assert isinstance(hold, plan.HoldWorker)
    held = lifecycle.holding(workers["b"], hold.held)
    assert lifecycle.reason(held) == no_room(1)
    assert lifecycle.reported_state(held) is WorkerState.BACKOFF
    again = plan.reconcile(assigned("a", "b"), {**workers, "b": held}, 1.0, T, 1)
    assert again == []
    release, start = plan.reconcile(assigned("a", "b"), {**workers, "b": held}, 1.0, T, 2)
    assert release == plan.HoldWorker("b", None, "there is room for it")
    assert isinstance(start, plan.StartWorker)
    assert lifecycle.reason(lifecycle.holding(held, None)) == "queued: start limit reached"
