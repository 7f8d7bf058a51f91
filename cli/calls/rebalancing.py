"""A rebalance planned and ordered: what is shown, asked and waited for."""

from __future__ import annotations

import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import typer
from busbar.bus.backoff import Backoff
from busbar.bus.client import goals
from busbar.bus.client.client import BusClient
from busbar.bus.clock import SystemClock
from busbar.bus.errors import BusError
from busbar.bus.params import Rebalanced, RebalancePlan
from busbar.bus.plans import Relocation

from ..errors import CliError, ExitCode
from ..printing import output
from . import wait

ATTEMPTS: Final = 5
"""How often the same moves are planned again when the realm has changed meanwhile."""
PAUSE: Final = Backoff(base=0.1, cap=2.0)


@dataclass(frozen=True, slots=True)
class Ordering:
    """How moves are planned, and a plan ordered."""

    plan: Callable[[], Awaitable[RebalancePlan]]
    order: Callable[[RebalancePlan], Awaitable[Rebalanced]]


def moves_of(plan: RebalancePlan) -> dict[str, str]:
    """By worker the node that it would move to (oids)."""
    return {move.worker_oid: move.node_oid for move in plan.moves}


def show(plan: RebalancePlan) -> None:
    """Print a plan for people."""
    if plan.moves:
        rows = [_cells(move) for move in plan.moves]
        output.print_table(["", "worker", "from", "to", "reason"], rows)
    for refused in plan.refused:
        output.note(f"left alone: {refused.detail}")
    if plan.under_way:
        output.note(f"on the way by earlier orders: {', '.join(plan.under_way)}")
    if plan.hold:
        output.note(f"nothing is moved: {plan.hold}")
    if not plan.complete:
        output.note("! there are more moves than are looked for at once: rebalance again then")
    for text in plan.misplaced:
        output.note(f"! {text}; no other node takes it")
    if is_balanced(plan) and not plan.hold:
        output.say("nothing can be moved" if plan.misplaced else "balanced")


def is_balanced(plan: RebalancePlan) -> bool:
    """Whether nothing is to be ordered."""
    return not plan.moves


def _cells(move: Relocation) -> list[str]:
    reason = f"{move.reason}; waits: {move.waits}" if move.waits else move.reason
    return [str(move.order or ""), move.worker, move.before, move.node, reason]


def ask(count: int, yes: bool) -> None:
    """Raises CliError: the answer was no, or there is nobody to ask."""
    if yes:
        return
    what = f"move {count} worker{'s'[count == 1 :]}, one of a group at a time"
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        raise CliError(f"say --yes to {what}", ExitCode.CONFLICT, "not_confirmed")
    if not typer.confirm(f"{what}?", err=True):
        raise CliError("nothing was changed", ExitCode.FAILED, "not_confirmed")


async def act(bus: BusClient, by: Ordering, plan: RebalancePlan, timeout: float | None) -> None:
    """Order what was planned; with `timeout` (seconds) wait until it is done.

    Raises:
        BusError: `version_conflict`: other moves than were shown would do now.
        WaitTimeoutError, GoalLostError: as `wait.until`.
    """
    done = await _order(by, plan)
    if timeout is not None:
        clock = SystemClock()
        ends = clock.monotonic() + timeout
        for move in done.moves:
            cluster, _, name = move.worker.partition("/")
            async with bus.watch_statuses(kind="worker", cluster=cluster, name=name) as watch:
                goal, left = goals.moved(move.version, move.node), max(ends - clock.monotonic(), 0.1)
                await wait.until(watch, goal, f"worker '{move.worker}'", left, oid=move.worker_oid)
        if len(done.moves) < len(plan.moves):
            output.note("the broker takes no longer answer: 'busbar rebalance' shows what is on the way")
    count = len(plan.moves)
    moved = "moved" if timeout is not None and done.moves else "to be moved"
    output.done(done, f"{count} worker{'s'[count == 1 :]} {moved}")


async def _order(by: Ordering, plan: RebalancePlan) -> Rebalanced:
    for attempt in range(ATTEMPTS):
        try:
            return await by.order(plan)
        except BusError as error:
            if error.code != "version_conflict" or attempt == ATTEMPTS - 1:
                raise
            await SystemClock().sleep(PAUSE.delay(attempt + 1, random.random()))
            again = await by.plan()
            if moves_of(again) != moves_of(plan):
                raise
            plan = again
    raise AssertionError("unreachable")
