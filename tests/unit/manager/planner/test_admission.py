"""What keeps a worker off a node, and in which order it is told."""

from __future__ import annotations

import pytest
from busbar.bus.states import NodeStatus, WorkerState
from busbar.manager.planner.admission import Obstacle, Target, max_workers, occupies, refusal

FREE: dict[str, object] = {
    "status": NodeStatus.ONLINE, "refuses": None, "draining": False, "cordoned": False,
    "runtimes": ("amqtt",), "max_workers": 4, "member": True, "hardlimit": 2, "in_cluster": 1, "total": 3,
}  # fmt: skip
FULL: dict[str, object] = {"in_cluster": 2, "total": 4}


def target(**facts: object) -> Target:
    return Target(**(FREE | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"max_workers": None, "total": 100},
        {"hardlimit": None, "in_cluster": 100, "total": 3},
        {"runtimes": frozenset({"amqtt", "crossbar"})},
    ],
)
def test_admits(facts: dict[str, object]) -> None:
    assert refusal(target(**facts), "amqtt") is None


@pytest.mark.parametrize(
    ("facts", "obstacle", "text"),
    [
        ({"member": False, "status": NodeStatus.LOST}, Obstacle.MEMBERSHIP, "is not a node of the cluster"),
        ({"status": NodeStatus.LATE, "draining": True}, Obstacle.STATUS, "is late"),
        (
            {"refuses": "follows another manager's store (sold)", "draining": True},
            Obstacle.REFUSES,
            "follows another manager's store (sold)",
        ),
        ({"status": NodeStatus.UNPAIRED}, Obstacle.STATUS, "is unpaired"),
        ({"draining": True, "runtimes": ()}, Obstacle.DRAINING, "is draining"),
        ({"cordoned": True, "unmet": "has no label zone"}, Obstacle.CORDONED, "is cordoned"),
        ({"unmet": "has no label zone", "runtimes": ()}, Obstacle.LABELS, "has no label zone"),
        ({"runtimes": (), **FULL}, Obstacle.RUNTIME, "does not offer runtime 'amqtt'"),
        ({"rejects": "/x: no", "runtimes": ()}, Obstacle.RUNTIME, "does not offer runtime 'amqtt'"),
        ({"rejects": "/x: no", **FULL}, Obstacle.TRANSPORT, "does not accept its transport (/x: no)"),
        (FULL, Obstacle.HARDLIMIT, "is at its hardlimit (2/2)"),
        ({"hardlimit": 0, "in_cluster": 0}, Obstacle.HARDLIMIT, "is at its hardlimit (0/0)"),
        ({"total": 4}, Obstacle.CAPACITY, "is full (4/4 workers)"),
        ({"total": 9, "hardlimit": None}, Obstacle.CAPACITY, "is full (9/4 workers)"),
    ],
)
def test_refuses_for_the_first_obstacle(facts: dict[str, object], obstacle: Obstacle, text: str) -> None:
    found = refusal(target(**facts), "amqtt")
    assert found is not None
    assert (found.obstacle, found.text) == (obstacle, text)


def test_an_unknown_node_admits_nothing() -> None:
    found = refusal(None, "amqtt")
    assert found is not None and found.obstacle is Obstacle.UNKNOWN


@pytest.mark.parametrize("state", list(WorkerState))
def test_a_worker_occupies_its_node_until_it_is_gone(state: WorkerState) -> None:
    assert occupies(state) is (state not in (WorkerState.PENDING, WorkerState.STOPPED))


@pytest.mark.parametrize(
    ("capacity", "limit"),
    [(None, None), ({}, None), ({"max_workers": 3}, 3), ({"max_workers": None}, None),
     ({"max_workers": "3"}, None), ({"max_workers": True}, None), ({"max_workers": -1}, None),
     ({"max_workers": 0}, 0)],
)  # fmt: skip
def test_max_workers_is_read_with_care(capacity: dict[str, object] | None, limit: int | None) -> None:
    assert max_workers(capacity) == limit


def test_of_two_limits_the_lower_one_holds() -> None:
    room = max_workers(None, 100_000)
    assert room is not None and 1 < room < 1000
    assert max_workers({"max_workers": room - 1}, 100_000) == room - 1
    assert max_workers({"max_workers": room + 1}, 100_000) == room
