"""Bugs planted on purpose, one for each invariant: the net must catch every one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

from busbar.agent.planner import plan as agent_plan
from busbar.agent.workers import ownership
from busbar.agent.workers.process_runner import ProcessRunner
from busbar.bus.errors import BusError
from busbar.bus.states import NodeStatus
from busbar.manager.api.requests import ChangeJob
from busbar.manager.control.apply import apply_all
from busbar.manager.control.monitor import Monitor
from busbar.manager.ingest import report_diff
from busbar.manager.planner import liveness, scaling
from busbar.manager.publish.publisher import Publisher
from busbar.manager.store.tx import Tx
from sqlite_utils import Database

from tests.simulation.activity import VACUOUS


def _forget_a_commit() -> list[tuple[Any, str, Any]]:
    """D: now and then a group of writes is answered, and was never committed."""
    execute, commits = Database.execute, count(1)

    def forgetful(self: Database, sql: str, *more: Any) -> Any:
        if sql == "COMMIT" and next(commits) % 11 == 0:
            sql = "ROLLBACK"
        return execute(self, sql, *more)

    return [(Database, "execute", forgetful)]


def _forget_requests() -> list[tuple[Any, str, Any]]:
    """A: a repeated request runs again."""
    return [
        (Tx, "stored_reply", lambda self, caller, request_id: None),
        (Tx, "store_reply", lambda self, *values: None),
    ]


def _adopt_nothing() -> list[tuple[Any, str, Any]]:
    """B: an agent that starts again does not find its workers."""
    return [(ownership, "classify", lambda *values: ownership.Ownership((), (), ()))]


def _move_at_once() -> list[tuple[Any, str, Any]]:
    """K: the workers of a silent node are moved without waiting."""
    return [(scaling, "_eviction_blocker", lambda group, worker: None)]


def _stop_nothing() -> list[tuple[Any, str, Any]]:
    """O: a stop is said to be done."""

    async def stop(self: ProcessRunner, instance: Any) -> None:
        instance.process = None

    return [(ProcessRunner, "stop", stop)]


def _say_nothing_again() -> list[tuple[Any, str, Any]]:
    """C: a new connection does not have everything said anew."""
    return [(Publisher, "publish_all", lambda self: None)]


def _apply_anything() -> list[tuple[Any, str, Any]]:
    """M: an agent applies whatever comes."""
    return [
        (agent_plan, "is_redelivery", lambda applied, new: False),
        (agent_plan, "refusal", lambda applied, new, *, adopt_store: None),
    ]


def _trust_everybody() -> list[tuple[Any, str, Any]]:
    """H: silence is taken for health."""
    return [(liveness, "_target", lambda node, timing, now: NodeStatus.ONLINE)]


def _die_of_an_error() -> list[tuple[Any, str, Any]]:
    """L: the monitor does not catch what its writes raise."""

    async def write(self: Monitor, actions: Any, snapshot: Any) -> Any:
        heard = partial(self._heard_since, snapshot)
        return await self._store.write(lambda tx: apply_all(tx, actions, self._manager_id, heard))

    async def run(self: Monitor) -> None:
        while True:
            await self._round()
            await self._wait()

    return [(Monitor, "_write", write), (Monitor, "run", run)]


def _remember_what_was() -> list[tuple[Any, str, Any]]:
    """T: a worker that is ready again keeps the reason why it was not."""
    return [(report_diff, "_reason", lambda row, seen, state: seen.reason or row.reason)]


def _refuse_every_change() -> list[tuple[Any, str, Any]]:
    """V: every change has expired when it is to run, and so nothing happens at all."""

    def run(self: ChangeJob, tx: Tx) -> bytes | None:
        raise BusError("expired", "the request expired before it could run")

    return [(ChangeJob, "run", run)]


PLANTS: dict[str, Callable[[], list[tuple[Any, str, Any]]]] = {
    "D": _forget_a_commit,
    "A": _forget_requests,
    "B": _adopt_nothing,
    "K": _move_at_once,
    "O": _stop_nothing,
    "C": _say_nothing_again,
    "M": _apply_anything,
    "H": _trust_everybody,
    "L": _die_of_an_error,
    "T": _remember_what_was,
    VACUOUS: _refuse_every_change,
}


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """With the bug that breaks this invariant; None plants nothing."""
    patches = PLANTS[name]() if name else []
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    try:
        for owner, attribute, value in patches:
            setattr(owner, attribute, value)
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
