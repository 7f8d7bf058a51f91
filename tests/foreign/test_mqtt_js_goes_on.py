"""mqtt.js with the program of docs/howto/load-balancing.md, on three workers of which its own is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.endless import AFTER, Endless, running
from tests.foreign import clients
from tests.integration.agent.runtimes.test_clients_go_on import three, urls
from tests.integration.agent.runtimes.test_nats import Home, home

__all__ = ["home"]
pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]


async def test_mqtt_js_goes_on_when_its_worker_is_killed(home: Home) -> None:
    modules = clients.need("mqtt")
    (home.root / "node_modules").symlink_to(Path(modules) / "node_modules")
    workers = await three(home)
    with running(Endless(home.root, "on_mqtt_js.mjs", ["node"], urls(workers, "mqtt"))) as (program,):
        await asyncio.to_thread(program.hears, 5)
        await workers[0].kill()
        await asyncio.to_thread(program.hears, AFTER, program.last())
        await asyncio.to_thread(program.lost_nothing)
