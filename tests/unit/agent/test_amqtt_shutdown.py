"""The amqtt router ends in time, whatever its shutdown does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from busbar.agent.routers import amqtt_router

from tests.pace import bound


class Stuck:
    """amqtt's shutdown awaits plugins, listeners and connections, any of which may swallow a cancellation."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def shutdown(self) -> None:
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                continue


class Failing:
    async def shutdown(self) -> None:
        raise RuntimeError("a plugin failed")


@pytest.mark.fault(33, "O")
@pytest.mark.parametrize("kind", [Stuck, Failing])
async def test_a_shutdown_that_does_not_end_is_not_waited_for(
    kind: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(amqtt_router, "SHUTDOWN_S", 0.01)
    broker = kind()
    try:
        await asyncio.wait_for(asyncio.shield(amqtt_router.shut_down(broker)), bound(5))
    finally:
        if isinstance(broker, Stuck):
            broker.free.set()
    assert "shutdown cut short" in capsys.readouterr().out
