"""The agent's plan, case by case: each step with its reason."""

from __future__ import annotations

import pytest
from busbar.agent.planner import lifecycle, plan
from busbar.agent.planner.lifecycle import NEVER, AfterStop, Phase, Worker, WorkerTiming
from busbar.bus.messages import AssignedWorker, Assignment
from busbar.bus.states import WorkerState
from msgspec.structs import replace

T = WorkerTiming()
NOW = 100.0


def assigned(oid: str = "o1", generation: int = 1, digest: str = "d1", **more: object) -> AssignedWorker:
    values: dict[str, object] = {"worker": f"w-{oid}", "cluster": "c", "workergroup": "w", "runtime": "amqtt"}
    return AssignedWorker(oid=oid, generation=generation, digest=digest, **{**values, **more})  # type: ignore[arg-type]


def worker(phase: Phase = Phase.WAITING, **more: object) -> Worker:
    base = Worker("o1", "w-o1", "c", 1, "d1", phase=phase, since=NOW - 1)
    return replace(base, **more)  # type: ignore[arg-type]


def steps(desired: list[AssignedWorker] | None, *workers: Worker, now: float = NOW) -> list[plan.Step]:
    by_oid = None if desired is None else {each.oid: each for each in desired}
    return plan.reconcile(by_oid, {each.oid: each for each in workers}, now, T)


def test_a_new_worker_is_admitted_and_then_started() -> None:
    assert steps([assigned()]) == [plan.AdmitWorker("o1", "assigned")]
    assert steps([assigned()], worker()) == [plan.StartWorker("o1", "assigned")]


@pytest.mark.parametrize("phase", list(Phase))
def test_without_an_assignment_nothing_is_started_or_stopped(phase: Phase) -> None:
    done = steps(None, worker(phase, failed_probes=99, deadline=0.0, next_start=NOW + 1))
    assert not [step for step in done if isinstance(step, plan.StartWorker | plan.StopWorker)]


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING, Phase.RUNNING])
def test_an_unassigned_worker_is_stopped_and_forgotten(phase: Phase) -> None:
    (stop,) = steps([], worker(phase))
    assert isinstance(stop, plan.StopWorker)
    assert (stop.after, stop.reason) == (AfterStop.FORGET, "no longer assigned to this node")


@pytest.mark.parametrize("change", [{"generation": 2}, {"digest": "d2"}])
def test_a_new_definition_is_looked_at_before_a_running_instance_is_stopped(
    change: dict[str, object],
) -> None:
    new = assigned(**change)  # type: ignore[arg-type]
    key = new.generation, new.digest
    running = worker(Phase.RUNNING, next_probe=NOW + 9)
    (step,) = steps([new], running)
    assert isinstance(step, plan.CheckWorker)
    begun = lifecycle.check_begun(running)
    assert steps([new], begun) == [], "once"
    bad = lifecycle.check_failed(begun, key, NOW, "/transport/x: no", T)
    assert steps([new], bad) == [], "the instance stays"
    assert lifecycle.reason(bad) == "not replaced: /transport/x: no"
    assert plan.next_due([bad], NOW) == NOW + min(9, T.check_again)
    assert isinstance(steps([new], bad, now=NOW + T.check_again)[0], plan.CheckWorker), "and again later"
    assert isinstance(steps([assigned(generation=3)], bad)[0], plan.CheckWorker), "another one at once"
    hung = replace(bad, failed_probes=3, probe_error="no answer")
    assert isinstance(steps([new], hung)[0], plan.StopWorker), "probes go on, and count"
    good = lifecycle.check_passed(begun, key)
    assert isinstance(steps([new], good)[0], plan.StopWorker)
    assert isinstance(steps([assigned(generation=3)], good)[0], plan.CheckWorker), "good for that one alone"


@pytest.mark.parametrize("change", [{"generation": 2}, {"digest": "d2"}])
def test_a_new_definition_first_stops_the_old_instance(change: dict[str, object]) -> None:
    (stop,) = steps([assigned(**change)], worker(Phase.STARTING))  # type: ignore[arg-type]
    assert isinstance(stop, plan.StopWorker)
    assert stop.after is AfterStop.REPLACE
    assert "new definition" in stop.reason


