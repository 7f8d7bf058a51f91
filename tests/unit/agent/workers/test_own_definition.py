"""What a worker's process runs, for what it is told while it runs."""

from __future__ import annotations

import pytest
from busbar.agent.planner import lifecycle
from busbar.agent.planner.lifecycle import Phase
from busbar.agent.workers.process_runner import Instance
from busbar.bus.messages import AssignedWorker
from msgspec.structs import replace


def definition(generation: int) -> AssignedWorker:
    return AssignedWorker(
        worker="web-1", oid="o1", cluster="edge", workergroup="web", generation=generation, runtime="nats",
        digest=f"d{generation}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("assigned", "rejected", "expected"),
    [
        (1, None, 1),
        (2, None, None),  # it is about to be replaced
        (2, 2, 1),  # its node has found that bad: it goes on with what it has
        (3, 2, None),  # another one, which is not looked at yet
    ],
)
def test_a_worker_that_goes_on_with_its_former_definition_is_told_by_that(
    assigned: int, rejected: int | None, expected: int | None
) -> None:
    worker = replace(lifecycle.admitted("o1", "web-1", "edge", 1, "d1", 0.0), phase=Phase.RUNNING)
    if rejected is not None:
        worker = replace(worker, rejected=(rejected, f"d{rejected}"))
    instance = Instance(worker, definition=definition(1))
    own = instance.own_definition(definition(assigned))
    assert own == (None if expected is None else definition(expected))
    instance.definition = None
    assert instance.own_definition(definition(2)) is None
