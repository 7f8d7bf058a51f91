"""The processes of the benchmarks: `python -m tests.bench.serve KIND JSON`. They end with their input.

With BUSBAR_BENCH_PROFILE naming a folder, each leaves a profile there (for `python -m pstats`).
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics

Words = asyncio.Queue[str]
Service = Callable[[dict[str, Any], Words], Awaitable[None]]


def tell(value: Any) -> None:
    """One answer to the parent."""
    print(json.dumps(value), flush=True)


async def echo(spec: dict[str, Any], words: Words) -> None:
    """The bare responder: sends every request's bytes back, padded to `size` bytes."""
    from busbar.bus.clock import SystemClock

    topics = Topics(spec["realm"])
    options = ConnectOptions(port=spec["port"], client_id="echo")
    link = MqttLink(options, clock=SystemClock(), random=Random(1))
    reply, padding = topics.response(spec["user"], spec["inbox"]), b" " * spec.get("size", 0)

    def answer(message: Message) -> None:
        link.post(reply, message.payload + padding[len(message.payload) :])

    link.subscribe(topics.all_requests(), answer)
    task = asyncio.create_task(link.run())
    await link.wait_connected(30)
    tell("ready")
    await task


async def manager(spec: dict[str, Any], words: Words) -> None:
    """The manager as it is, with the flood limits raised."""
    from busbar.manager.service import ManagerConfig, run

    config = ManagerConfig(
        state=Path(spec["state"]),
        realm=spec.get("realm", "bench"),
        connect=ConnectOptions(port=spec["port"]),
        heartbeat_s=spec.get("heartbeat_s", 5.0),
        principals={"bench": "owner"},
        rate=1e6,
        burst=1_000_000,
        in_flight=10_000,
    )
    await run(config, lambda: tell("ready"))


async def light(spec: dict[str, Any], words: Words) -> None:
    """Light agents, each with a connection of its own; they connect when the parent says `go`."""
    from tests.bench.light import Crowd

    crowd = Crowd(spec["port"], Topics(spec["realm"]), spec["nodes"])
    tell("ready")
    while True:
        match await words.get():
            case "go":
                crowd.connect()
                tell("going")
            case "leave":
                await crowd.leave()
                tell("left")


async def beats(spec: dict[str, Any], words: Words) -> None:
    """Heartbeats of many nodes over one connection; `go`, then `check` for a round that must be answered."""
    from tests.bench.light import Chorus

    chorus = Chorus(spec["port"], Topics(spec["realm"]), spec["nodes"], spec["interval_s"])
    await chorus.open()
    tell("ready")
    while True:
        match await words.get():
            case "go":
                chorus.start()
                tell("going")
            case "sent":
                tell({"sent": chorus.sent, "late_s": chorus.late_s})
            case "check":
                tell({"answered": await chorus.check()})


SERVICES: dict[str, Service] = {"echo": echo, "manager": manager, "light": light, "beats": beats}


async def life(kind: str, spec: dict[str, Any]) -> None:
    loop, words = asyncio.get_running_loop(), Words()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    service = asyncio.ensure_future(SERVICES[kind](spec, words))
    loop.add_signal_handler(signal.SIGTERM, service.cancel)

    async def listen() -> None:
        while line := await reader.readline():
            words.put_nowait(line.decode().strip())
        service.cancel()

    listening = asyncio.create_task(listen())
    try:
        await service
    except asyncio.CancelledError:
        pass
    finally:
        listening.cancel()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    kind, spec = sys.argv[1], json.loads(sys.argv[2])
    where = os.environ.get("BUSBAR_BENCH_PROFILE")
    if not where:
        asyncio.run(life(kind, spec))
        return
    profile = cProfile.Profile()
    try:
        profile.runcall(asyncio.run, life(kind, spec))
    finally:
        profile.dump_stats(Path(where) / f"{kind}-{os.getpid()}.pstats")


if __name__ == "__main__":
    main()
