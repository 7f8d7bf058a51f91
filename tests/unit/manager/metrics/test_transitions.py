"""How long workers and rollouts took."""

from __future__ import annotations

import pytest
from busbar.bus.states import WorkerState
from busbar.manager.metrics.transitions import Cause, Transitions, WorkerNow
from hypothesis import given
from hypothesis import strategies as st

S = WorkerState


def played(*steps: tuple[float, WorkerState | None, str | None, int]) -> list[tuple[Cause, float]]:
    """What is observed of one worker: time, state (None: gone), node, revision."""
    known = Transitions()
    rows = ((at, None if state is None else WorkerNow(state, node, rev)) for at, state, node, rev in steps)
    return [took for at, row in rows if (took := known.worker("w", row, at)) is not None]


@pytest.mark.parametrize(
    ("steps", "seen"),
    [
        ([(0, S.PENDING, None, 1), (1, S.STARTING, "a", 1), (4, S.RUNNING, "a", 1)], [(Cause.START, 4)]),
        ([(0, S.RUNNING, "a", 1), (9, S.RUNNING, "a", 1)], []),
        ([(0, S.RUNNING, "a", 1), (5, S.BACKOFF, "a", 1), (6, S.STARTING, "a", 1), (8, S.RUNNING, "a", 1)],
         [(Cause.RESTART, 3)]),
        ([(0, S.RUNNING, "a", 1), (5, S.UNKNOWN, "a", 1), (20, S.STARTING, "b", 1), (22, S.RUNNING, "b", 1)],
         [(Cause.MOVE, 17)]),
        ([(0, S.RUNNING, "a", 1), (1, S.STOPPING, "a", 1), (2, S.STOPPED, None, 1), (3, S.STARTING, "b", 1),
          (5, S.RUNNING, "b", 1)], [(Cause.MOVE, 4)]),
        ([(0, S.RUNNING, "a", 1), (1, S.STARTING, "a", 2), (3, S.RUNNING, "a", 2)], [(Cause.UPDATE, 2)]),
        ([(0, S.RUNNING, "a", 1), (1, None, None, 1), (500, S.STARTING, "a", 1), (502, S.RUNNING, "a", 1)],
         [(Cause.START, 2)]),
    ],
)  # fmt: skip
def test_why_and_how_long(
    steps: list[tuple[float, WorkerState | None, str | None, int]], seen: object
) -> None:
    assert played(*steps) == seen


_ROWS = st.tuples(st.sampled_from([*S, None]), st.sampled_from(["a", "b", None]), st.integers(1, 3))


@given(st.lists(_ROWS, max_size=30))
def test_every_time_is_between_two_rows_and_ends_when_it_is_ready(
    rows: list[tuple[WorkerState | None, str | None, int]],
) -> None:
    known = Transitions()
    was_ready = False
    for at, (state, node, revision) in enumerate(rows):
        row = None if state is None else WorkerNow(state, node, revision)
        took = known.worker("w", row, at)
        assert (took is None) or (state is S.RUNNING and not was_ready and 0 < took[1] <= at)
        was_ready = state is S.RUNNING


def test_a_rollout_is_told_once() -> None:
    known = Transitions()
    told = [known.rollout("g", *step) for step in ((False, 0), (True, 1), (True, 4), (False, 6), (False, 7))]
    assert told == [None, None, None, 5, None]
    known.rollout("g", True, 8)
    assert known.rollout("g", None, 9) is None  # it was removed meanwhile
    assert known.rollout("g", False, 10) is None
