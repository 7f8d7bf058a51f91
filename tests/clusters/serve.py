"""The benchmarks' echo and manager with a user and a password: `python -m tests.clusters.serve KIND JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics

from tests.bench import serve
from tests.bench.serve import Words, tell
from tests.bench.setting import ROOT, Child
from tests.pace import bound


def options(spec: dict[str, Any]) -> ConnectOptions:
    """The one broker node that this process is told of."""
    user = spec["username"]
    return ConnectOptions(port=spec["port"], username=user, password=spec["password"], client_id=f"m-{user}")


async def echo(spec: dict[str, Any], words: Words) -> None:
    """The bare responder."""
    topics = Topics(spec["realm"])
    link = MqttLink(options(spec), clock=SystemClock(), random=Random(1))
    reply = topics.response(spec["user"], spec["inbox"])

    def answer(message: Message) -> None:
        link.post(reply, message.payload)

    link.subscribe(topics.all_requests(), answer)
    task = asyncio.create_task(link.run())
    await link.wait_connected(bound(60))
    tell("ready")
    await task


async def manager(spec: dict[str, Any], words: Words) -> None:
    """The manager as it is, with the flood limits raised."""
    from busbar.manager.service import ManagerConfig, run

    bounds: dict[str, Any] = {"rate": 1e6, "burst": 1_000_000, "in_flight": 10_000}
    config = ManagerConfig(
        Path(spec["state"]), spec["realm"], options(spec), principals={"bench": "owner"}, **bounds
    )
    await run(config, lambda: tell("ready"))


@asynccontextmanager
async def child(at: Path, kind: str, **spec: Any) -> AsyncIterator[Child]:
    """One of these in a process of its own, ready to serve."""
    log = at / f"{kind}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.clusters.serve", kind, json.dumps(spec),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=output, cwd=ROOT,
        )  # fmt: skip
    made = Child(process, log)
    try:
        await made.read(90)
        yield made
    finally:
        await made.stop()


if __name__ == "__main__":
    serve.SERVICES.update(echo=echo, manager=manager)
    serve.main()
