"""Routers that are gone for good are removed from their cluster; what fails is told, and tried again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from busbar.agent.planner.lifecycle import Phase, Worker
from busbar.agent.planner.members import LOOKS
from busbar.agent.workers import departed
from busbar.agent.workers.departed import Departed
from busbar.agent.workers.nats_request import NoAnswerError
from busbar.agent.workers.process_runner import Instance, ProcessRunner
from busbar.agent.workers.registry import WorkerRegistry

GONE = "web-3.0000cccc"


@dataclass
class Cluster:
    """As the worker that leads it is asked. `refusals`: what the next removals are answered."""

    away: set[str] = field(default_factory=lambda: {GONE})
    refusals: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    async def gone(self, members: Collection[str]) -> set[str]:
        return set(self.away)

    async def remove(self, name: str) -> None:
        self.tried.append(name)
        if self.refusals:
            raise NoAnswerError(self.refusals.pop(0))
        self.away.discard(name)


class Node:
    """An agent with one worker, which leads."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = Instance(Worker("oid-a", "web-1", "edge", phase=Phase.RUNNING))
        self.told: list[str | None] = []
        state = SimpleNamespace(worker_folder=lambda oid: Path("/nowhere"))
        runner = SimpleNamespace(members={"edge/web": ["oid-a", "oid-b"]}, state=state)
        registry = SimpleNamespace(all=lambda: [self.instance], update=self.update)
        monkeypatch.setattr(departed, "membership_of", lambda record, folder: cluster)
        self.departed = Departed(cast(WorkerRegistry, registry), cast(ProcessRunner, runner))

    def update(self, instance: Any, worker: Worker) -> None:
        self.told.append(worker.members_error)
        instance.worker = worker

    async def looks(self, times: int) -> None:
        for _ in range(times):
            await self.departed.look()


@pytest.mark.parametrize("refusals", [1, 7])
async def test_a_removal_that_fails_is_told_and_tried_again_with_a_pause(
    refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(refusals=["no leader"] * refusals)
    node = Node(cluster, monkeypatch)
    await node.looks(LOOKS - 1)
    assert cluster.tried == [], "an assignment may be on its way"
    for failures in range(1, refusals + 1):
        await node.looks(1)
        assert cluster.tried == [GONE] * failures
        told = node.instance.worker.members_error
        assert told == f"{GONE} is gone for good, and not removed from its cluster: no leader"
        await node.looks(LOOKS - 1)
        assert cluster.tried == [GONE] * failures, "not with every look"
        assert node.instance.worker.members_error == told, "it still holds"
    await node.looks(1)
    assert cluster.away == set() and node.instance.worker.members_error is None
    assert node.told == [told, None], "a report each time that something is new"
    await node.looks(2 * LOOKS)
    assert len(cluster.tried) == refusals + 1


async def test_one_that_comes_back_is_no_longer_told_and_not_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(refusals=["no leader"])
    node = Node(cluster, monkeypatch)
    await node.looks(LOOKS)
    assert node.instance.worker.members_error is not None
    cluster.away.clear()
    await node.looks(1)
    assert node.instance.worker.members_error is None
    cluster.away.add(GONE)
    await node.looks(LOOKS - 1)
    assert cluster.tried == [GONE], "it is counted anew"


async def test_another_member_s_removal_does_not_wait_for_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(away={GONE, "web-4.0000dddd"}, refusals=["no leader"])
    node = Node(cluster, monkeypatch)
    await node.looks(LOOKS)
    assert cluster.tried == [GONE, "web-4.0000dddd"] and cluster.away == {GONE}
    assert "no leader" in str(node.instance.worker.members_error)
    await node.looks(LOOKS)
    assert cluster.away == set() and node.instance.worker.members_error is None
