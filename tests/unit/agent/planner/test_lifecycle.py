"""A worker's transitions one by one: what each sets, resets and leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.agent.planner import lifecycle, plan
from busbar.agent.planner.lifecycle import NEVER, AfterStop, Phase, Worker, WorkerTiming
from busbar.bus.messages import AssignedWorker
from busbar.bus.states import WorkerState
from msgspec.structs import asdict, replace

T = WorkerTiming()
NOW = 100.0
USED = Worker(
    "o1", "w-1", "c", 4, "d4", Phase.RUNNING, since=50.0, next_start=40.0, delay=3.0, deadline=60.0,
    deadline_s=30.0, next_probe=99.0, probing=True, by_liveness=True, failed_probes=2,
    probe_error="no answer", failures=3, starts=5, restarts=4, last_failure="exit code 1", stop_reason="old",
    stop_error="old error",
)  # fmt: skip
"""A running worker with a past."""


def changes(before: Worker, after: Worker) -> dict[str, object]:
    then = asdict(before)
    return {name: value for name, value in asdict(after).items() if value != then[name]}


def test_a_worker_is_hung_after_three_probes_of_five_seconds() -> None:
    assert (T.live_every, T.live_misses) == (5.0, 3)
    assert (T.probe_every, T.probe_every_max, T.starting_limit, T.stop_again) == (0.05, 0.25, 8, 1.0)


def test_a_hung_worker_is_stopped_after_fifteen_seconds_and_not_before() -> None:
    """Probed when due, with no answer: by the clock."""
    definition = AssignedWorker(
        worker="w-1", oid="o1", cluster="c", workergroup="w", runtime="sim", generation=4, digest="d4"
    )
    worker = lifecycle.probe_succeeded(replace(USED, last_failure=None), NOW, T)
    now = NOW
    for _ in range(100):
        (step,) = plan.reconcile({"o1": definition}, {"o1": worker}, now, T) or [None]
        if isinstance(step, plan.StopWorker):
            break
        if isinstance(step, plan.ProbeWorker):
            worker = lifecycle.probe_failed(lifecycle.probing(worker), now, "no answer", T)
        else:
            now = plan.next_due([worker], now)
    assert isinstance(step, plan.StopWorker) and now == NOW + 15.0


def test_an_answer_makes_earlier_failed_probes_forgotten() -> None:
    worker = lifecycle.probe_succeeded(replace(USED, last_failure=None), NOW, T)
    for _ in range(10):
        for _ in range(T.live_misses - 1):
            worker = lifecycle.probe_failed(worker, NOW, "no answer", T)
        worker = lifecycle.probe_succeeded(worker, NOW, T)
        assert (worker.failed_probes, worker.probe_error) == (0, None)


def test_a_worker_that_answers_is_ready_since_its_first_answer() -> None:
    ready = lifecycle.probe_succeeded(replace(USED, phase=Phase.STARTING), NOW, T)
    assert (ready.phase, ready.since, ready.deadline) == (Phase.RUNNING, NOW, NEVER)
    assert (ready.probing, ready.next_probe) == (False, NOW + 5.0)
    assert lifecycle.probe_succeeded(ready, NOW + 9, T).since == NOW
    unprobed = lifecycle.without_probe(replace(USED, phase=Phase.STARTING), NOW)
    assert (unprobed.phase, unprobed.next_probe) == (Phase.RUNNING, NEVER)


@pytest.mark.parametrize(
    ("phase", "age", "wait"),
    [
        (Phase.RUNNING, 50, 5.0),
        (Phase.STARTING, 0, 0.05),
        (Phase.STARTING, 1, 0.1),
        (Phase.STARTING, 2, 0.15),
        (Phase.STARTING, 50, 0.25),
    ],
)
def test_a_starting_worker_is_probed_often_at_first(phase: Phase, age: float, wait: float) -> None:
    worker = replace(USED, phase=phase, since=NOW - age)
    after = lifecycle.probe_failed(worker, NOW, "refused", T)
    assert after.next_probe == pytest.approx(NOW + wait)
    assert changes(worker, replace(after, next_probe=99.0)) == {
        "probing": False,
        "failed_probes": 3,
        "probe_error": "refused",
    }


def test_a_probe_in_progress_is_not_due() -> None:
    assert changes(replace(USED, probing=False), lifecycle.probing(USED)) == {
        "probing": True,
        "next_probe": NEVER,
    }


def test_a_start_of_the_same_definition_keeps_the_counts() -> None:
    start = lifecycle.starting(USED, 4, "d4", NOW)
    assert (start.failures, start.starts, start.restarts, start.last_failure) == (3, 5, 4, "exit code 1")
    assert (start.phase, start.since, start.busy) == (Phase.STARTING, NOW, True)
    assert (start.deadline, start.next_probe, start.probing) == (NEVER, NEVER, False)
    assert (start.by_liveness, start.failed_probes, start.probe_error) == (False, 0, None)


@pytest.mark.parametrize("definition", [(5, "d4"), (4, "d5")])
def test_a_start_of_another_definition_resets_them(definition: tuple[int, str]) -> None:
    start = lifecycle.starting(USED, *definition, NOW)
    assert (start.generation, start.digest) == definition
    assert (start.failures, start.starts, start.restarts, start.last_failure) == (0, 0, 0, None)


def test_a_spawned_worker_is_probed_at_once_and_has_its_deadline() -> None:
    start = lifecycle.starting(USED, 4, "d4", NOW)
    spawned = lifecycle.spawned(start, NOW + 1, 30.0)
    assert (spawned.busy, spawned.since, spawned.next_probe) == (False, NOW + 1, NOW + 1)
    assert (spawned.deadline, spawned.deadline_s) == (NOW + 31, 30.0)
    assert (spawned.starts, spawned.restarts) == (6, 5)
    first = lifecycle.spawned(lifecycle.admitted("o", "w", "c", 1, "d", NOW), NOW, 30.0)
    assert (first.starts, first.restarts) == (1, 0)


def test_an_admitted_worker_may_start_now() -> None:
    new = lifecycle.admitted("o", "w", "c", 2, "d", NOW)
    assert new == Worker("o", "w", "c", 2, "d", Phase.WAITING, since=NOW, next_start=NOW)
    assert (new.delay, new.deadline_s, new.failed_probes, new.failures) == (0.0, 0.0, 0, 0)
    assert (new.starts, new.restarts, new.probing, new.by_liveness) == (0, 0, False, False)
    assert (new.busy, new.deadline, new.next_probe, new.after_stop) == (False, NEVER, NEVER, AfterStop.FORGET)


@pytest.mark.parametrize("was_ready", [True, False])
def test_an_adopted_worker_is_probed_as_it_was(was_ready: bool) -> None:
    adopted = lifecycle.adopted(replace(USED, busy=True), NOW, 30.0, was_ready)
    assert (adopted.phase, adopted.busy, adopted.since) == (Phase.STARTING, False, NOW)
    assert (adopted.by_liveness, adopted.next_probe) == (was_ready, NOW)
    assert (adopted.deadline, adopted.deadline_s, adopted.starts) == (NOW + 30, 30.0, 5)


@pytest.mark.parametrize(("ready_for", "failures"), [(9.9, 4), (10.0, 1)])
def test_a_failure_counts_anew_after_a_stable_time(ready_for: float, failures: int) -> None:
    failed = lifecycle.failed(replace(USED, since=NOW - ready_for), NOW, "x" * 3000, 0.5)
    assert (failed.phase, failed.failures, failed.since) == (Phase.WAITING, failures, NOW)
    assert failed.delay > 0 and failed.next_start == NOW + failed.delay
    assert (failed.deadline, failed.next_probe, failed.probing) == (NEVER, NEVER, False)
    assert failed.last_failure == "x" * lifecycle.MAX_REASON
    never_ready = replace(USED, phase=Phase.STARTING, since=NOW - ready_for)
    assert lifecycle.failed(never_ready, NOW, "x", 0.5).failures == 4


def test_a_reset_of_the_backoff_forgets_the_failures() -> None:
    assert changes(USED, lifecycle.backoff_reset(USED)) == {"failures": 0, "last_failure": None, "delay": 0.0}


def test_a_stop_is_an_operation_with_an_end_in_mind() -> None:
    stop = lifecycle.stopping(USED, NOW, AfterStop.BACKOFF, "hung")
    assert (stop.phase, stop.since, stop.busy) == (Phase.STOPPING, NOW, True)
    assert (stop.next_probe, stop.probing, stop.deadline) == (NEVER, False, NEVER)
    assert (stop.after_stop, stop.stop_reason) == (AfterStop.BACKOFF, "hung")
    again = lifecycle.stop_failed(stop, NOW + 5, "2 survived", T)
    assert changes(stop, again) == {"busy": False, "next_start": NOW + 6, "stop_error": "2 survived"}
    assert lifecycle.reason(again) == "hung; 2 survived" and lifecycle.reason(stop) == "hung"


@pytest.mark.parametrize(
    ("after", "phase", "due"),
    [
        (AfterStop.HOLD, Phase.STOPPED, 40.0),
        (AfterStop.REPLACE, Phase.WAITING, NOW + 2),
        (AfterStop.BACKOFF, Phase.WAITING, None),
    ],
)
def test_what_follows_a_stop(after: AfterStop, phase: Phase, due: float | None) -> None:
    done = lifecycle.stopped(lifecycle.stopping(USED, NOW, after, "why"), NOW + 2, 0.5)
    assert done is not None and (done.phase, done.busy, done.since) == (phase, False, NOW + 2)
    assert done.next_start == (done.since + done.delay if due is None else due)
    assert (done.failures, done.last_failure) == ((4, "why") if due is None else (3, "exit code 1"))
    forgotten = lifecycle.stopping(USED, NOW, AfterStop.FORGET, "why")
    assert lifecycle.stopped(forgotten, NOW, 0.5) is None


def test_an_assignment_during_a_stop_that_forgets_counts_as_a_new_worker() -> None:
    stop = lifecycle.stopping(USED, NOW, AfterStop.FORGET, "unassigned")
    again = lifecycle.reassigned(stop)
    assert (again.after_stop, again.phase) == (AfterStop.REPLACE, Phase.STOPPING)
    assert (again.failures, again.starts, again.restarts, again.last_failure) == (0, 0, 0, None)
    assert "assigned again" in (again.stop_reason or "")
    assert lifecycle.reassigned(USED) is USED


@pytest.mark.parametrize(
    ("worker", "state", "words"),
    [
        (replace(USED, phase=Phase.WAITING), "BACKOFF", "next try in 3 s; exit code 1"),
        (Worker("o", "w", "c"), "STARTING", "queued: start limit reached"),
        (replace(USED, phase=Phase.WAITING, failures=0), "STARTING", "exit code 1"),
        (replace(USED, phase=Phase.STARTING), "STARTING", "restarting: exit code 1"),
        (replace(USED, phase=Phase.STARTING, last_failure=None), "STARTING", None),
        (
            replace(USED, phase=Phase.STARTING, failed_probes=20),
            "STARTING",
            "not ready yet: no answer; before: exit code 1",
        ),
        (replace(USED, phase=Phase.STARTING, failed_probes=19), "STARTING", "restarting: exit code 1"),
        (USED, "RUNNING", "does not answer: no answer"),
        (replace(USED, failed_probes=0), "RUNNING", "restarted: exit code 1"),
        (replace(USED, failed_probes=0, last_failure=None), "RUNNING", None),
        (replace(USED, phase=Phase.STOPPED), "STOPPED", "old"),
    ],
)
def test_states_and_reasons(worker: Worker, state: str, words: str | None) -> None:
    assert lifecycle.reported_state(worker) is WorkerState(state)
    assert lifecycle.reason(worker) == words


@pytest.mark.parametrize("phase", list(Phase))
def test_only_waiting_and_stopped_workers_have_no_process(phase: Phase) -> None:
    assert replace(USED, phase=phase).alive == (phase not in (Phase.WAITING, Phase.STOPPED))


@pytest.mark.parametrize(
    ("more", "definition", "expected"),
    [
        ({}, (3, "d1"), True),
        ({"phase": lifecycle.Phase.STARTING}, (3, "d1"), True),
        ({}, (4, "d1"), False),
        ({}, (3, "d3"), False),
        ({}, (3, "d2"), False),
        ({"rejected": (2, "d1")}, (3, "d1"), False),
        ({"rejected": None}, (3, "d1"), False),
        ({"outdated": "its file has changed"}, (3, "d1"), False),
        ({"busy": True}, (3, "d1"), False),
        ({"phase": lifecycle.Phase.WAITING}, (3, "d1"), False),
        ({"phase": lifecycle.Phase.STOPPING}, (3, "d1"), False),
    ],
)
def test_only_the_next_generation_after_a_rejected_one_may_be_what_runs(
    more: dict[str, Any], definition: tuple[int, str], expected: bool
) -> None:
    plain = lifecycle.Worker("o", "web-1", "edge", 1, "d1", lifecycle.Phase.RUNNING, proven=(1, "d1"))
    worker = replace(plain, **{"rejected": (2, "d2"), "rejection": "bad", **more})
    assert lifecycle.is_way_back(worker, definition) is expected
    after = lifecycle.way_back(worker, definition)
    assert (after.rejected, after.rejection, after.generation) == (None, None, definition[0])
    assert after.proven == definition