@pytest.mark.fault(74, "H")
def test_a_worker_that_is_stopped_for_its_failure_is_told_to_have_failed_at_once() -> None:
    hung = worker(Phase.RUNNING, failed_probes=3, probe_error="no answer")
    (stop,) = steps([assigned()], hung)
    assert isinstance(stop, plan.StopWorker)
    stopping = lifecycle.stopping(hung, NOW, stop.after, stop.reason)
    assert lifecycle.reported_state(stopping) is WorkerState.BACKOFF
    assert lifecycle.reason(stopping) == "hung: 3 probes unanswered, no answer"
    for after in (AfterStop.REPLACE, AfterStop.FORGET, AfterStop.HOLD):
        orderly = lifecycle.stopping(hung, NOW, after, "asked to")
        assert lifecycle.reported_state(orderly) is WorkerState.STOPPING


def test_a_worker_in_backoff_waits_unless_its_definition_changes() -> None:
    waiting = worker(next_start=NOW + 5, failures=3, last_failure="exit code 1")
    assert steps([assigned()], waiting) == []
    assert steps([assigned()], waiting, now=NOW + 5) == [plan.StartWorker("o1", "restart after: exit code 1")]
    (start,) = steps([assigned(generation=2)], waiting)
    assert isinstance(start, plan.StartWorker)


def test_a_worker_whose_new_definition_is_bad_comes_back_with_what_it_ran() -> None:
    new, key = assigned(generation=2), (2, "d1")
    ready = lifecycle.probe_succeeded(worker(Phase.RUNNING, probing=True), NOW, T)
    kept = lifecycle.check_failed(lifecycle.check_begun(ready), key, NOW, "/transport/x: no", T)
    ended = lifecycle.failed(kept, NOW, "exit code 1", 0.5)
    assert steps([new], ended) == [], "after its backoff"
    assert lifecycle.reason(ended) == "not replaced: /transport/x: no; next try in 0.25 s; exit code 1"
    at = ended.next_start
    assert steps([new], ended, now=at) == [plan.StartWorker("o1", "restart after: exit code 1", kept=True)]
    again = lifecycle.spawned(lifecycle.falling_back(ended, key, at, "/transport/x: no", T), at, 30.0)
    assert ((again.generation, again.digest), again.failures, again.restarts) == ((1, "d1"), 1, 0)
    assert again.next_check == kept.next_check, "a crash does not put the next look off"
    assert not [step for step in steps([new], again, now=at) if not isinstance(step, plan.ProbeWorker)]
    assert lifecycle.failed(again, at, "exit code 1", 0.5).delay > ended.delay, "it backs off further"
    late = kept.next_check
    assert steps([new], ended, now=late) == [plan.StartWorker("o1", "restart after: exit code 1")], "in time"
    (start,) = steps([assigned(generation=3)], ended)
    assert start == plan.StartWorker("o1", "restart after: exit code 1"), "another one at once"
    good = lifecycle.check_passed(again, key)
    assert isinstance(steps([new], good, now=at)[0], plan.StopWorker)


def test_an_adopted_worker_that_was_ready_is_kept_until_its_new_definition_is_found_good() -> None:
    adopted = lifecycle.adopted(worker(), NOW, NEVER, was_ready=True)
    assert isinstance(steps([assigned(generation=2)], adopted)[0], plan.CheckWorker)
    never_ready = lifecycle.adopted(worker(), NOW, NEVER, was_ready=False)
    assert isinstance(steps([assigned(generation=2)], never_ready)[0], plan.StopWorker)


def test_a_missed_start_deadline_stops_it_with_the_last_probe_error_as_reason() -> None:
    late = worker(Phase.STARTING, deadline=NOW, deadline_s=30.0, probe_error="nothing listens on 127.0.0.1:1")
    (stop,) = steps([assigned()], late)
    assert isinstance(stop, plan.StopWorker)
    assert stop.after is AfterStop.BACKOFF
    assert stop.reason == "not ready within 30 s: nothing listens on 127.0.0.1:1"


def test_time_in_which_the_agent_was_suspended_counts_against_no_deadline() -> None:
    late = worker(Phase.STARTING, since=NOW - 31, deadline=NOW - 1, deadline_s=30.0, failed_probes=2)
    assert isinstance(steps([assigned()], late)[0], plan.StopWorker)
    extended = lifecycle.agent_suspended(late, 20.0)
    assert not [step for step in steps([assigned()], extended) if isinstance(step, plan.StopWorker)]
    assert (extended.deadline, extended.failed_probes) == (NOW + 19, 0)


