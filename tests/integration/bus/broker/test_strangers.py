"""A stranger and a greedy viewer at full speed beside a person who works: everybody else is served."""

import asyncio
import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from busbar.bus.broker.limits import LIMITS, USE_FILE

from tests.brokers import until
from tests.integration.bus.broker.kit import R, Raw, broker_in, packet, text
from tests.pace import bound

REQUESTS = 150


async def guess(port: int) -> None:
    """Wrong passwords, for known and unknown names."""
    n = 0
    while True:
        n += 1
        raw = await Raw.connect(port, ("alice", "n1", "x")[n % 3], client_id=f"g{n}", password=f"{n:040}")
        raw.leave()
        Raw.opened.remove(raw)


async def say_nothing(port: int) -> None:
    """Idle sockets, of which the test's own descriptors bound the number."""
    idle: list[Raw] = []
    while True:
        idle.append(await Raw.open(port))
        if len(idle) > 2 * LIMITS.silent_per_source:
            old = idle.pop(0)
            old.leave()
            Raw.opened.remove(old)
        await asyncio.sleep(0)


async def grab(port: int) -> None:
    """A viewer: deep filters, logs and states retained in ever more realms, and never reading."""
    n = 0
    while True:
        with suppress(EOFError, ConnectionError, TimeoutError):
            raw = await Raw.connect(port, "bob", client_id=f"b{n}")
            while True:
                n += 1
                await raw.subscribe(*(f"{R}/status/{n}-{m}" + "/a" * 25_000 for m in range(1)), qos=1)
                await raw.subscribe(*(f"{R}/event/{n}-{m}/a/b/c" for m in range(200)), f"{R}/event/#")
                await raw.publish(f"busbar/v1/r{n}/node/bob/state", bytes(1_000_000), retain=True)
                raw.say(packet(0x31, text(f"{R}/node/bob/log/l{n}") + bytes(1_000_000)))


@pytest.mark.fault((76, 77, 78, 83), "S")
async def test_a_person_is_served_beside_a_stranger_and_a_greedy_viewer(tmp_path: Path) -> None:
    async with broker_in(tmp_path) as broker:
        manager = await Raw.connect(broker.port, "manager")
        await manager.subscribe(f"{R}/request/+/+")
        alice = await Raw.connect(broker.port, "alice")
        await alice.subscribe(f"{R}/response/alice/+")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        others = [asyncio.create_task(work(broker.port)) for work in (guess, say_nothing, grab)]
        for n in range(REQUESTS):
            await alice.publish(f"{R}/request/alice/op", b"%d" % n)
            assert (await manager.message())[1] == b"%d" % n
            await manager.publish(f"{R}/response/alice/cli", b"%d" % n)
            assert (await alice.message())[1] == b"%d" % n
            if n % 50 == 10:
                again = await Raw.connect(broker.port, "alice", client_id=f"again{n}")
                assert again.code == 0
                await manager.publish(f"{R}/node/n1/assignment", b"%d" % n, retain=True)
        for task in others:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        late = await Raw.connect(broker.port, "n1")
        assert late.code in (0, 3)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < 64 * 1024 * 1024


async def test_the_use_of_the_limits_is_shown(tmp_path: Path) -> None:
    use = tmp_path / "private" / USE_FILE
    async with broker_in(tmp_path) as broker:
        await until(use.exists)
        use.unlink()
        alice = await Raw.connect(broker.port, "alice")
        await alice.subscribe(f"{R}/status/#")
        await until(use.exists)
        rows = json.loads(use.read_bytes())["accounts"]
        assert [(row["account"], row["connections"], row["filters"]) for row in rows] == [("alice", 1, 1)]
    (tmp_path / "private").rename(tmp_path / "broker")
    shown = await asyncio.to_thread(limits_of, tmp_path)
    assert "account_filters" in shown
    assert "alice" in shown
    assert "topic_levels" in await asyncio.to_thread(limits_of, tmp_path / "other")


def limits_of(state: Path) -> str:
    """What `busbar broker limits` prints."""
    command = [sys.executable, "-m", "busbar.cli.app", "broker", "limits", "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=bound(30)).stdout
