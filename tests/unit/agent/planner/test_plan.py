"""The agent's plan, case by case: each step, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from busbar.agent.planner import lifecycle, plan
from busbar.agent.planner.lifecycle import NEVER, Phase, Then, Timing, Worker
from busbar.bus.messages import AssignedWorker, Assignment
from busbar.bus.states import WorkerState

T = Timing()
NOW = 100.0


def assigned(oid: str = "o1", generation: int = 1, digest: str = "d1", **more: object) -> AssignedWorker:
    values: dict[str, object] = {"worker": f"w-{oid}", "cluster": "c", "workergroup": "w", "runtime": "amqtt"}
    return AssignedWorker(oid=oid, generation=generation, digest=digest, **{**values, **more})  # type: ignore[arg-type]


def worker(phase: Phase = Phase.WAITING, **more: object) -> Worker:
    base = Worker("o1", "w-o1", "c", 1, "d1", phase=phase, since=NOW - 1)
    return replace(base, **more)  # type: ignore[arg-type]


def steps(wanted: list[AssignedWorker] | None, *workers: Worker, now: float = NOW) -> list[plan.Step]:
    by_oid = None if wanted is None else {each.oid: each for each in wanted}
    return plan.steps(by_oid, {each.oid: each for each in workers}, now, T)


def test_a_new_worker_is_admitted_and_then_started() -> None:
    assert steps([assigned()]) == [plan.Admit("o1", "assigned")]
    assert steps([assigned()], worker()) == [plan.Start("o1", "assigned")]


@pytest.mark.parametrize("phase", list(Phase))
def test_without_an_assignment_nothing_is_started_or_stopped(phase: Phase) -> None:
    done = steps(None, worker(phase, misses=99, deadline=0.0, next_start=NOW + 1))
    assert not [step for step in done if isinstance(step, plan.Start | plan.Stop)]


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING, Phase.RUNNING])
def test_an_unassigned_worker_is_stopped_and_forgotten(phase: Phase) -> None:
    (stop,) = steps([], worker(phase))
    assert isinstance(stop, plan.Stop)
    assert (stop.then, stop.reason) == (Then.FORGET, "no longer assigned to this node")


@pytest.mark.parametrize("change", [{"generation": 2}, {"digest": "d2"}])
def test_another_definition_stops_the_old_one_before_anything_else(change: dict[str, object]) -> None:
    (stop,) = steps([assigned(**change)], worker(Phase.RUNNING))  # type: ignore[arg-type]
    assert isinstance(stop, plan.Stop)
    assert stop.then is Then.REPLACE
    assert "new definition" in stop.reason


def test_a_worker_in_backoff_waits_unless_its_definition_changes() -> None:
    waiting = worker(next_start=NOW + 5, failures=3, cause="exit code 1")
    assert steps([assigned()], waiting) == []
    assert steps([assigned()], waiting, now=NOW + 5) == [plan.Start("o1", "again after: exit code 1")]
    (start,) = steps([assigned(generation=2)], waiting)
    assert isinstance(start, plan.Start)


def test_a_missed_start_deadline_stops_it_with_the_last_answer_as_reason() -> None:
    late = worker(Phase.STARTING, deadline=NOW, deadline_s=30.0, missed="nothing listens on 127.0.0.1:1")
    (stop,) = steps([assigned()], late)
    assert isinstance(stop, plan.Stop)
    assert stop.then is Then.BACKOFF
    assert stop.reason == "not ready within 30 s: nothing listens on 127.0.0.1:1"


def test_no_deadline_runs_while_the_agent_itself_is_stopped() -> None:
    late = worker(Phase.STARTING, since=NOW - 31, deadline=NOW - 1, deadline_s=30.0, misses=2)
    assert isinstance(steps([assigned()], late)[0], plan.Stop)
    excused = lifecycle.slept(late, 20.0)
    assert not [step for step in steps([assigned()], excused) if isinstance(step, plan.Stop)]
    assert (excused.deadline, excused.misses) == (NOW + 19, 0)


def test_a_hung_worker_is_stopped_after_three_missed_probes() -> None:
    assert not [s for s in steps([assigned()], worker(Phase.RUNNING, misses=2)) if isinstance(s, plan.Stop)]
    (stop,) = steps([assigned()], worker(Phase.RUNNING, misses=3, missed="no answer within 2 s"))
    assert isinstance(stop, plan.Stop)
    assert stop.then is Then.BACKOFF
    assert stop.reason == "hung: 3 probes unanswered, no answer within 2 s"


def test_probes_are_asked_when_due_and_not_twice() -> None:
    due = worker(Phase.STARTING, probe_at=NOW, deadline=NOW + 9)
    assert steps([assigned()], due) == [plan.Probe("o1", False, "is it ready")]
    assert steps([assigned()], lifecycle.probing(due)) == []
    adopted = replace(due, by_life=True)
    assert steps([assigned()], adopted) == [plan.Probe("o1", True, "does it still answer")]


def test_failures_are_forgiven_after_ten_good_seconds() -> None:
    running = worker(Phase.RUNNING, since=NOW - 10, failures=2, cause="exit code 1")
    assert steps([assigned()], running) == [plan.Forgive("o1", "ready for 10 s")]
    assert lifecycle.stable(running).failures == 0
    assert lifecycle.reason(lifecycle.stable(running)) is None


def test_a_stop_that_left_something_is_tried_again() -> None:
    stopping = lifecycle.stopping(worker(Phase.RUNNING), NOW, Then.REPLACE, "why")
    assert steps([assigned()], stopping) == []
    left = lifecycle.not_gone(stopping, NOW, "processes 7 can't be killed", T)
    assert steps([assigned()], left) == []
    assert steps([assigned()], left, now=NOW + 1) == [plan.Stop("o1", Then.REPLACE, "why")]
    assert lifecycle.reason(left) == "why; processes 7 can't be killed"


def test_what_is_assigned_again_while_it_is_stopped_starts_anew_after_it_with_a_clean_record() -> None:
    crashed = worker(Phase.RUNNING, failures=3, starts=4, restarts=3, cause="exit code 1")
    forgotten = lifecycle.stopping(crashed, NOW, Then.FORGET, "no longer assigned")
    again = lifecycle.wanted_again(forgotten)
    assert again.phase is Phase.STOPPING and again.busy, "never two at once"
    left = lifecycle.gone(again, NOW + 1, 0.5)
    assert left is not None and (left.phase, left.next_start) == (Phase.WAITING, NOW + 1)
    assert (left.failures, left.starts, left.restarts, left.cause) == (0, 0, 0, None)
    assert steps([assigned()], left, now=NOW + 1) == [plan.Start("o1", "assigned")]


@pytest.mark.parametrize("then", [Then.REPLACE, Then.BACKOFF, Then.HOLD])
def test_only_what_was_to_be_forgotten_is_wanted_again(then: Then) -> None:
    stopping = lifecycle.stopping(worker(Phase.RUNNING), NOW, then, "why")
    assert lifecycle.wanted_again(stopping) is stopping
    running = worker(Phase.RUNNING)
    assert lifecycle.wanted_again(running) is running


def test_only_so_many_start_at_once_and_those_waiting_longest_first() -> None:
    wanted = [assigned(f"o{n}") for n in range(20)]
    known = [replace(worker(), oid=f"o{n}", next_start=NOW - n) for n in range(20)]
    known[0] = replace(known[0], phase=Phase.STARTING, deadline=NEVER)
    done = steps(wanted, *known)
    assert [step.oid for step in done] == [f"o{n}" for n in range(19, 12, -1)]


def test_a_busy_worker_is_left_alone() -> None:
    assert steps([], worker(busy=True)) == []


def test_the_higher_generation_counts_of_two_entries_with_one_oid() -> None:
    both = Assignment(store="s", epoch=1, version=1, workers=[assigned(generation=2), assigned(generation=1)])
    wanted = plan.wanted(both)
    assert wanted is not None
    assert wanted["o1"].generation == 2


def test_a_worker_desired_stopped_is_not_wanted() -> None:
    assert plan.wanted(Assignment(store="s", epoch=1, version=1, workers=[assigned(desired="stopped")])) == {}


def assignment(store: str = "s", epoch: int = 1, version: int = 1) -> Assignment:
    return Assignment(store=store, epoch=epoch, version=version, workers=[])


@pytest.mark.parametrize(
    ("new", "applied"),
    [
        (assignment(version=2), True),
        (assignment(epoch=2, version=0), True),
        (assignment(epoch=0, version=9), False),
        (assignment("t", 9, 9), False),
        (assignment(epoch=1 + plan.LEAP), True),
        (assignment(epoch=2 + plan.LEAP), False),
        (assignment(version=2 + plan.LEAP), False),
    ],
)
def test_only_a_later_assignment_of_the_same_store_is_applied(new: Assignment, applied: bool) -> None:
    why = plan.refusal(assignment(), new, adopt_store=False)
    assert (why is None) == applied
    assert applied or why


def test_a_late_one_of_the_same_manager_is_passed_over_in_silence() -> None:
    assert plan.refusal(assignment(version=2), assignment(version=1), adopt_store=False) == ""


def test_the_same_assignment_again_is_no_news_but_a_forged_one_is_refused() -> None:
    stored = Assignment(store="s", epoch=1, version=1, workers=[assigned()])
    assert plan.refusal(stored, stored, adopt_store=False) == ""
    assert plan.refusal(stored, assignment(), adopt_store=False)


def test_any_store_is_taken_over_when_none_is_stored_or_when_told_to() -> None:
    assert plan.refusal(None, assignment("t"), adopt_store=False) is None
    assert plan.refusal(assignment("s", 9, 9), assignment("t"), adopt_store=True) is None
    assert "--adopt-store" in str(plan.refusal(assignment(), assignment("t", 9, 9), adopt_store=False))


def test_states_and_reasons_as_they_are_shown() -> None:
    new = lifecycle.admitted("o1", "w-o1", "c", 1, "d1", NOW)
    assert lifecycle.shown(new) is WorkerState.STARTING
    begun = lifecycle.begun(new, 1, "d1", NOW)
    spawned = lifecycle.spawned(begun, NOW, 30)
    assert (lifecycle.shown(spawned), spawned.restarts) == (WorkerState.STARTING, 0)
    ready = lifecycle.answered(spawned, NOW + 1, T)
    assert (lifecycle.shown(ready), lifecycle.reason(ready)) == (WorkerState.RUNNING, None)
    failed = lifecycle.failed(ready, NOW + 2, "exit code 1; last output: boom", 0.5)
    assert lifecycle.shown(failed) is WorkerState.BACKOFF
    assert lifecycle.reason(failed) == "next try in 0.25 s; exit code 1; last output: boom"
    again = lifecycle.spawned(lifecycle.begun(failed, 1, "d1", NOW + 3), NOW + 3, 30)
    assert again.restarts == 1
    assert lifecycle.reason(again) == "restarting: exit code 1; last output: boom"
    other = lifecycle.spawned(lifecycle.begun(failed, 2, "d2", NOW + 3), NOW + 3, 30)
    assert (other.restarts, other.failures, other.cause) == (0, 0, None)


def test_backoff_grows_to_its_cap_and_never_ends() -> None:
    each = worker(Phase.STARTING)
    delays = []
    for _ in range(200):
        each = lifecycle.failed(replace(each, phase=Phase.STARTING), NOW, "x", 0.5)
        delays.append(each.delay)
    assert delays[:3] == [0.25, 0.5, 1.0]
    assert delays[-1] == 30.0
    assert each.next_start == NOW + 30


def test_next_due_says_when_time_alone_brings_something() -> None:
    assert plan.next_due([], NOW) == NEVER
    assert plan.next_due([worker(next_start=NOW + 3)], NOW) == NOW + 3
    assert plan.next_due([worker(next_start=NOW - 3)], NOW) == NEVER
    assert plan.next_due([worker(Phase.STARTING, deadline=NOW + 9, probe_at=NOW + 1)], NOW) == NOW + 1
    assert plan.next_due([worker(Phase.RUNNING, probe_at=NEVER)], NOW) == NEVER