def test_a_hung_worker_is_stopped_after_three_failed_probes() -> None:
    assert not [
        s
        for s in steps([assigned()], worker(Phase.RUNNING, failed_probes=2))
        if isinstance(s, plan.StopWorker)
    ]
    (stop,) = steps([assigned()], worker(Phase.RUNNING, failed_probes=3, probe_error="no answer within 2 s"))
    assert isinstance(stop, plan.StopWorker)
    assert stop.after is AfterStop.BACKOFF
    assert stop.reason == "hung: 3 probes unanswered, no answer within 2 s"


def test_a_probe_starts_when_due_and_not_twice() -> None:
    due = worker(Phase.STARTING, next_probe=NOW, deadline=NOW + 9)
    assert steps([assigned()], due) == [plan.ProbeWorker("o1", False, "readiness")]
    assert steps([assigned()], lifecycle.probing(due)) == []
    adopted = replace(due, by_liveness=True)
    assert steps([assigned()], adopted) == [plan.ProbeWorker("o1", True, "liveness")]


def test_the_backoff_is_reset_after_ten_seconds_ready() -> None:
    running = worker(Phase.RUNNING, since=NOW - 10, failures=2, last_failure="exit code 1")
    assert steps([assigned()], running) == [plan.ResetBackoff("o1", "ready for 10 s")]
    assert lifecycle.backoff_reset(running).failures == 0
    assert lifecycle.reason(lifecycle.backoff_reset(running)) is None


def test_a_stop_that_left_processes_is_retried() -> None:
    stopping = lifecycle.stopping(worker(Phase.RUNNING), NOW, AfterStop.REPLACE, "why")
    assert steps([assigned()], stopping) == []
    left = lifecycle.stop_failed(stopping, NOW, "processes 7 can't be killed", T)
    assert steps([assigned()], left) == []
    assert steps([assigned()], left, now=NOW + 1) == [plan.StopWorker("o1", AfterStop.REPLACE, "why")]
    assert lifecycle.reason(left) == "why; processes 7 can't be killed"
    again = lifecycle.stopping(left, NOW + 1, AfterStop.REPLACE, "why")
    assert lifecycle.reason(again) == lifecycle.reason(left), "the same while it is tried again"


def test_a_worker_reassigned_during_its_stop_starts_anew_after_it_with_counts_reset() -> None:
    crashed = worker(Phase.RUNNING, failures=3, starts=4, restarts=3, last_failure="exit code 1")
    unassigned = lifecycle.stopping(crashed, NOW, AfterStop.FORGET, "no longer assigned")
    again = lifecycle.reassigned(unassigned)
    assert again.phase is Phase.STOPPING and again.busy, "never two at once"
    left = lifecycle.stopped(again, NOW + 1, 0.5)
    assert left is not None and (left.phase, left.next_start) == (Phase.WAITING, NOW + 1)
    assert (left.failures, left.starts, left.restarts, left.last_failure) == (0, 0, 0, None)
    assert steps([assigned()], left, now=NOW + 1) == [plan.StartWorker("o1", "assigned")]


@pytest.mark.parametrize("after", [AfterStop.REPLACE, AfterStop.BACKOFF, AfterStop.HOLD])
def test_reassignment_changes_only_a_stop_that_forgets(after: AfterStop) -> None:
    stopping = lifecycle.stopping(worker(Phase.RUNNING), NOW, after, "why")
    assert lifecycle.reassigned(stopping) is stopping
    running = worker(Phase.RUNNING)
    assert lifecycle.reassigned(running) is running


def test_starts_are_limited_and_the_longest_waiting_go_first() -> None:
    desired = [assigned(f"o{n}") for n in range(20)]
    known = [replace(worker(), oid=f"o{n}", next_start=NOW - n) for n in range(20)]
    known[0] = replace(known[0], phase=Phase.STARTING, deadline=NEVER)
    done = steps(desired, *known)
    assert [step.oid for step in done] == [f"o{n}" for n in range(19, 12, -1)]


def test_a_busy_worker_gets_no_step() -> None:
    assert steps([], worker(busy=True)) == []


def test_the_higher_generation_counts_of_two_entries_with_one_oid() -> None:
    both = Assignment(store="s", epoch=1, version=1, workers=[assigned(generation=2), assigned(generation=1)])
    desired = plan.desired_workers(both)
    assert desired is not None
    assert desired["o1"].generation == 2


