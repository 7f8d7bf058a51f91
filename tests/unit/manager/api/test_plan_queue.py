"""Plans are made one at a time, and the event loop has its turn after each slice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.bus.testing import FakeClock, settle
from busbar.manager.api.plan_queue import OF_ONE, WAITING, PlanQueue
from busbar.manager.slices import Slices


class Bench:
    """A queue that is being carried out; `seen` is what happens, in order."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue = PlanQueue(self.clock)
        self.seen: list[Any] = []
        self.closed: list[str] = []

    def plan(self, name: str, slices: int, error: Exception | None = None) -> Slices[object]:
        try:
            for number in range(slices):
                self.seen.append(f"{name}{number}")
                self.clock._move(self.clock.monotonic() + 0.25)
                yield
            if error is not None:
                raise error
            return f"{name} is made"
        finally:
            self.closed.append(name)

    def submit(self, name: str, slices: int, error: Exception | None = None, caller: str = "") -> None:
        """By default each is of a caller of its own."""

        def done(outcome: object, seconds: float) -> None:
            self.seen.append((outcome, seconds))

        self.queue.submit(caller or name, lambda: self.plan(name, slices, error), done)


async def test_the_loop_has_a_turn_after_each_slice() -> None:
    bench = Bench()

    async def others() -> None:
        while True:
            bench.seen.append("-")
            await asyncio.sleep(0)

    bench.submit("a", 3)
    tasks = [asyncio.create_task(bench.queue.run()), asyncio.create_task(others())]
    await settle()
    for task in tasks:
        task.cancel()
    made = bench.seen.index(("a is made", 0.75))
    assert bench.seen[: made + 1] == ["a0", "-", "a1", "-", "a2", "-", ("a is made", 0.75)]


async def test_one_is_made_at_a_time_and_a_failure_ends_itself_alone() -> None:
    bench, error = Bench(), BusError("no_such_object", "gone")
    bench.submit("a", 2, error)
    bench.submit("b", 1)

    def refuse() -> Slices[object]:
        raise error

    bench.queue.submit("c", refuse, lambda outcome, _: bench.seen.append(outcome))
    task = asyncio.create_task(bench.queue.run())
    await settle()
    task.cancel()
    assert bench.seen == ["a0", "a1", (error, 0.5), "b0", ("b is made", 0.25), error]


async def test_who_would_wait_behind_too_many_is_told_to_come_again() -> None:
    bench = Bench()
    for number in range(WAITING):
        bench.submit(f"p{number}-", 1)
    with pytest.raises(BusError) as refused:
        bench.submit("late", 1)
    assert refused.value.code == "busy" and refused.value.retry_after_ms


async def test_one_caller_does_not_take_all_the_places() -> None:
    bench = Bench()
    for number in range(OF_ONE):
        bench.submit(f"p{number}-", 1, caller="greedy")
    with pytest.raises(BusError, match="of 'greedy'") as refused:
        bench.submit("late", 1, caller="greedy")
    assert refused.value.code == "busy" and refused.value.retry_after_ms
    bench.submit("other", 1)
    task = asyncio.create_task(bench.queue.run())
    await settle()
    task.cancel()
    assert ("other is made", 0.25) in bench.seen
    for _ in range(OF_ONE):
        bench.submit("again", 1, caller="greedy")


async def test_a_plan_that_is_given_up_lets_go_of_its_copy() -> None:
    bench = Bench()
    bench.submit("a", 1_000_000)
    task = asyncio.create_task(bench.queue.run())
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert bench.closed == ["a"]
