"""Pairs the nodes of `busbar up` with its manager, and waits until they are online."""

from __future__ import annotations

import asyncio

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Message
from busbar.bus.decode import parse
from busbar.bus.errors import BusError

from ..connect import Session, connected
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
            async with connected(plan.connect(ADMIN_USER), timeout) as session:
                return await _pair(session, plan, timeout)
        except CliError as error:
            if error.exit_code != ExitCode.UNREACHABLE:
                raise
        await clock.sleep(RETRY_S)


async def _pair(session: Session, plan: Plan, timeout: float) -> dict[str, str]:
    states = dict.fromkeys(plan.nodes, "offline")
    changed = asyncio.Event()

    def on_status(message: Message) -> None:
        status = session.topics.parse_status(message.topic)
        if status is None or status.name not in states or not message.payload:
            return
        states[status.name] = _state(message.payload) or states[status.name]
        changed.set()

    session.link.subscribe(session.topics.status("_", "node", "+"), on_status)
    await asyncio.gather(*(_pair_one(session, node) for node in plan.nodes))
    try:
        async with asyncio.timeout(timeout):
            while any(state != "online" for state in states.values()):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        pass
    return states


async def _pair_one(session: Session, node: str) -> None:
    try:
        await session.call("pair_node", node={"name": node})
    except BusError as error:
        if error.code != "already_exists":
            raise


def _state(payload: bytes) -> str | None:
    try:
        state = parse(payload).get("status")
    except BusError:
        return None
    return state if isinstance(state, str) else None
