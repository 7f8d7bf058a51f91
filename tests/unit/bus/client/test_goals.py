"""What is waited for, and a status in words."""

from __future__ import annotations

from typing import Any

import msgspec
from busbar.bus.client import goals
from busbar.bus.messages import Status
from msgspec import structs


def made(status: str, version: int = 1, **more: Any) -> Status:
    return Status(version, 1, "1", status, "x", "", **more)


def test_started_wants_running_and_no_stale_status() -> None:
    goal = goals.started(5)
    assert not goal.reached(made(status="RUNNING", version=4))
    assert not goal.reached(made(status="STARTING", version=5))
    assert goal.reached(made(status="RUNNING", version=6))
    assert goal.failed(made(status="STOPPED", version=4)) is None, "from before the start"
    assert goal.failed(made(status="STOPPED", version=7))
    assert goal.failed(None)


def test_stopped_and_deleted() -> None:
    assert goals.stopped(5).reached(made(status="STOPPED", version=6))
    assert not goals.stopped(5).reached(made(status="STOPPED", version=4))
    assert goals.deleted().reached(None)
    assert not goals.deleted().reached(made(status="STOPPED", version=9))


def test_waiting_for_a_drain_ends_when_nothing_is_left_or_it_is_called_off() -> None:
    goal = goals.drained(4)
    node = made(status="online", version=5, draining="new disk", drained=False)
    assert not goal.reached(node) and goal.reached(structs.replace(node, drained=True))
    assert not goal.reached(structs.replace(node, version=3, drained=True))
    assert goal.failed(node) is None
    assert "take workers again" in str(goal.failed(made(status="online", version=6)))
    assert goal.failed(None) == "it was unpaired meanwhile"
    assert goals.describe(node) == "online, draining"
    assert goals.describe(structs.replace(node, drained=True)) == "online, drained"


def test_waiting_for_an_update_ends_with_the_last_worker_or_a_newer_update() -> None:
    goal = goals.updated(7, 3)
    running = made(status="RUNNING", version=9, revision=3, scale=2, ready=2)
    assert goal.reached(running)
    assert not goal.reached(structs.replace(running, updated=1))
    assert not goal.reached(structs.replace(running, version=6))
    assert not goal.reached(structs.replace(running, status="DEGRADED"))
    assert goal.reached(structs.replace(running, status="STOPPED", updated=0)), (
        "it takes it with its next start"
    )
    assert goal.failed(structs.replace(running, updated=1)) is None
    assert "revision 4 was asked for" in str(goal.failed(structs.replace(running, revision=4)))
    assert goal.failed(None) == "it was deleted meanwhile"
    assert goals.describe(structs.replace(running, updated=1)) == "RUNNING, 2 of 2 ready, 1 updated"


def test_scaled_wants_as_many_ready_workers_or_a_stopped_group() -> None:
    goal = goals.scaled(3, 4)
    assert goal.reached(made(status="RUNNING", version=4, scale=4, ready=4))
    assert goal.reached(made(status="STOPPED", version=3, scale=4, ready=0))
    assert not goal.reached(made(status="RUNNING", version=4, scale=4, ready=3))
    assert not goal.reached(made(status="RUNNING", version=4, scale=2, ready=2))


def test_a_group_is_complete_once_the_workers_beyond_its_scale_are_gone() -> None:
    left = made(status="RUNNING", version=4, scale=1, ready=1, revision=2, surplus=2)
    for goal in (goals.scaled(3, 1), goals.updated(3, 2)):
        assert not goal.reached(left)
        assert goal.reached(structs.replace(left, surplus=msgspec.UNSET))
    assert goals.describe(left) == "RUNNING, 1 of 1 ready, 2 more to stop"


def test_a_status_in_words() -> None:
    assert goals.describe(made(status="STARTING", scale=4, ready=1)) == "STARTING, 1 of 4 ready"
    assert goals.describe(made(status="online")) == "online"
    assert goals.describe(None)


def test_a_wait_in_vain_tells_the_first_conditions_and_how_many_more() -> None:
    status = made("DEGRADED", scale=9, ready=2, conditions=[f"worker web-{n}: pending" for n in range(1, 8)])
    text = goals.reasons(status)
    assert text.startswith("DEGRADED, 2 of 9 ready; worker web-1: pending;") and text.endswith("; and 2 more")
    assert goals.reasons(None) == "no status was published yet"
