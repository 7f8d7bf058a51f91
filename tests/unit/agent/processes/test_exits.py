"""Bounded waits for exits take their time from the clock that is passed in."""

from __future__ import annotations

import asyncio

from busbar.agent.processes.exits import Exit, wait_for_futures


class StoppedClock:
    """Time stands still until `expire`; `slept` are the waits that were begun."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.expire = asyncio.Event()

    def monotonic(self) -> float:
        return 0.0

    def time_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.expire.wait()


async def test_the_wait_ends_when_all_are_done() -> None:
    clock = StoppedClock()
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    waiting = asyncio.ensure_future(wait_for_futures([first, second], 3.0, clock))
    await asyncio.sleep(0)
    first.set_result(None)
    await asyncio.sleep(0)
    assert not waiting.done()
    second.set_result(None)
    await waiting
    assert clock.slept == [3.0]


async def test_the_wait_ends_at_its_bound_and_cancels_nothing() -> None:
    clock = StoppedClock()
    future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(wait_for_futures([future], 3.0, clock))
    clock.expire.set()
    await waiting
    assert not future.done()


async def test_nothing_pending_needs_no_wait() -> None:
    clock = StoppedClock()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    await wait_for_futures([future], 3.0, clock)
    await wait_for_futures([], 3.0, clock)
    assert clock.slept == []
