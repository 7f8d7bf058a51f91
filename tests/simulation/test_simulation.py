"""What makes a failing schedule worth keeping: a seed always does the same, and is shortened."""

from __future__ import annotations

import sys

import pytest

from tests.simulation.__main__ import _options as options_of_command
from tests.simulation.__main__ import _schedules as schedules
from tests.simulation.activity import FLOORS, MOVES, lacking
from tests.simulation.faults import Entry, schedule
from tests.simulation.shrink import shrink
from tests.simulation.slices import Runs, outcome

COUNT = 12
SOME = ("--digests", "--count", COUNT, "--seed", 700)


@pytest.mark.timeout(300)
def test_a_seed_gives_one_trace_in_every_process_and_on_every_disk(runs: Runs) -> None:
    """In memory or in a file, and however sets of strings are ordered."""
    running = [runs.start(*SOME), runs.start(*SOME, hash_seed=4321), runs.start(*SOME, "--files")]
    codes, texts = zip(*map(outcome, running), strict=True)
    assert codes == (0, 0, 0), texts
    traces = {tuple(text.splitlines()[:COUNT]) for text in texts}
    assert len(traces) == 1
    assert len(set(traces.pop())) == COUNT


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_processes_share_all_schedules_and_no_fleet(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    fleets: list[set[object]] = []
    seeds: list[int] = []
    for job in range(jobs):
        told = ["simulation", "--count", "300", "--seed", "5", "--jobs", str(jobs), "--job", str(job)]
        monkeypatch.setattr(sys, "argv", told)
        mine = list(schedules(options_of_command()))
        seeds += [each.seed for each in mine]
        fleets.append({each.setup for each in mine})
    assert sorted(seeds) == list(range(5, 305))
    assert len(set().union(*fleets)) == sum(map(len, fleets))


def test_the_schedule_of_a_seed_is_always_the_same_and_survives_json() -> None:
    assert schedule(7) == schedule(7) != schedule(8)
    assert type(schedule(7)).from_json(schedule(7).to_json()) == schedule(7)


def test_a_failing_timeline_is_shortened_to_what_it_takes() -> None:
    one, other = Entry(1.0, "reset", ("n1", 0.5)), Entry(2.0, "deaf", ("n1", 0.5))
    rest = tuple(Entry(float(at), "clock_jump", (1,)) for at in range(20))
    long = type(schedule(1))(1, 2, (), (*rest, one, *rest, other, *rest))
    short = shrink(long, lambda tried: {one, other} <= set(tried.timeline))
    assert set(short.timeline) == {one, other}


@pytest.mark.parametrize("schedules", [200, 1000, 5000])
def test_a_kind_that_never_happens_is_missed_however_much_else_does(schedules: int) -> None:
    plenty = {kind: floor * schedules // 1000 + 1 for kind, floor in FLOORS.items()}
    assert lacking(plenty, schedules) == []
    assert len(lacking({**plenty, MOVES: 0}, schedules)) == 1
    assert lacking({}, 1) == []
