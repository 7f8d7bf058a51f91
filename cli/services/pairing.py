"""Pairs the nodes of `busbar up` with its manager, and waits until they are online."""

from __future__ import annotations

import asyncio

from busbar.bus.client.client import BusClient
from busbar.bus.clock import Clock
from busbar.bus.errors import BusError

from ..calls.connect import connected
from ..errors import CliError, ExitCode
from .up_plan import ADMIN_USER, Plan

RETRY_S = 0.2


async def pair(plan: Plan, clock: Clock, timeout: float) -> dict[str, str]:
    """Pair new nodes, and return each node's state once all are online, or after `timeout` seconds.

    Raises:
        CliError, BusError: the broker rejects us, or the manager refuses.
    """
    while True:
        try:
            async with connected(plan.connect(ADMIN_USER), timeout) as bus:
                return await _pair(bus, plan, timeout)
        except CliError as error:
            if error.exit_code != ExitCode.UNREACHABLE:
                raise
        await clock.sleep(RETRY_S)


async def _pair(bus: BusClient, plan: Plan, timeout: float) -> dict[str, str]:
    states = dict.fromkeys(plan.nodes, "offline")
    async with bus.watch_statuses(kind="node") as watch:
        await asyncio.gather(*(_pair_one(bus, node) for node in plan.nodes))
        try:
            async with asyncio.timeout(timeout):
                while any(state != "online" for state in states.values()):
                    update = await anext(watch)
                    if update.name in states and update.status is not None:
                        states[update.name] = update.status.status
        except TimeoutError:
            pass
    return states


async def _pair_one(bus: BusClient, node: str) -> None:
    try:
        await bus.pair_node(name=node)
    except BusError as error:
        if error.code != "already_exists":
            raise
