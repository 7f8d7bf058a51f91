"""Runs `busbar` with failpoints: `python -m tests.faults.failing POINT[:VALUE]… -- manager …`.

The product itself has no failpoints: they are patched in here, in this process only.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

from busbar.bus.connection.link import Done
from busbar.bus.errors import BusOfflineError

BEFORE, AFTER, REPLY = "fp-before-", "fp-after-", "fp-reply-"
"""A request with this id prefix kills the manager before its commit, after it, or after its reply."""


def die() -> None:
    """As if killed from outside."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def commits(_value: str) -> None:
    """The manager dies around the commit of a request with such an id."""
    from busbar.manager.store import engine

    original = engine.Store._finish

    def finish(self: Any, group: Any) -> None:
        ids = [job.cause.request_id or "" for job in group.jobs]

        def fault(point: str) -> None:
            wanted = {"before_commit": BEFORE, "after_commit": AFTER}.get(point, "-")
            if any(each.startswith(wanted) for each in ids):
                die()

        self.fault = fault
        original(self, group)

    engine.Store._finish = finish  # type: ignore[method-assign]


def reply(_value: str) -> None:
    """The manager dies once the broker has its reply, before the event is sent."""
    from busbar.bus.connection.mqtt_link import MqttLink

    original = MqttLink.send

    def send(self: Any, topic: str, payload: bytes, done: Done, **more: Any) -> None:
        marked = REPLY.encode() in payload
        if marked and "/event/" in topic:
            return

        def landed(error: BusOfflineError | None) -> None:
            if marked and "/response/" in topic:
                die()
            done(error)

        original(self, topic, payload, landed, **more)

    MqttLink.send = send  # type: ignore[method-assign]


def step(value: str) -> None:
    """The manager dies at the commit of such an action of the plan: `replace:before_commit`."""
    from busbar.manager.control.apply import Batch
    from busbar.manager.store import engine

    action, _, wanted = value.partition(":")
    original, finish = getattr(Batch, f"_{action}"), engine.Store._finish
    applied: list[bool] = []

    def apply(self: Any, planned: Any) -> None:
        before = _size(self._tx.changes)
        original(self, planned)
        if _size(self._tx.changes) > before:
            applied.append(True)

    def commit(self: Any, group: Any) -> None:
        self.fault = lambda point: die() if applied and point == wanted else None
        finish(self, group)

    setattr(Batch, f"_{action}", apply)
    engine.Store._finish = commit  # type: ignore[method-assign]


def _size(changes: Any) -> int:
    return len(changes.workers) + len(changes.groups) + len(changes.outbox)


def migration(_value: str) -> None:
    """The manager has one more migration, and dies during it."""
    from busbar.manager.store.migrations import migrations

    @migrations()
    def another_step(db: Any) -> None:
        db.execute("ALTER TABLE clusters ADD COLUMN half TEXT")
        db.execute("UPDATE clusters SET half = name")
        die()


def audit(value: str) -> None:
    """The manager audits the retained topics at this interval, seconds."""
    from busbar.manager.publish.retained_audit import RetainedAudit

    original = RetainedAudit.__init__
    RetainedAudit.__init__ = partialmethod(original, interval=float(value))  # type: ignore[method-assign,assignment]


def clock(value: str) -> None:
    """The wall clock is off by the seconds in a file."""
    from busbar.bus.clock import SystemClock

    file = Path(value)
    SystemClock.time_ns = lambda self: time.time_ns() + int(file.read_text()) * 10**9  # type: ignore[method-assign]


def fork(value: str) -> None:
    """The agent dies after the fork of a worker of that cluster, before it stores the pid."""
    from busbar.agent.processes.process import WorkerProcesses

    original = WorkerProcesses.spawn

    def spawn(self: Any, spec: Any) -> Any:
        process = original(self, spec)
        if spec.marks.get("BUSBAR_CLUSTER") == value:
            die()
        return process

    WorkerProcesses.spawn = spawn  # type: ignore[method-assign]


POINTS: dict[str, Callable[[str], None]] = {
    each.__name__: each for each in (commits, reply, step, migration, audit, clock, fork)
}


def command(*points: str) -> list[str]:
    """The command of a test, without `busbar`'s own arguments."""
    return [sys.executable, "-m", "tests.faults.failing", *points, "--"]


def main() -> None:
    end = sys.argv.index("--")
    for point in sys.argv[1:end]:
        name, _, value = point.partition(":")
        POINTS[name](value)
    sys.argv = ["busbar", *sys.argv[end + 1 :]]
    from busbar.cli.app import main as busbar

    busbar()


if __name__ == "__main__":
    main()
