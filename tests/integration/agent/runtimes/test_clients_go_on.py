"""The page's clients in Python, on three real workers of nats of which theirs is killed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

import pytest
from busbar.agent.runtimes.nats import ROUTES

from tests.brokers import lacking
from tests.endless import AFTER, Endless, running
from tests.integration.agent.runtimes.test_nats import Home, Worker, home

__all__ = ["home"]
pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]
LISTENERS = {"mqtt": {}, "nats": {"type": "nats"}, "routes": {"type": "cluster"}}


async def three(home: Home) -> list[Worker]:
    """A group of three workers, up, each of which knows the others."""
    workers = [home.worker(f"web-{number}", listeners=LISTENERS) for number in (1, 2, 3)]
    for each in workers:
        each.with_peers(*(other.as_peer() for other in workers if other is not each))
    await asyncio.gather(*(each.start() for each in workers))
    assert all((each.folder / ROUTES).exists() for each in workers)
    return workers


def urls(workers: list[Worker], name: str) -> list[str]:
    """As `busbar endpoints --listener NAME` prints them."""
    return [url for each in workers for own, url in each.as_peer().listeners.items() if own == name]


async def test_each_client_of_the_page_goes_on_when_its_worker_is_killed(home: Home) -> None:
    for module in ("aiomqtt", "nats"):
        if importlib.util.find_spec(module) is None:
            lacking(f"the package {module} is not installed")
    workers = await three(home)
    mqtt, nats = urls(workers, "mqtt"), urls(workers, "nats")
    python = [sys.executable]
    with running(
        Endless(home.root, "on_paho.py", python, mqtt),
        Endless(home.root, "on_aiomqtt.py", python, mqtt),
        Endless(home.root, "on_nats.py", python, nats),
    ) as programs:
        for each in programs:
            await asyncio.to_thread(each.hears, 5)
        await workers[0].kill()
        sent = [each.last() for each in programs]
        for each, last in zip(programs, sent, strict=True):
            await asyncio.to_thread(each.hears, AFTER, last)
        for each in programs[:2]:
            await asyncio.to_thread(each.lost_nothing)
