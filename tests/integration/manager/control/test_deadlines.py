"""The monitor judges when a limit falls due, not at the next second after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.watching import Agent, Watch, fleet, watching

BEAT = 0.5
"""Heartbeat interval in seconds: so short that the second between two looks would be two of them."""
STEP = 0.01


async def _pass_time(watch: Watch, seconds: float, *agents: Agent, until: Callable[[], Any]) -> float:
    """Small steps until it is so; these agents go on with their heartbeats. Returns the seconds it took."""
    began, beat = watch.clock.monotonic(), watch.clock.monotonic()
    while watch.clock.monotonic() - began < seconds:
        await watch.clock.advance(STEP)
        if watch.clock.monotonic() - beat >= BEAT:
            beat += BEAT
            for agent in agents:
                agent.beat()
        await watch.rest()
        if until():
            return watch.clock.monotonic() - began
    return seconds


@pytest.mark.fault(25, "H")
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.8])
async def test_a_silent_node_is_late_at_three_heartbeats_and_lost_at_six(
    tmp_path: Path, phase: float
) -> None:
    async with watching(tmp_path, heartbeat=BEAT) as watch:
        silent, other = await fleet(watch, 2, scale=2, lost_after=4.0)
        await _pass_time(watch, 13 * BEAT + phase, silent, other, until=lambda: False)
        silent.beat()
        other.beat()
        await watch.rest()
        took = await _pass_time(watch, 10, other, until=lambda: watch.node("n1").status == "late")
        assert took / BEAT == pytest.approx(3, abs=3 * STEP / BEAT)
        took += await _pass_time(watch, 10, other, until=lambda: watch.node("n1").status == "lost")
        assert took / BEAT == pytest.approx(6, abs=3 * STEP / BEAT)
        took += await _pass_time(watch, 10, other, until=lambda: watch.states()["web-1"] == "STARTING n2")
        assert took == pytest.approx(4.0, abs=5 * STEP)


async def test_a_start_deadline_is_applied_when_it_is_due(tmp_path: Path) -> None:
    async with watching(tmp_path, heartbeat=BEAT) as watch:
        (agent,) = await fleet(watch, 1, scale=1, obey=False, start_deadline=3.3)
        took = await _pass_time(watch, 10, agent, until=lambda: watch.cluster().status == "ERROR")
        assert took == pytest.approx(3.3, abs=5 * STEP)


async def test_a_heard_fleet_needs_no_extra_passes(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        await watch.pass_time(60, agent)
        looks = 0
        step = watch.monitor.step

        async def counted() -> bool:
            nonlocal looks
            looks += 1
            return await step()

        watch.monitor.step = counted  # type: ignore[method-assign]
        await watch.pass_time(20, agent)
        assert 19 <= looks <= 22
