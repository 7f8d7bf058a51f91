"""The transition table: complete, and one function refuses what it does not hold."""

from __future__ import annotations

from itertools import product

import pytest
from busbar.bus.states import (
    STARTABLE,
    STARTED,
    TRANSITIONS,
    ClusterState,
    IllegalTransitionError,
    NodeStatus,
    WorkerState,
    advance,
    may_advance,
)

KINDS = (ClusterState, WorkerState, NodeStatus)


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_has_a_row_and_a_way_in(kind: type) -> None:
    states = set(kind)
    assert states == set(TRANSITIONS[kind])
    entered = {after for state in states for after in TRANSITIONS[kind][state]}
    first = {ClusterState.STOPPED, WorkerState.PENDING, NodeStatus.OFFLINE}
    assert states - entered <= first
    assert all(TRANSITIONS[kind][state] <= states for state in states)


@pytest.mark.parametrize("kind", KINDS)
def test_advance_follows_the_table_alone(kind: type) -> None:
    for before, after in product(kind, kind):
        if before is after or after in TRANSITIONS[kind][before]:
            assert advance(before, after) is after
            assert may_advance(before, after)
        else:
            assert not may_advance(before, after)
            with pytest.raises(IllegalTransitionError, match=f"{before} may not become {after}"):
                advance(before, after)


def test_the_contracts_cycle() -> None:
    state = ClusterState.STOPPED
    for after in ("STARTING", "RUNNING", "DEGRADED", "RUNNING", "STOPPING", "STOPPED"):
        state = advance(state, ClusterState(after))


def test_a_stopping_worker_is_never_called_ready() -> None:
    assert not may_advance(WorkerState.STOPPING, WorkerState.RUNNING)
    assert not may_advance(WorkerState.STOPPING, WorkerState.STARTING)


def test_start_and_stop_are_never_both_accepted() -> None:
    assert not STARTED & STARTABLE
    assert ClusterState.STOPPING not in STARTED | STARTABLE
