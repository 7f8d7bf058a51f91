"""The transition table: complete, and one function refuses what it does not hold."""

from __future__ import annotations

from itertools import product

import pytest
from busbar.bus.states import (
    ASSIGNED,
    STARTABLE,
    STARTED,
    TRANSITIONS,
    ClusterState,
    IllegalTransitionError,
    NodeBirth,
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


def test_states_are_these_words_on_the_wire() -> None:
    """They are in messages, in the store and in programs of others."""
    assert [*ClusterState] == ["STOPPED", "STARTING", "RUNNING", "DEGRADED", "PAUSED", "ERROR", "STOPPING"]
    assert [*WorkerState] == ["PENDING", "STARTING", "RUNNING", "BACKOFF", "UNKNOWN", "STOPPING", "STOPPED"]
    assert [*NodeStatus] == ["online", "late", "lost", "offline", "unpaired"]
    assert [*NodeBirth] == ["ready", "disconnected", "lost"]
    for kind in (*KINDS, NodeBirth):
        assert all(state.name == state.value.upper() for state in kind)


ALLOWED = {
    ClusterState: {
        "STOPPED": "STARTING",
        "STARTING": "RUNNING ERROR STOPPING",
        "RUNNING": "DEGRADED ERROR PAUSED STOPPING",
        "DEGRADED": "RUNNING ERROR PAUSED STOPPING",
        "PAUSED": "STARTING STOPPING",
        "ERROR": "RUNNING DEGRADED STOPPING",
        "STOPPING": "STOPPED",
    },
    WorkerState: {
        "PENDING": "STARTING UNKNOWN STOPPING STOPPED",
        "STARTING": "RUNNING BACKOFF UNKNOWN PENDING STOPPING STOPPED",
        "RUNNING": "STARTING BACKOFF UNKNOWN PENDING STOPPING STOPPED",
        "BACKOFF": "STARTING RUNNING UNKNOWN PENDING STOPPING STOPPED",
        "UNKNOWN": "STARTING RUNNING BACKOFF PENDING STOPPING STOPPED",
        "STOPPING": "PENDING STOPPED",
        "STOPPED": "PENDING STARTING",
    },
    NodeStatus: {
        "online": "late lost offline unpaired",
        "late": "online lost offline unpaired",
        "lost": "online offline unpaired",
        "offline": "online lost unpaired",
        "unpaired": "offline",
    },
}
"""Section 5 of the contract."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_the_contracts(kind: type) -> None:
    table = {str(state): {str(after) for after in TRANSITIONS[kind][state]} for state in TRANSITIONS[kind]}
    assert table == {state: set(after.split()) for state, after in ALLOWED[kind].items()}


def test_which_states_are_started_startable_and_assigned() -> None:
    assert {"STARTING", "RUNNING", "DEGRADED", "ERROR"} == STARTED
    assert {"STOPPED", "PAUSED"} == STARTABLE
    assert {"STARTING", "RUNNING", "BACKOFF", "UNKNOWN"} == ASSIGNED