def test_a_worker_desired_stopped_is_not_wanted() -> None:
    assert (
        plan.desired_workers(Assignment(store="s", epoch=1, version=1, workers=[assigned(desired="stopped")]))
        == {}
    )


def assignment(store: str = "s", epoch: int = 1, version: int = 1) -> Assignment:
    return Assignment(store=store, epoch=epoch, version=version, workers=[])


@pytest.mark.parametrize(
    ("new", "applied"),
    [
        (assignment(version=2), True),
        (assignment(epoch=2, version=0), True),
        (assignment(epoch=0, version=9), False),
        (assignment("t", 9, 9), False),
        (assignment(epoch=1 + plan.MAX_ADVANCE), True),
        (assignment(epoch=2 + plan.MAX_ADVANCE), False),
        (assignment(version=2 + plan.MAX_ADVANCE), False),
    ],
)
def test_only_a_later_assignment_of_the_same_store_is_applied(new: Assignment, applied: bool) -> None:
    assert not plan.is_redelivery(assignment(), new)
    reason = plan.refusal(assignment(), new, adopt_store=False)
    assert (reason is None) == applied
    assert applied or reason


def test_a_late_assignment_of_the_same_manager_is_a_redelivery_that_is_never_applied() -> None:
    applied, late = assignment(version=2), assignment(version=1)
    assert plan.is_redelivery(applied, late)
    assert plan.refusal(applied, late, adopt_store=False)


def test_the_same_assignment_again_is_a_redelivery_but_a_forged_one_is_refused() -> None:
    applied = Assignment(store="s", epoch=1, version=1, workers=[assigned()])
    assert plan.is_redelivery(applied, applied)
    assert not plan.is_redelivery(applied, assignment())
    assert plan.refusal(applied, assignment(), adopt_store=False)


def test_the_first_assignment_and_one_of_another_store_are_no_redelivery() -> None:
    assert not plan.is_redelivery(None, assignment())
    assert not plan.is_redelivery(assignment("s", 1, 2), assignment("t", 1, 1))


def test_any_store_is_accepted_when_none_is_applied_or_when_told_to_adopt_it() -> None:
    assert plan.refusal(None, assignment("t"), adopt_store=False) is None
    assert plan.refusal(assignment("s", 9, 9), assignment("t"), adopt_store=True) is None
    assert "--adopt-store" in str(plan.refusal(assignment(), assignment("t", 9, 9), adopt_store=False))


def test_states_and_reasons_as_they_are_reported() -> None:
    new = lifecycle.admitted("o1", "w-o1", "c", 1, "d1", NOW)
    assert lifecycle.reported_state(new) is WorkerState.STARTING
    starting = lifecycle.starting(new, 1, "d1", NOW)
    spawned = lifecycle.spawned(starting, NOW, 30)
    assert (lifecycle.reported_state(spawned), spawned.restarts) == (WorkerState.STARTING, 0)
    ready = lifecycle.probe_succeeded(spawned, NOW + 1, T)
    assert (lifecycle.reported_state(ready), lifecycle.reason(ready)) == (WorkerState.RUNNING, None)
    failed = lifecycle.failed(ready, NOW + 2, "exit code 1; last output: boom", 0.5)
    assert lifecycle.reported_state(failed) is WorkerState.BACKOFF
    assert lifecycle.reason(failed) == "next try in 0.25 s; exit code 1; last output: boom"
    again = lifecycle.spawned(lifecycle.starting(failed, 1, "d1", NOW + 3), NOW + 3, 30)
    assert again.restarts == 1
    assert lifecycle.reason(again) == "restarting: exit code 1; last output: boom"
    other = lifecycle.spawned(lifecycle.starting(failed, 2, "d2", NOW + 3), NOW + 3, 30)
    assert (other.restarts, other.failures, other.last_failure) == (0, 0, None)


def test_backoff_grows_to_its_cap_and_retries_are_unlimited() -> None:
    each = worker(Phase.STARTING)
    delays = []
    for _ in range(200):
        each = lifecycle.failed(replace(each, phase=Phase.STARTING), NOW, "x", 0.5)
        delays.append(each.delay)
    assert delays[:3] == [0.25, 0.5, 1.0]
    assert delays[-1] == 30.0
    assert each.next_start == NOW + 30


