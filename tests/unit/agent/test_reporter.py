"""A node's reports: each change is told, and many changes by one report."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest
from busbar.agent.reporting.reporter import COALESCE_S, NodeSnapshot, Reporter
from busbar.bus.connection.link import Message
from busbar.bus.messages import ReportedWorker
from busbar.bus.states import WorkerState
from busbar.bus.testing import FakeClock, MemoryBroker, settle
from busbar.bus.topics import Topics

TOPICS = Topics("lab")


@pytest.mark.parametrize("changes", [1, 8, 50])
async def test_changes_within_the_pause_are_one_report_and_the_last_is_told(changes: int) -> None:
    clock, broker, reports = FakeClock(), MemoryBroker(), list[int]()
    workers = [ReportedWorker("web-1", WorkerState.BACKOFF, restarts=0)]

    def received(message: Message) -> None:
        reports.append(json.loads(message.payload)["workers"][0]["restarts"])

    manager, link = broker.link("manager"), broker.link("n1")
    manager.subscribe(TOPICS.node("n1", "reported"), received)
    reporter = Reporter(link, TOPICS, "n1", "b1", clock, Random(1), lambda: NodeSnapshot(list(workers)))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (manager.run(), link.run(), reporter.run_reports())]
        await settle()
        await clock.advance(1.0)
        reports.clear()
        for number in range(1, changes + 1):
            workers[0] = ReportedWorker("web-1", WorkerState.BACKOFF, restarts=number)
            reporter.changed()
            await clock.advance(COALESCE_S / 100)
        assert reports == [1]
        await clock.advance(COALESCE_S)
        assert reports == sorted({1, changes})
        for task in tasks:
            task.cancel()
