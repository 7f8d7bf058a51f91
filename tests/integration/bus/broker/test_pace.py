"""An account has its share of the broker, however much it sends and on however many connections."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from busbar.bus.broker.limits import LIMITS, Owner
from busbar.bus.broker.pace import Pace

from tests.integration.bus.broker.kit import R, Raw, broker_in, packet, text
from tests.virtual import VirtualClock, VirtualLoop, run_virtually

ALICE, BOB = Owner("alice", "person"), Owner("bob", "person")
LITTLE = replace(LIMITS, account_work=50, account_work_per_s=10)


class Slow:
    """A manager that has yet to take so much."""

    untaken_bytes = 0


@pytest.mark.parametrize("connections", [1, 20])
def test_an_account_does_no_more_than_its_share_and_others_do_not_wait(connections: int) -> None:
    loop = VirtualLoop()
    pace, done = Pace(VirtualClock(loop), LITTLE), [0]

    async def work(owner: Owner) -> None:
        turn = pace.turn(owner)
        while True:
            async with turn:
                await pace.wait(owner, True, lambda: False)
                pace.spend(owner, 1)
                done[0] += 1

    async def scenario() -> float:
        tasks = [asyncio.create_task(work(ALICE)) for _ in range(connections)]
        await asyncio.sleep(60)
        before = loop.now
        await pace.wait(BOB, True, lambda: False)
        for task in tasks:
            task.cancel()
        return loop.now - before

    assert run_virtually(scenario(), loop) == 0
    assert 0.9 < done[0] / (50 + 60 * 10) < 1.1


def test_publishers_wait_for_a_manager_that_is_behind_but_not_for_one_that_hangs() -> None:
    loop = VirtualLoop()
    pace, slow = Pace(VirtualClock(loop)), Slow()
    pace.add(slow)

    async def waited(publishes: bool = True) -> float:
        before = loop.now
        await pace.wait(ALICE, publishes, lambda: False)
        return loop.now - before

    async def scenario() -> None:
        assert await waited() == 0
        slow.untaken_bytes = LIMITS.manager_backlog_bytes + 1
        assert await waited(publishes=False) == 0
        loop.call_later(1.0, setattr, slow, "untaken_bytes", 0)
        assert 0.9 < await waited() < 1.1
        slow.untaken_bytes = LIMITS.manager_backlog_bytes + 1
        assert 4.9 < await waited() < 5.1, "it hangs"
        assert await waited() == 0
        slow.untaken_bytes = 0
        assert await waited() == 0
        slow.untaken_bytes = LIMITS.manager_backlog_bytes + 1
        loop.call_later(1.0, pace.remove, slow)
        assert 0.9 < await waited() < 1.1

    run_virtually(scenario(), loop)


def test_a_connection_that_was_ended_does_not_wait() -> None:
    loop = VirtualLoop()
    pace = Pace(VirtualClock(loop), LITTLE)

    async def scenario() -> float:
        pace.spend(ALICE, 10_000)
        before, until = loop.now, loop.now + 1
        await pace.wait(ALICE, True, lambda: loop.now >= until)
        return loop.now - before

    assert 1 <= run_virtually(scenario(), loop) < 1.5


@pytest.mark.fault(76, "S")
async def test_requests_at_full_speed_do_not_throw_the_manager_out(tmp_path: Path) -> None:
    total, body = 100, bytes(250_000)
    async with broker_in(tmp_path) as broker:
        manager = await Raw.connect(broker.port, "manager")
        await manager.subscribe(f"{R}/request/+/+")
        alice = await Raw.connect(broker.port, "alice")
        one = packet(0x30, text(f"{R}/request/alice/op") + body)
        alice.say(one * total)  # more than is queued for a connection
        for _ in range(total):
            assert (await manager.message())[0] == f"{R}/request/alice/op"
        await alice.ping()


async def test_acknowledgements_that_are_due_do_not_wait(tmp_path: Path) -> None:
    slow = replace(LIMITS, account_work=5, account_work_per_s=1)
    async with broker_in(tmp_path, limits=slow) as broker:
        alice = await Raw.connect(broker.port, "alice")
        await alice.subscribe(f"{R}/event/#")
        manager = await Raw.connect(broker.port, "manager")
        for number in range(1100):  # more than may be in flight
            manager.say(packet(0x30 | 2, text(f"{R}/event/x") + number.to_bytes(2) + b"x") if number else b"")
        for _ in range(1099):
            await alice.message()