def test_next_due_is_when_time_alone_makes_a_step_due() -> None:
    assert plan.next_due([], NOW) == NEVER
    assert plan.next_due([worker(next_start=NOW + 3)], NOW) == NOW + 3
    assert plan.next_due([worker(next_start=NOW - 3)], NOW) == NEVER
    assert plan.next_due([worker(Phase.STARTING, deadline=NOW + 9, next_probe=NOW + 1)], NOW) == NOW + 1
    assert plan.next_due([worker(Phase.RUNNING, next_probe=NEVER)], NOW) == NEVER


@pytest.mark.parametrize(
    ("phase", "more", "due"),
    [
        (Phase.WAITING, {"next_start": NOW + 2}, NOW + 2),
        (Phase.WAITING, {"next_start": NOW}, NEVER),
        (Phase.STOPPING, {"next_start": NOW + 3}, NOW + 3),
        (Phase.STARTING, {"deadline": NOW + 9, "next_probe": NOW + 4}, NOW + 4),
        (Phase.STARTING, {"deadline": NOW + 3, "next_probe": NOW + 4}, NOW + 3),
        (Phase.RUNNING, {"next_probe": NOW + 40}, NOW + 40),
        (Phase.RUNNING, {"next_probe": NOW + 40, "last_failure": "x"}, NOW + 9),
        (Phase.STOPPED, {"next_start": NOW + 2}, NEVER),
        (Phase.STOPPING, {"next_start": NOW + 3, "busy": True}, NEVER),
    ],
)
def test_when_a_worker_is_due(phase: Phase, more: dict[str, object], due: float) -> None:
    assert plan.next_due([worker(phase, **more)], NOW) == due
    assert plan.next_due([], NOW) == NEVER


def test_how_far_an_assignment_may_be_ahead() -> None:
    applied = Assignment("s", 3, 8, [])
    for epoch, version, refused in ((3 + 2**32, 0, False), (4 + 2**32, 0, True), (3, 9 + 2**32, True)):
        found = plan.refusal(applied, Assignment("s", epoch, version, []), adopt_store=False)
        assert (found is not None and "too far ahead" in found) == refused


def test_a_running_worker_is_told_of_its_peers_once_they_differ_from_those_it_knows() -> None:
    for phase in (Phase.STARTING, Phase.RUNNING):
        running = worker(phase, peers="p1", known_peers="p0", next_probe=NOW + 9)
        assert steps([assigned()], running) == [plan.TellPeers("o1", "its peers have changed")]
        assert steps(None, running) == [], "without an assignment nothing is known of its peers"
        begun = lifecycle.telling_peers(running)
        assert steps([assigned()], begun) == [] and plan.next_due([begun], NOW) == NOW + 9
        done = lifecycle.peers_told(begun, NOW, "p1", T)
        assert steps([assigned()], done, now=NOW + 8) == []


def test_peers_that_change_again_wait_for_their_turn() -> None:
    told = lifecycle.peers_told(worker(Phase.RUNNING, next_probe=NOW + 9), NOW, "p1", T)
    again = lifecycle.with_peers(told, "p2")
    assert steps([assigned()], again, now=NOW + 0.5) == []
    assert plan.next_due([again], NOW) == NOW + T.peers_every
    assert steps([assigned()], again, now=NOW + T.peers_every)


def test_a_reload_that_failed_is_a_reason_and_tried_again_later() -> None:
    running = worker(Phase.RUNNING, peers="p1", known_peers="p0", next_probe=NOW + 99)
    bad = lifecycle.peers_not_told(lifecycle.telling_peers(running), NOW, "disk full", T)
    assert lifecycle.reason(bad) == "not told of its present peers: disk full"
    assert lifecycle.reported_state(bad) is WorkerState.RUNNING
    assert steps([assigned()], bad, now=NOW + T.peers_again - 0.1) == []
    assert plan.next_due([bad], NOW) == NOW + T.peers_again
    assert steps([assigned()], bad, now=NOW + T.peers_again)
    assert lifecycle.reason(lifecycle.peers_told(bad, NOW, "p1", T)) is None


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STOPPING, Phase.STOPPED])
def test_peers_are_told_to_no_worker_without_a_process_that_lasts(phase: Phase) -> None:
    resting = worker(phase, peers="p1", known_peers="p0", busy=True)
    assert steps([assigned()], resting) == []
    begun = lifecycle.spawned(lifecycle.starting(resting, 1, "d1", NOW), NOW, 30.0)
    assert begun.known_peers == "p1", "its start has told it"
